"""A genome: the size of each prompt module in each block of a ViT.

A genome is an int32 array `[blocks, columns]`; 0 means that the block lacks the module. The columns
are the paper's three `MODULES`, followed by further ones of `ALL_MODULES` if they are used. A
module without a column is absent. The functions here that do not say otherwise also take a stack of
genomes `[..., blocks, columns]`. NumPy only.
"""

import numpy as np

from noah_jax.space.modules import PROMPT_MODULES

ALL_MODULES = tuple(PROMPT_MODULES)
MODULES = tuple(name for name, module in PROMPT_MODULES.items() if module.noah_key)

# The original allocates a position table for this many prompts and counts all of it.
_NOAH_POSITION_TABLE = 100


def by_module(genome: np.ndarray) -> dict[str, np.ndarray]:
    """Splits a genome by module: int64 `[..., blocks]` each, zeros where it has no column."""
    columns = np.moveaxis(np.asarray(genome, np.int64), -1, 0)
    absent = np.zeros(columns.shape[1:], np.int64)
    return dict.fromkeys(ALL_MODULES, absent) | dict(zip(ALL_MODULES, columns, strict=False))


def max_sizes(genome: np.ndarray) -> dict[str, int]:
    """The largest size of each module in a single genome, int `[blocks, columns]`."""
    return {name: int(sizes.max()) for name, sizes in by_module(genome).items()}


def count_params(genome: np.ndarray, width: int) -> np.ndarray:
    """Counts the parameters that the forward pass uses, without the head.

    Args:
      genome: int `[..., blocks, columns]`.
      width: token width d of the backbone.

    Returns:
      int64 `[...]`, summed over blocks.
    """
    sizes = by_module(genome)
    params = [module.params(sizes[name], width) for name, module in PROMPT_MODULES.items()]
    return np.sum(params, axis=(0, -1))


def count_noah(genome: np.ndarray, width: int) -> np.ndarray:
    """Counts parameters as the original's code does, for comparison with the paper.

    Where block 0 has prompts, the original adds a model-level prompt of that size and that prompt's
    whole position table. Both are dead weight, since block 0 overwrites the prompt. For arguments
    and result see `count_params`.
    """
    first = by_module(genome)["vpt"][..., 0]
    dead = np.where(first > 0, (first + _NOAH_POSITION_TABLE) * width, 0)
    return count_params(genome, width) + dead
