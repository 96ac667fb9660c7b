"""The search space: which genomes exist, how they vary; see genomes.py for what they are.

NumPy only, so that a search can be studied without an accelerator.
"""

import dataclasses
from collections.abc import Mapping

import numpy as np

from noah_jax.space.genomes import ALL_MODULES, COLUMNS, MODULES, SCALED, count_noah, count_params

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
      scales: powers of ten that may multiply the output of a LoRA or adapter, block by block;
        empty = a factor of 1.
    """

    sizes: Mapping[str, tuple[int, ...]]
    depths: tuple[int, ...]
    blocks: int
    width: int
    scales: tuple[int, ...] = ()

    def __post_init__(self):
        problems = []
        if unknown := set(self.sizes) - set(ALL_MODULES):
            problems.append(f"unknown modules {sorted(unknown)}: expected some of {ALL_MODULES}")
        for name, sizes in self.sizes.items():
            if any(size < 0 for size in sizes):
                problems.append(f"sizes of {name} must not be negative: {tuple(sizes)}")
        if not self.depths or any(not 0 <= depth <= self.blocks for depth in self.depths):
            problems.append(f"depths {tuple(self.depths)} must lie in 0..{self.blocks} (blocks)")
        if any(not -3 <= power <= 3 for power in self.scales):
            problems.append(f"scales {tuple(self.scales)} are powers of ten, -3 to 3")
        if problems:
            raise ValueError("; ".join(problems))

    @classmethod
    def single(cls, sizes: Mapping[str, int], blocks: int, width: int) -> "SearchSpace":
        """The space with one point: each module of the given size (0 = absent) in every block."""
        return cls({name: (size,) for name, size in sizes.items()}, (blocks,), blocks, width)

    @property
    def modules(self) -> tuple[str, ...]:
        """Those that have a column."""
        extended = any(self.sizes.get("parallel", ())) or self.scales
        return ALL_MODULES if extended else MODULES

    @property
    def num_columns(self) -> int:
        return len(MODULES) if self.modules == MODULES else len(COLUMNS)

    @property
    def max_sizes(self) -> dict[str, int]:
        """The size at which each module's parameters must exist."""
        return {name: max(self._choices(name)) for name in ALL_MODULES}

    @property
    def num_genomes(self) -> int:
        """How many distinct genomes there are (an exact Python int, it can be huge)."""
        total = 1
        for name in self.modules:
            scales = len(set(self.scales)) or 1 if name in SCALED else 1
            present = len(set(self._choices(name)) - {0}) * scales
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
        """`n` independent random genomes, int32 `[n, blocks, columns]`: each size, scale and depth
        is as likely as the others."""
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
            self.fit(rng, genome, int(low), int(high) - 1)
            for genome, low, high in zip(
                self.sample_broad(rng, n), edges[:-1], edges[1:], strict=True
            )
        ]
        return np.stack([genome for genome in found if genome is not None] or [self.smallest()])

    def sample_fair(self, seed: int, first: int, n: int) -> np.ndarray:
        """Genomes number `first` to `first + n` of an endless sequence, for training a supernet.

        In every block each module has each of its sizes, and no module where it may be absent,
        equally often: once in each round of as many genomes as there are choices (as FairNAS,
        arXiv 1907.01845). So a depth is not kept, and these need not be genomes of the space.

        Returns:
          int32 `[n, blocks, columns]`.
        """
        genomes = np.zeros((n, self.blocks, self.num_columns), np.int32)
        sometimes, always = min(self.depths), max(self.depths)
        for column, name in enumerate(COLUMNS[: self.num_columns]):
            for start, stop, absent in ((0, sometimes, False), (sometimes, always, True)):
                choices = list(self.scales or (0,))
                if column < len(self.modules):
                    choices = sorted({*self._choices(name), *([0] if absent else [])})
                for i in range(n if stop > start else 0):
                    round_number, place = divmod(first + i, len(choices))
                    rng = np.random.default_rng([seed, column, start, round_number])
                    orders = rng.permuted(np.tile(choices, (stop - start, 1)), axis=1)
                    genomes[i, start:stop, column] = orders[:, place]
        return self._without_idle_scales(genomes)

    def mutate(
        self,
        rng: np.random.Generator,
        genomes: np.ndarray,
        operators: str = "block",
        m_prob: float = 0.2,
        s_prob: float = 0.4,
    ) -> np.ndarray:
        """Changed copies of `genomes` `[n, blocks, columns]`.

        "block": every size and scale is drawn anew with `m_prob`, every module's depth with
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
                was = genomes[..., : len(self.modules)].any(axis=-2, keepdims=True)
                moves = rng.random(was.shape) < m_prob / 2
                stays = ((was ^ moves) | ~optional)[..., self._owners()]
                redraw = redraw | ~was[..., self._owners()]
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

        "block": a module's depth comes from one parent, size and scale in each block from either.
        "paper": whole columns are swapped.
        """
        owners, depths = self._owners(), (self._depth(mothers), self._depth(fathers))
        column = rng.random((len(mothers), 1, len(self.modules))) < 0.5
        if operators == "paper":
            return np.where(column[..., owners], mothers, fathers)
        cell = rng.random((len(mothers), self.blocks, len(self.modules))) < 0.5
        of_mother, of_father = (self._covered(depth) for depth in depths)
        mothers_turn = np.where(of_mother & of_father, cell[..., owners], of_mother)
        child = np.where(mothers_turn, mothers, fathers)
        return self._truncate(child, np.where(column, *depths))

    def fit(
        self, rng: np.random.Generator, genome: np.ndarray, least: int, most: int
    ) -> np.ndarray | None:
        """`genome` `[blocks, columns]` with `least` to `most` parameters.

        Random sizes go one choice up or down, or a module one depth, until it fits; modules that
        are absent stay so while others can grow. None if that does not succeed.
        """
        for _ in range(_MOVES):
            params = self.count(genome)
            if least <= params <= most:
                return genome
            direction, present = -1 if params > most else 1, genome.any(axis=0)
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
        return [self._without_idle_scales(genome) for genome in found]

    def _choices(self, name):
        return self.sizes.get(name) or (0,)

    def _owners(self):
        """For each column the index of its module."""
        modules = list(range(len(self.modules)))
        scaled = [ALL_MODULES.index(name) for name in SCALED]
        return np.array(modules + (scaled if self.modules == ALL_MODULES else []))

    def _alike(self, choose, depth):
        genome = np.zeros((self.blocks, self.num_columns), np.int32)
        genome[:depth, : len(self.modules)] = [choose(self._choices(name)) for name in self.modules]
        return genome

    def _random_cells(self, rng, n):
        names = COLUMNS[: self.num_columns]
        choices = [
            self._choices(name) if name in ALL_MODULES else self.scales or (0,) for name in names
        ]
        return np.stack([rng.choice(values, (n, self.blocks)) for values in choices], axis=-1)

    def _random_depths(self, rng, n):
        return rng.choice(self.depths, (n, 1, len(self.modules)))

    def _depth(self, genomes):
        """The smallest of `depths` that holds a module's last block, `[..., 1, modules]`."""
        position = np.arange(1, self.blocks + 1)[:, None]
        sizes = genomes[..., : len(self.modules)]
        last = np.where(sizes > 0, position, 0).max(axis=-2, keepdims=True)
        depths = np.unique(self.depths)
        return depths[np.minimum(np.searchsorted(depths, last), len(depths) - 1)]

    def _covered(self, depth):
        """Which cells lie within a module's depth, bool `[..., blocks, columns]`."""
        return np.arange(self.blocks)[:, None] < depth[..., self._owners()]

    def _truncate(self, genomes, depth):
        return self._without_idle_scales(np.where(self._covered(depth), genomes, 0))

    def _without_idle_scales(self, genomes):
        """With scale 0 where there is nothing to scale, so that equal subnets are equal."""
        present = genomes[..., self._owners()] > 0
        present[..., : len(self.modules)] = True
        return np.where(present, genomes, 0).astype(np.int32)
