"""Loads frozen weights, of a named backbone or a file, into the ViT.

A file that does not fit is refused with one message that lists everything that is wrong.
"""

import math
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from flax import nnx

from noah_jax.errors import UserError
from noah_jax.pretrained import checksums
from noah_jax.pretrained.backbones import BACKBONES
from noah_jax.pretrained.downloads import fetch
from noah_jax.pretrained.weights import read_file
from noah_jax.vit import ViT, ViTConfig


def load(model: ViT, name_or_path: str) -> None:
    """Fills the frozen part of `model` in place; prompt modules and head stay as they are.

    Raises:
      UserError: see `backbone`.
    """
    nnx.update(model, backbone(model.config, name_or_path))


def backbone(config: ViTConfig, name_or_path: str) -> nnx.State:
    """Reads the frozen part of a ViT: all parameters but prompt modules and head, float32.

    Args:
      config: the ViT's shape. Its image size may be any: position tables are interpolated.
      name_or_path: a key of `BACKBONES`, downloaded once, or a file; see `weights.read_file`.

    Raises:
      UserError: there is no such name or file, it cannot be fetched or read, or its tensors do not
        fit; all mismatches are listed.
    """
    model = nnx.eval_shape(lambda: ViT(config, {}, rngs=nnx.Rngs(0)))
    _, abstract = nnx.split_state(nnx.state(model), nnx.PathContains("head"), ...)
    return arrange(abstract, read(name_or_path), name_or_path, config.antialias)


def read(name_or_path: str) -> dict[str, np.ndarray]:
    """Reads the tensors of a named backbone or a file under our names, an entry for each block.

    Raises:
      UserError: there is no such name or file, or it cannot be fetched or read.
    """
    return read_file(_file(name_or_path))


def fingerprint(name_or_path: str) -> str:
    """Computes the sha256, hexadecimal, of the file that `backbone` reads; fetches it if needed.

    Raises:
      UserError: there is no such name or file, or it cannot be fetched or read.
    """
    path = _file(name_or_path)
    try:
        return checksums.sha256(path)
    except OSError as error:
        raise UserError(f"cannot read weights from {path}: {error}") from error


def _file(name_or_path: str) -> pathlib.Path:
    name = str(name_or_path)
    if name in BACKBONES:
        path = fetch(BACKBONES[name].source)
    else:
        path = pathlib.Path(name).expanduser()
    if not path.is_file():
        raise UserError(
            f"no weights at {path}: give a file with --config.weights=PATH, "
            f"or one of the names {', '.join(sorted(BACKBONES))} with --config.backbone=NAME"
        )
    return path


def arrange(
    abstract: nnx.State, tensors: Mapping[str, np.ndarray], source: str, antialias: bool = False
) -> nnx.State:
    """Arranges tensors like the state `abstract`: blocks stacked, the position table resized.

    Blocks are not stacked where each has entries of its own in `abstract`, as in a `CompactViT`.

    Args:
      abstract: a state of the ViT, or of a part of it; only shapes and dtypes are used.
      tensors: by our names, an entry for each block.
      source: where the tensors come from, for messages.
      antialias: see `resize_positions`.

    Raises:
      UserError: tensors are missing, left over, not finite, or of another shape or kind; all are
        listed.
    """
    left, problems, filled = dict(tensors), [], []
    for path, variable in nnx.to_flat_state(abstract):
        found, expected = _take(left, path, tuple(variable.shape), antialias)
        complaints = [
            f"missing {name} {list(expected)}"
            if tensor is None
            else f"{name} is {list(tensor.shape)}, expected {list(expected)}"
            for name, tensor in found.items()
            if tensor is None or tensor.shape != expected
        ]
        problems += complaints
        if complaints:
            continue
        # Stacked one parameter at a time, so that no second copy of a big model exists.
        arrays = [tensor for tensor in found.values() if tensor is not None]  # all, by now
        name = ".".join(map(str, path))
        array = arrays[0] if name in found else np.stack(arrays)
        if not np.can_cast(array.dtype, variable.dtype, "same_kind"):
            problems.append(f"{name} holds {array.dtype}, expected {variable.dtype}")
            continue
        with np.errstate(all="ignore"):
            array = array.astype(variable.dtype, copy=False)
        if not np.isfinite(array).all():
            problems.append(f"{name} has values that are not finite")
        filled.append((path, variable.replace(array)))
    problems += [f"unexpected {name} {list(tensor.shape)}" for name, tensor in left.items()]
    if problems:
        raise UserError(
            f"the weights in {source} do not fit the model ({len(problems)} problems):\n  "
            + "\n  ".join(sorted(problems))
        )
    return nnx.from_flat_state(filled)


def _take(
    left: dict[str, np.ndarray], path: tuple[Any, ...], shape: tuple[int, ...], antialias: bool
) -> tuple[dict[str, np.ndarray | None], tuple[int, ...]]:
    """Takes from `left` the tensors of one parameter, of all blocks.

    Returns:
      Name → tensor, or None if it is missing; and the shape that each should have.
    """
    names = [".".join(map(str, path))]
    if path[0] == "blocks" and not isinstance(path[1], int):
        names = [f"blocks.{i}." + ".".join(path[1:]) for i in range(shape[0])]
        shape = shape[1:]
    found = {name: left.pop(name, None) for name in names}
    table = found.get("pos_embed")
    if table is not None and table.ndim == 3 and table.shape == (1, table.shape[1], shape[2]):
        found["pos_embed"] = resize_positions(table, shape[1], antialias)
    return found, shape


# --- Position table ------------------------------------------------------------------------------


def resize_positions(table: np.ndarray, tokens: int, antialias: bool = False) -> np.ndarray:
    """Resizes a position table `[1, g², d]` or `[1, 1 + g², d]` to `[1, tokens, d]`.

    The class token's entry, the first of 1 + g², stays. If it is wanted but not there, it is zero:
    in DeiT III, and in timm's DINOv2 with registers, the class token includes its position. A table
    that fits already is returned unchanged. So is one where the patches of the two sizes are not
    both a square grid. The interpolation is bicubic with half-pixel centres, as PyTorch's
    `interpolate`. NOAH, early versions of timm, DINOv2 and Hugging Face do not antialias. DINOv2
    with registers does.
    """
    old, new = math.isqrt(table.shape[1]), math.isqrt(tokens)
    had, wanted = table.shape[1] - old**2, tokens - new**2  # entries besides the patches'
    if table.shape[1] == tokens or not old or not had <= wanted <= 1:
        return table
    prefix, grid = np.split(table, [had], axis=1)
    if old != new:
        matrix = _bicubic_matrix(old, new, antialias)
        grid = grid.reshape(old, old, -1).astype(np.float64)
        with np.errstate(all="ignore"):  # `arrange` refuses what is not finite
            grid = np.einsum("ij,kl,jld->ikd", matrix, matrix, grid, optimize=True)
            grid = grid.reshape(1, new * new, -1).astype(table.dtype)
    return np.concatenate([np.pad(prefix, ((0, 0), (wanted - had, 0), (0, 0))), grid], axis=1)


def _bicubic_matrix(old: int, new: int, antialias: bool) -> np.ndarray:
    """The matrix that interpolates along one axis, float64 `[new, old]`."""
    centres = (np.arange(new) + 0.5) * old / new - 0.5
    if antialias:  # a kernel as wide as the new pixels, cut at the edges
        distances = (np.arange(old) - centres[:, None]) / max(old / new, 1)
        matrix = _cubic(distances, a=-0.5)
        return matrix / matrix.sum(axis=1, keepdims=True)
    matrix = np.zeros((new, old))
    for offset in (-1, 0, 1, 2):
        positions = np.floor(centres) + offset
        columns = np.clip(positions, 0, old - 1).astype(int)  # edges repeat
        np.add.at(matrix, (np.arange(new), columns), _cubic(positions - centres, a=-0.75))
    return matrix


def _cubic(distances: np.ndarray, a: float) -> np.ndarray:
    """Keys' cubic convolution kernel."""
    t = np.abs(distances)
    near = (a + 2) * t**3 - (a + 3) * t**2 + 1
    far = a * (t**3 - 5 * t**2 + 8 * t - 4)
    return np.where(t <= 1, near, np.where(t < 2, far, 0.0))
