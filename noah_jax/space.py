"""The search space: which genomes exist, how they vary, what they cost.

A genome is an int32 array `[blocks, modules]`: the size of each prompt module in each block,
0 = absent, columns in the order of `MODULES`. Every function here also takes a stack of genomes
`[..., blocks, modules]`. NumPy only, so that a search can be studied without an accelerator.
"""

import dataclasses
from collections.abc import Mapping

import numpy as np

MODULES = ("vpt", "lora", "adapter")
OPERATORS = ("block", "paper")

# The original allocates a position table of this many prompts and counts all of it.
_NOAH_POSITION_TABLE = 100


def count_params(genome: np.ndarray, width: int) -> np.ndarray:
    """Parameters that the forward pass uses, head excluded.

    Args:
      genome: int `[..., blocks, modules]`.
      width: token width d of the backbone.

    Returns:
      int64 `[...]`: VPT r·d, LoRA r·d + 3·r·d, adapter r·d + r + r·d + d, summed over blocks.
    """
    vpt, lora, adapter = np.moveaxis(np.asarray(genome, np.int64), -1, 0)
    adapter_params = adapter * (2 * width + 1) + np.where(adapter > 0, width, 0)
    return (vpt * width + lora * 4 * width + adapter_params).sum(axis=-1)


def count_noah(genome: np.ndarray, width: int) -> np.ndarray:
    """The same as the original's code counts it, for comparison with the paper.

    Where block 0 has prompts it adds a model-level prompt of that size, which block 0 overwrites,
    and that prompt's whole position table: dead weight both.
    """
    first = np.asarray(genome, np.int64)[..., 0, MODULES.index("vpt")]
    dead = np.where(first > 0, (first + _NOAH_POSITION_TABLE) * width, 0)
    return count_params(genome, width) + dead


@dataclasses.dataclass(frozen=True)
class SearchSpace:
    """All genomes whose first `depth` blocks hold sizes from `sizes`, for a depth per module.

    Attributes:
      sizes: for each module the sizes to choose from, all positive; empty = the module is not used.
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
        if set(self.sizes) != set(MODULES):
            problems.append(f"sizes must name exactly {MODULES}, not {tuple(self.sizes)}")
        for name, sizes in self.sizes.items():
            if any(size < 1 for size in sizes):
                problems.append(f"sizes of {name} must be positive, not {tuple(sizes)}")
        if not self.depths or any(not 0 <= depth <= self.blocks for depth in self.depths):
            problems.append(f"depths {tuple(self.depths)} must lie in 0..{self.blocks} (blocks)")
        if problems:
            raise ValueError("; ".join(problems))

    @classmethod
    def single(cls, sizes: Mapping[str, int], blocks: int, width: int) -> "SearchSpace":
        """The space with one point: each module of the given size (0 = absent) in every block."""
        choices = {name: (size,) if (size := sizes.get(name, 0)) else () for name in MODULES}
        return cls(choices, (blocks,), blocks, width)

    @property
    def max_sizes(self) -> dict[str, int]:
        """The size at which each module's parameters must exist."""
        return {name: max(self.sizes[name], default=0) for name in MODULES}

    @property
    def num_genomes(self) -> int:
        """How many distinct genomes there are (an exact Python int, it can be huge)."""
        total = 1
        for name in MODULES:
            choices = len(set(self.sizes[name]))
            if choices:
                total *= sum(choices**depth for depth in set(self.depths))
        return total

    def count(self, genome: np.ndarray) -> np.ndarray:
        """See `count_params`."""
        return count_params(genome, self.width)

    def count_noah(self, genome: np.ndarray) -> np.ndarray:
        """See `count_noah` of this file."""
        return count_noah(genome, self.width)

    def smallest(self) -> np.ndarray:
        """The genome with the fewest parameters, int32 `[blocks, modules]`."""
        size = np.array([min(self.sizes[name], default=0) for name in MODULES])
        return self._truncate(np.broadcast_to(size, (self.blocks, len(MODULES))), min(self.depths))

    def sample(self, rng: np.random.Generator, n: int) -> np.ndarray:
        """`n` independent random genomes, int32 `[n, blocks, modules]`."""
        return self._truncate(self._random_sizes(rng, n), self._random_depths(rng, n))

    def mutate(
        self,
        rng: np.random.Generator,
        genomes: np.ndarray,
        operators: str = "block",
        m_prob: float = 0.2,
        s_prob: float = 0.4,
    ) -> np.ndarray:
        """Changed copies of `genomes` `[n, blocks, modules]`.

        "block": every size is drawn anew with `m_prob`, every module's depth with `s_prob`.
        "paper": with `m_prob` a module is touched, and then with `s_prob` its depth is drawn anew;
        sizes never change, blocks are only added (with random sizes) or cut.
        """
        n = len(genomes)
        old_depth = self._depth(genomes)  # [n 1 modules]
        redraw_depth = rng.random(old_depth.shape) < s_prob
        if operators == "paper":
            redraw_depth &= rng.random(old_depth.shape) < m_prob
        depth = np.where(redraw_depth, self._random_depths(rng, n), old_depth)
        redraw_size = genomes == 0
        if operators == "block":
            redraw_size |= rng.random(genomes.shape) < m_prob
        return self._truncate(np.where(redraw_size, self._random_sizes(rng, n), genomes), depth)

    def crossover(
        self,
        rng: np.random.Generator,
        mothers: np.ndarray,
        fathers: np.ndarray,
        operators: str = "block",
    ) -> np.ndarray:
        """One child for each pair; all arrays `[n, blocks, modules]`.

        "block": a module's depth comes from one parent, the size in each block from either.
        "paper": whole columns are swapped.
        """
        column = rng.random((len(mothers), 1, len(MODULES))) < 0.5
        if operators == "paper":
            return np.where(column, mothers, fathers)
        depth = np.where(column, self._depth(mothers), self._depth(fathers))
        cell = rng.random(mothers.shape) < 0.5
        first, second = np.where(cell, mothers, fathers), np.where(cell, fathers, mothers)
        return self._truncate(np.where(first > 0, first, second), depth)

    def shrink(self, rng: np.random.Generator, genome: np.ndarray, budget: int) -> np.ndarray:
        """`genome` with whole columns, in random order, made smallest until it fits `budget`."""
        genome, smallest = genome.copy(), self.smallest()
        for column in rng.permutation(len(MODULES)):
            if self.count(genome) <= budget:
                break
            genome[:, column] = smallest[:, column]
        return genome

    def _random_sizes(self, rng, n):
        columns = [rng.choice(self.sizes[name] or (0,), (n, self.blocks)) for name in MODULES]
        return np.stack(columns, axis=-1)

    def _random_depths(self, rng, n):
        return rng.choice(self.depths, (n, 1, len(MODULES)))

    def _depth(self, genomes):
        position = np.arange(1, self.blocks + 1)[:, None]
        return np.where(genomes > 0, position, 0).max(axis=-2, keepdims=True)

    def _truncate(self, sizes, depth):
        return np.where(np.arange(self.blocks)[:, None] < depth, sizes, 0).astype(np.int32)
