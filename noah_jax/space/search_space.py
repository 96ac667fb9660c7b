"""The search space: which genomes exist, how they vary; see genomes.py for what they are.

NumPy only, so that a search can be studied without an accelerator.
"""

import dataclasses
from collections.abc import Mapping

import numpy as np

from noah_jax.space.budget import Budget
from noah_jax.space.genomes import ALL_MODULES, MODULES, count_noah, count_params

OPERATORS = ("block", "paper")

_MOVES = 500  # of single sizes, before a genome counts as impossible to fit


@dataclasses.dataclass(frozen=True)
class SearchSpace:
    """All genomes whose first `depth` blocks hold sizes from `sizes`, for a depth per module.

    Attributes:
      sizes: for each module the sizes to choose from; empty or missing = the module is not used. A
        0 among them leaves single blocks without it, so that what is there need not be contiguous.
      depths: how many of the first blocks a module may occupy (paper: 3, 6, 9, 12).
      blocks: blocks of the backbone.
      width: token width of the backbone, for counting parameters.
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
        """The space with one point: each module of the given size (0 = absent) in every block."""
        return cls({name: (size,) for name, size in sizes.items()}, (blocks,), blocks, width)

    @property
    def modules(self) -> tuple[str, ...]:
        """The names of a genome's columns: NOAH's modules, and all up to the last that is used."""
        used = [i for i, name in enumerate(ALL_MODULES, 1) if any(self.sizes.get(name, ()))]
        return ALL_MODULES[: max(used + [len(MODULES)])]

    @property
    def max_sizes(self) -> dict[str, int]:
        """The size at which each module's parameters must exist."""
        return {name: max(self._choices(name)) for name in ALL_MODULES}

    @property
    def num_genomes(self) -> int:
        """How many distinct genomes there are (an exact Python int, it can be huge)."""
        total = 1
        for name in self.modules:
            present = len(set(self._choices(name)) - {0})
            if 0 in self._choices(name):  # one depth's genomes hold those of all smaller ones
                total *= (1 + present) ** max(self.depths)
            else:
                total *= sum(present**depth for depth in set(self.depths))
        return total

    def count(self, genome: np.ndarray) -> np.ndarray:
        """See `count_params`."""
        return count_params(genome, self.width)

    def count_noah(self, genome: np.ndarray) -> np.ndarray:
        """See `genomes.count_noah`."""
        return count_noah(genome, self.width)

    def smallest(self) -> np.ndarray:
        """The genome with the fewest parameters, int32 `[blocks, columns]`."""
        return self._alike(min, min(self.depths))

    def largest(self) -> np.ndarray:
        """The genome with the most parameters, int32 `[blocks, columns]`."""
        return self._alike(max, max(self.depths))

    def sample(self, rng: np.random.Generator, n: int) -> np.ndarray:
        """`n` independent random genomes, int32 `[n, blocks, columns]`: each size and depth is as
        likely as the others."""
        return self._truncate(self._random_cells(rng, n), self._random_depths(rng, n))

    def sample_broad(self, rng: np.random.Generator, n: int) -> np.ndarray:
        """The same, but each module's sizes come from a random range of its own.

        Half of the modules that may be absent are, but never all. Sums of many equally likely sizes
        are all about alike; these genomes are not: single modules, uniform sizes and all numbers of
        parameters are among them.
        """
        genomes, choices = (
            self._random_cells(rng, n),
            [self._choices(name) for name in self.modules],
        )
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
        """Random genomes, one in each of `n` equal parts of `least` to `most` parameters.

        Fewer where parts have none.

        Returns:
          int32 `[n, blocks, columns]`, smallest first.
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
        """Changed copies of `genomes` `[n, blocks, columns]`.

        "block": every size is drawn anew with `m_prob`, every module's depth with
        `s_prob`. A module with a 0 among its sizes comes or goes as a whole with `m_prob` / 2; one
        that is nowhere stays away otherwise, or children of single modules would hardly ever be
        such. "paper": with `m_prob` a module is touched, and then with `s_prob` its depth is drawn
        anew; sizes never change, blocks are only added (with random sizes) or cut.
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
        """One child for each pair; all arrays `[n, blocks, columns]`.

        "block": a module's depth comes from one parent, the size in each block from either.
        "paper": whole columns are swapped.
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
        """`genome` `[blocks, columns]`, changed until the budget admits it.

        Random sizes go one choice up or down, or a module one depth, until it fits; modules that
        are absent stay so while others can grow. None if that does not succeed.
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
        """All genomes with one size, or one module's depth, one choice lower or higher.

        Args:
          columns: bool, those that may change; None = all.
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
        """Which cells lie within a module's depth, bool `[..., blocks, columns]`."""
        return np.arange(self.blocks)[:, None] < depth

    def _truncate(self, genomes, depth):
        return np.where(self._covered(depth), genomes, 0).astype(np.int32)
