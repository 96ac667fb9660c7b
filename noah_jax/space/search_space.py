"""The search space: which genomes exist, and how they vary; genomes.py says what a genome is.

NumPy only, so that a search can be studied without an accelerator.
"""

import dataclasses
from collections.abc import Mapping

import numpy as np

from noah_jax.space.budget import Budget
from noah_jax.space.genomes import ALL_MODULES, MODULES, count_params

OPERATORS = ("block", "paper")

_MOVES = 500  # changes of a size or depth, before a genome counts as impossible to fit


@dataclasses.dataclass(frozen=True)
class SearchSpace:
    """All genomes in which each module has sizes from `sizes` in the first `depth` blocks.

    Every module has a depth of its own.

    Attributes:
      sizes: module → the sizes to choose from; empty or missing = the module is not used. A 0 among
        them lets single blocks go without the module, so that its blocks need not be contiguous.
      depths: how many of the first blocks a module may occupy (paper: 3, 6, 9, 12).
      blocks: number of blocks of the backbone.
      width: token width of the backbone, for counting parameters.

    Raises:
      ValueError: an unknown module, a negative size, or a depth that the backbone does not have.
    """

    sizes: Mapping[str, tuple[int, ...]]
    depths: tuple[int, ...]
    blocks: int
    width: int

    def __post_init__(self):
        problems = []
        if unknown := set(self.sizes) - set(ALL_MODULES):
            problems.append(f"unknown modules {sorted(unknown)}: expected some of {ALL_MODULES}")
        for name, sizes in self.sizes.items():
            if any(size < 0 for size in sizes):
                problems.append(f"sizes of {name} must not be negative: {tuple(sizes)}")
        if not self.depths or any(not 0 <= depth <= self.blocks for depth in self.depths):
            problems.append(f"depths {tuple(self.depths)} must lie in 0..{self.blocks} (blocks)")
        if problems:
            raise ValueError("; ".join(problems))

    @classmethod
    def single(cls, sizes: Mapping[str, int], blocks: int, width: int) -> "SearchSpace":
        """Makes the space of one genome: each module has its size (0 = absent) in every block."""
        return cls({name: (size,) for name, size in sizes.items()}, (blocks,), blocks, width)

    @property
    def modules(self) -> tuple[str, ...]:
        """The names of a genome's columns: NOAH's three, and any further up to the last in use."""
        used = [i for i, name in enumerate(ALL_MODULES, 1) if any(self.sizes.get(name, ()))]
        return ALL_MODULES[: max(used + [len(MODULES)])]

    @property
    def max_sizes(self) -> dict[str, int]:
        """The size at which each module's parameters must exist; 0 = it is not used."""
        return {name: max(self._choices(name)) for name in ALL_MODULES}

    @property
    def num_genomes(self) -> int:
        """The number of distinct genomes, an exact Python int that can be huge."""
        total = 1
        for name in self.modules:
            present = len(set(self._choices(name)) - {0})
            if 0 in self._choices(name):  # the largest depth includes the genomes of the others
                total *= (1 + present) ** max(self.depths)
            else:
                total *= sum(present**depth for depth in set(self.depths))
        return total

    def count(self, genome: np.ndarray) -> np.ndarray:
        """Counts parameters, int64 `[...]`; see `genomes.count_params`."""
        return count_params(genome, self.width)

    def smallest(self) -> np.ndarray:
        """The genome with the fewest parameters, int32 `[blocks, columns]`."""
        return self._alike(min, min(self.depths))

    def largest(self) -> np.ndarray:
        """The genome with the most parameters, int32 `[blocks, columns]`."""
        return self._alike(max, max(self.depths))

    def unreachable(self, budget: Budget) -> str:
        """Returns the message for a budget that no genome meets; empty if one may."""
        smallest, largest = int(self.count(self.smallest())), int(self.count(self.largest()))
        if smallest > budget.most:
            end, params = "smallest", smallest
        elif largest < budget.least:
            end, params = "largest", largest
        else:
            return ""
        return budget.refusal(
            f"no genome: the {end} of this search space has {params / 1e6:.4f} M parameters"
        )

    def sample(self, rng: np.random.Generator, n: int) -> np.ndarray:
        """Draws `n` independent genomes, int32 `[n, blocks, columns]`, uniformly.

        Every size is as likely as the others, and so is every depth.
        """
        return self._truncate(self._random_cells(rng, n), self._random_depths(rng, n))

    def sample_broad(self, rng: np.random.Generator, n: int) -> np.ndarray:
        """Draws `n` genomes, int32 `[n, blocks, columns]`, of very different kinds.

        Each module's sizes come from a random range of their own. A module that may be absent is
        left out of half of the genomes, but never are all modules left out. Sums of many equally
        likely sizes are all about alike. Here single modules, uniform sizes and all numbers of
        parameters occur.
        """
        genomes = self._random_cells(rng, n)
        choices = [self._choices(name) for name in self.modules]
        for column, sizes in enumerate(choices):
            levels = np.unique(sizes)
            low, high = np.sort(rng.integers(len(levels), size=(2, n, 1)), axis=0)
            genomes[..., column] = levels[rng.integers(low, high + 1, (n, self.blocks))]
        optional = np.array([0 in (*sizes, *self.depths) for sizes in choices])
        present = (rng.random((n, len(choices))) < 0.5) | ~optional
        if used := [column for column, sizes in enumerate(choices) if any(sizes)]:
            one = rng.choice(used, n)
            present[np.arange(n), one] |= ~present[:, used].any(axis=1)
        positive = [depth for depth in self.depths if depth] or [0]
        depths = rng.choice(positive, (n, 1, len(choices)))
        return self._truncate(genomes, np.where(present[:, None], depths, 0))

    def sample_spread(
        self, rng: np.random.Generator, n: int, least: int = 0, most: int | None = None
    ) -> np.ndarray:
        """Draws a genome from each of `n` equal parts of the range `least` to `most` parameters.

        Args:
          most: None = those of the largest genome.

        Returns:
          int32 `[n, blocks, columns]`, smallest first; fewer where parts have none, but at least
          one.
        """
        most = int(self.count(self.largest())) if most is None else most
        edges = np.linspace(least, most + 1, n + 1).astype(int)
        found = [
            self.repair(rng, genome, Budget(int(low), int(high) - 1))
            for genome, low, high in zip(
                self.sample_broad(rng, n), edges[:-1], edges[1:], strict=True
            )
        ]
        return np.stack([genome for genome in found if genome is not None] or [self.smallest()])

    def mutate(
        self,
        rng: np.random.Generator,
        genomes: np.ndarray,
        operators: str = "block",
        m_prob: float = 0.2,
        s_prob: float = 0.4,
    ) -> np.ndarray:
        """Makes changed copies of `genomes`, int32 `[n, blocks, columns]` (NOAH, section 3.3).

        "block": every size is drawn anew with probability `m_prob`, and every module's depth with
        `s_prob`. A module with a 0 among its sizes also appears or disappears as a whole, with
        `m_prob` / 2. Otherwise an absent module stays absent, or single modules would hardly ever
        have single modules as children.

        "paper": a module is touched with `m_prob`, and its depth is then drawn anew with `s_prob`.
        Sizes never change. Blocks are only added, with random sizes, or cut off.
        """
        n = len(genomes)
        old_depth = self._depth(genomes)  # [n 1 modules]
        redraw_depth = rng.random(old_depth.shape) < s_prob
        if operators == "paper":
            redraw_depth &= rng.random(old_depth.shape) < m_prob
        depth = np.where(redraw_depth, self._random_depths(rng, n), old_depth)
        redraw = ~self._covered(old_depth)
        stays = np.True_
        if operators == "block":
            redraw = redraw | (rng.random(genomes.shape) < m_prob)
            optional = np.array([0 in self._choices(name) for name in self.modules])
            if optional.any():
                was = genomes.any(axis=-2, keepdims=True)
                stays = (was ^ (rng.random(was.shape) < m_prob / 2)) | ~optional
                redraw = redraw | ~was
        children = np.where(redraw, self._random_cells(rng, n), genomes)
        return self._truncate(np.where(stays, children, 0), depth)

    def crossover(
        self,
        rng: np.random.Generator,
        mothers: np.ndarray,
        fathers: np.ndarray,
        operators: str = "block",
    ) -> np.ndarray:
        """Makes one child of each pair; all arrays are int32 `[n, blocks, columns]`.

        "block": a module's depth comes from one parent, the size in each block from either.
        "paper": whole columns come from either parent (NOAH, section 3.3).
        """
        depths = self._depth(mothers), self._depth(fathers)
        column = rng.random((len(mothers), 1, len(self.modules))) < 0.5
        if operators == "paper":
            return np.where(column, mothers, fathers)
        cell = rng.random((len(mothers), self.blocks, len(self.modules))) < 0.5
        of_mother, of_father = (self._covered(depth) for depth in depths)
        mothers_turn = np.where(of_mother & of_father, cell, of_mother)
        child = np.where(mothers_turn, mothers, fathers)
        return self._truncate(child, np.where(column, *depths))

    def repair(
        self, rng: np.random.Generator, genome: np.ndarray, budget: Budget
    ) -> np.ndarray | None:
        """Changes `genome`, int32 `[blocks, columns]`, until the budget admits it.

        Each move takes a random size one choice up or down, or a module's depth. Absent modules
        stay absent as long as others can grow.

        Returns:
          int32 `[blocks, columns]`, or None if no genome within the budget was reached.
        """
        for _ in range(_MOVES):
            params = self.count(genome)
            if budget.admits(params):
                return genome
            direction, present = -1 if params > budget.most else 1, genome.any(axis=0)
            moved = self._moves(genome, direction, present) or self._moves(genome, direction)
            if not moved:
                return None
            genome = moved[rng.integers(len(moved))]
        return None

    def _moves(self, genome, direction, columns=None):
        """Lists the genomes in which one size, or one module's depth, is one choice further.

        Args:
          direction: 1 = up, -1 = down.
          columns: bool `[columns]`, those that may change; None = all.
        """
        found = []
        for column, name in enumerate(self.modules):
            if columns is not None and not columns[column]:
                continue
            levels, depths = np.unique(self._choices(name)), np.unique(self.depths)
            gaps = levels[0] == 0
            depth = int(depths[-1] if gaps else self._depth(genome)[0, column])
            for block in range(depth):
                place = np.searchsorted(levels, genome[block, column]) + direction
                if 0 <= place < len(levels):
                    found.append(genome.copy())
                    found[-1][block, column] = levels[place]
            place = np.searchsorted(depths, depth) + direction
            if 0 <= place < len(depths) and not gaps:
                new = int(depths[place])
                found.append(genome.copy())
                found[-1][new:, column] = 0
                found[-1][depth:new, column] = levels[0]
        return found

    def _choices(self, name):
        return self.sizes.get(name) or (0,)

    def _alike(self, choose, depth):
        genome = np.zeros((self.blocks, len(self.modules)), np.int32)
        genome[:depth] = [choose(self._choices(name)) for name in self.modules]
        return genome

    def _random_cells(self, rng, n):
        cells = [rng.choice(self._choices(name), (n, self.blocks)) for name in self.modules]
        return np.stack(cells, axis=-1)

    def _random_depths(self, rng, n):
        return rng.choice(self.depths, (n, 1, len(self.modules)))

    def _depth(self, genomes):
        """The smallest of `depths` that holds a module's last block, `[..., 1, modules]`."""
        position = np.arange(1, self.blocks + 1)[:, None]
        last = np.where(genomes > 0, position, 0).max(axis=-2, keepdims=True)
        depths = np.unique(self.depths)
        return depths[np.minimum(np.searchsorted(depths, last), len(depths) - 1)]

    def _covered(self, depth):
        """Marks the cells within each module's depth, bool `[..., blocks, columns]`."""
        return np.arange(self.blocks)[:, None] < depth

    def _truncate(self, genomes, depth):
        return np.where(self._covered(depth), genomes, 0).astype(np.int32)
