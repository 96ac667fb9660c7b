"""NOAH's own files: its subnet YAMLs as genomes.

Facts about them are from the PyTorch original, github.com/ZhangYuanhan-AI/NOAH.
"""

import pathlib

import numpy as np
import yaml

from noah_jax.errors import UserError

# --- Genomes -------------------------------------------------------------------------------------

_COLUMNS = ("VISUAL_PROMPT_DIM", "LORA_DIM", "ADAPTER_DIM")  # in the order of `space.MODULES`
_MAX_BYTES = 1 << 16  # the original's have under 1,200


def read_noah_yaml(path: str | pathlib.Path) -> np.ndarray:
    """The genome in one of NOAH's subnet files (`experiments/NOAH/subnet/**.yaml`).

    Only the section `RETRAIN` counts: under each module's name the sizes of all blocks.

    Returns:
      int32 `[blocks, modules]`.

    Raises:
      UserError: it cannot be read or holds no genome, or one with prefix tuning.
    """
    path = pathlib.Path(path).expanduser()
    try:
        with open(path, "rb") as file:
            data = file.read(_MAX_BYTES + 1)
        if len(data) > _MAX_BYTES:
            raise ValueError(f"more than {_MAX_BYTES} bytes")
        content = yaml.safe_load(data)
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise UserError(f"cannot read a genome from {path}: {error}") from error
    section = content.get("RETRAIN") if isinstance(content, dict) else None
    if not isinstance(section, dict):
        raise UserError(f"no genome in {path}: it has no section RETRAIN, as NOAH's subnets have")
    problems = [
        f"RETRAIN.{key}: expected a list of sizes from 0 on, one a block"
        for key in _COLUMNS
        if not _are_sizes(section.get(key))
    ]
    prefix = section.get("PREFIX_DIM", [0])  # the baselines' files have none
    if not _are_sizes(prefix) or any(prefix):
        problems.append("RETRAIN.PREFIX_DIM: expected zeros; prefix tuning is not supported")
    if not problems and len({len(section[key]) for key in _COLUMNS}) > 1:
        lengths = ", ".join(f"RETRAIN.{key} {len(section[key])}" for key in _COLUMNS)
        problems.append(f"the lists differ in length: {lengths}")
    if problems:
        raise UserError(f"no genome in {path}:\n  " + "\n  ".join(problems))
    return np.array([section[key] for key in _COLUMNS], np.int32).T


def _are_sizes(value) -> bool:
    """Whether it is a list of sizes; `true` is none, though Python takes it for 1."""
    return (
        isinstance(value, list)
        and len(value) > 0
        and all(type(size) is int and 0 <= size < 2**31 for size in value)
    )
