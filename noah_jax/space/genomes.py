"""A genome: the size of each prompt module in each block of a ViT.

It is an int32 array `[blocks, columns]`, 0 = absent. Its columns are the paper's three `MODULES`,
and further ones of `ALL_MODULES` as far as they are used: modules that have no column are absent.
Every function here also takes a stack of genomes `[..., blocks, columns]`. NumPy only.
"""

import numpy as np

from noah_jax.space.modules import PROMPT_MODULES

ALL_MODULES = tuple(PROMPT_MODULES)
MODULES = tuple(name for name, module in PROMPT_MODULES.items() if module.noah_key)

# The original allocates a position table of this many prompts and counts all of it.
_NOAH_POSITION_TABLE = 100


def by_module(genome: np.ndarray) -> dict[str, np.ndarray]:
    """Sizes by module, int64 `[..., blocks]` each; zeros where the genome has no column."""
    columns = np.moveaxis(np.asarray(genome, np.int64), -1, 0)
    absent = np.zeros(columns.shape[1:], np.int64)
    return dict.fromkeys(ALL_MODULES, absent) | dict(zip(ALL_MODULES, columns, strict=False))


def max_sizes(genome: np.ndarray) -> dict[str, int]:
    """For each module the largest size in `genome` `[blocks, columns]`."""
    return {name: int(sizes.max()) for name, sizes in by_module(genome).items()}


def count_params(genome: np.ndarray, width: int) -> np.ndarray:
    """Parameters that the forward pass uses, head excluded: int64 `[...]`, summed over blocks.

    Args:
      genome: int `[..., blocks, columns]`.
      width: token width d of the backbone.
    """
    sizes = by_module(genome)
    params = sum(module.params(sizes[name], width) for name, module in PROMPT_MODULES.items())
    return params.sum(axis=-1)


def count_noah(genome: np.ndarray, width: int) -> np.ndarray:
    """The same as the original's code counts it, for comparison with the paper.

    Where block 0 has prompts it adds a model-level prompt of that size, which block 0 overwrites,
    and that prompt's whole position table: dead weight both.
    """
    first = by_module(genome)["vpt"][..., 0]
    dead = np.where(first > 0, (first + _NOAH_POSITION_TABLE) * width, 0)
    return count_params(genome, width) + dead
