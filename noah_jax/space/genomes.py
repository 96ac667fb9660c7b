"""What a genome is and costs.

A genome is an int32 array `[blocks, columns]`: the size of each prompt module in each block,
0 = absent. The first columns are the paper's `MODULES`; one with a parallel adapter or with output
scales has all of `COLUMNS`, and where columns are missing they are zeros. A scale is a power of
ten, so 0 stands for a factor of 1. Every function here also takes a stack of genomes
`[..., blocks, columns]`. NumPy only.
"""

import numpy as np

MODULES = ("vpt", "lora", "adapter")
ALL_MODULES = (*MODULES, "parallel")
SCALED = ("lora", "adapter", "parallel")
COLUMNS = (*ALL_MODULES, *(f"{name}_scale" for name in SCALED))

# The original allocates a position table of this many prompts and counts all of it.
_NOAH_POSITION_TABLE = 100


def complete(genome: np.ndarray) -> np.ndarray:
    """`genome` `[..., blocks, c]` with all of `COLUMNS`, those that are missing being zeros."""
    genome = np.asarray(genome)
    missing = len(COLUMNS) - genome.shape[-1]
    return np.pad(genome, [(0, 0)] * (genome.ndim - 1) + [(0, missing)])


def max_sizes(genome: np.ndarray) -> dict[str, int]:
    """For each module the largest size in `genome` `[blocks, columns]`."""
    sizes = complete(genome)[:, : len(ALL_MODULES)].max(axis=0)
    return dict(zip(ALL_MODULES, sizes.tolist(), strict=True))


def count_params(genome: np.ndarray, width: int) -> np.ndarray:
    """Parameters that the forward pass uses, head excluded.

    Args:
      genome: int `[..., blocks, columns]`.
      width: token width d of the backbone.

    Returns:
      int64 `[...]`: VPT r·d, LoRA r·d + 3·r·d, either adapter r·d + r + r·d + d, summed over
      blocks.
    """
    sizes = np.moveaxis(complete(genome).astype(np.int64), -1, 0)[: len(ALL_MODULES)]
    vpt, lora, *adapters = sizes
    params = vpt * width + lora * 4 * width
    for adapter in adapters:
        params = params + adapter * (2 * width + 1) + np.where(adapter > 0, width, 0)
    return params.sum(axis=-1)


def count_noah(genome: np.ndarray, width: int) -> np.ndarray:
    """The same as the original's code counts it, for comparison with the paper.

    Where block 0 has prompts it adds a model-level prompt of that size, which block 0 overwrites,
    and that prompt's whole position table: dead weight both.
    """
    first = np.asarray(genome, np.int64)[..., 0, MODULES.index("vpt")]
    dead = np.where(first > 0, (first + _NOAH_POSITION_TABLE) * width, 0)
    return count_params(genome, width) + dead


def uniform(budget: int, blocks: int, width: int) -> np.ndarray:
    """The genome, alike in all blocks, whose `MODULES` share the budget as equally as can be.

    Sizes grow by one, always that of the module with the fewest parameters that still fits.
    """
    sizes = np.zeros(len(MODULES), np.int32)

    def params(sizes):
        return blocks * count_params(sizes[None], width)

    while True:
        grown = sizes + np.eye(len(MODULES), dtype=np.int32)
        fits = [row for row in range(len(MODULES)) if params(grown[row]) <= budget]
        if not fits:
            return np.tile(sizes, (blocks, 1))
        shares = [params(np.where(np.arange(len(MODULES)) == row, sizes, 0)) for row in fits]
        sizes = grown[fits[int(np.argmin(shares))]]
