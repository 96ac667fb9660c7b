"""Loads frozen weights, of a named backbone or a file, into the ViT.

A file that does not fit is refused with one message that lists everything that is wrong.
"""

import dataclasses
import math
import pathlib
import re
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
from flax import nnx

from noah_jax.errors import UserError, listed
from noah_jax.pretrained import checksums, facts
from noah_jax.pretrained.backbones import BACKBONES
from noah_jax.pretrained.downloads import fetch
from noah_jax.pretrained.files import found
from noah_jax.pretrained.weights import Weights, read_files
from noah_jax.vit import ViT, ViTConfig


def load(model: ViT, name_or_path: str) -> None:
    """Fills the frozen part of `model` in place; prompt modules and head stay as they are.

    Warns of what was left out of the file.

    Raises:
      UserError: see `backbone`.
    """
    state, notes = backbone_and_notes(model.config, name_or_path)
    for note in notes:
        warnings.warn(note, stacklevel=2)
    nnx.update(model, state)


def backbone(config: ViTConfig, name_or_path: str) -> nnx.State:
    """Reads the frozen part of a ViT: all parameters but prompt modules and head, float32.

    Args:
      config: the ViT's shape. Its image size may be any: position tables are interpolated.
      name_or_path: a key of `BACKBONES`, downloaded once; or a file, see `weights.read_files`; or a
        folder or an index, see `files.found`.

    Raises:
      UserError: there is no such name or file, it cannot be fetched or read, its tensors do not fit
        (up to 20 mismatches are listed), or a file beside it says that the heads or the GELU are
        others.
    """
    return backbone_and_notes(config, name_or_path)[0]


def backbone_and_notes(config: ViTConfig, name_or_path: str) -> tuple[nnx.State, tuple[str, ...]]:
    """Reads the same, and what a user should know of the file, such as what was left out of it.

    Raises:
      UserError: see `backbone`.
    """
    model = nnx.eval_shape(lambda: ViT(config, {}, rngs=nnx.Rngs(0)))
    _, abstract = nnx.split_state(nnx.state(model), nnx.PathContains("head"), ...)
    weights = read(name_or_path)
    weights = dataclasses.replace(weights, reasons=(*weights.reasons, *_shape(config, weights)))
    state = arrange(abstract, weights, name_or_path, config.antialias)
    if name_or_path not in BACKBONES:
        facts.require_agreement(config, paths(name_or_path)[0])
    return state, (*weights.notes, *_moco(config, weights.prefix, name_or_path))


def read(name_or_path: str) -> Weights:
    """Reads the tensors of a named backbone or a file under our names, an entry for each block.

    Raises:
      UserError: there is no such name or file, or it cannot be fetched or read.
    """
    return read_files(paths(name_or_path))


def fingerprint(name_or_path: str) -> str:
    """Computes the sha256, hexadecimal, of the file that `backbone` reads; fetches it if needed.

    That of several files is the sha256 of their names and checksums.

    Raises:
      UserError: there is no such name or file, or it cannot be fetched or read.
    """
    files = paths(name_or_path)
    try:
        return checksums.fingerprint(files)
    except OSError as error:
        raise UserError(f"cannot read weights from {name_or_path}: {error}") from error


def believed(
    config: ViTConfig, weights: str, name: str = "", heads: int = 0
) -> tuple[ViTConfig, tuple[str, ...]]:
    """Adapts a ViT to what the configs beside its weights say, a file or a folder.

    Args, returns and raises: see `facts.believed`.
    """
    return facts.believed(config, paths(weights)[0], name, heads)


def paths(name_or_path: str) -> list[pathlib.Path]:
    """Lists the files of a named backbone, which is fetched if needed, or of a path.

    Raises:
      UserError: there are none, or not all.
    """
    name = str(name_or_path)
    if name in BACKBONES:
        return [fetch(BACKBONES[name].source)]
    path = pathlib.Path(name).expanduser()
    if not path.is_file() and not path.is_dir():
        raise UserError(
            f"no weights at {path}: give a file or folder with --config.weights=PATH, "
            f"or one of the names {', '.join(sorted(BACKBONES))} with --config.backbone=NAME"
        )
    try:
        return found(path)
    except OSError as error:
        raise UserError(f"cannot read weights from {path}: {error}") from error


def _shape(config: ViTConfig, weights: Weights) -> list[str]:
    """Says which named shape the tensors have, if it is not that of `config`."""
    shape = {
        "width": _size(weights, "patch_embed.kernel", 1),
        "depth": len({name.split(".")[1] for name in weights if name.startswith("blocks.")}),
        "patch_size": math.isqrt(_size(weights, "patch_embed.kernel", 0) // 3),
        "registers": _size(weights, "register_tokens", 1),
        "pre_norm": "norm_pre.scale" in weights,
        "rope": "pos_embed" not in weights,
        "pooling": _pooling(weights),
    }
    unknown = not shape["width"] or not shape["depth"]
    if unknown or all(getattr(config, field) == value for field, value in shape.items()):
        return []
    names = ViTConfig.names(**shape)
    parts = ", ".join(f"{field} {value}" for field, value in shape.items())
    if not names:
        return [f"no shape known here is like its own ({parts})"]
    named = f"a {' or '.join(names)}: --config.backbone={names[0]}"
    return [f"its shape ({parts}) is that of {named}"]


def _pooling(weights: Weights) -> str:
    """The `ViTConfig.pooling` that the tensors are for."""
    if "cls_token" in weights:
        return "class"
    return "attention" if "pool.probe" in weights else "mean"


def _moco(config: ViTConfig, prefix: str, source: str) -> list[str]:
    """Says that a file has the names of MoCo v3's program, if that would have other heads."""
    shape = {field: getattr(config, field) for field in ("width", "depth", "patch_size")}
    names = [name for name in ViTConfig.names(**shape) if name.endswith("_moco")]
    heads = ViTConfig.named(names[0], image_size=0).heads if names else config.heads
    if heads == config.heads or not re.search(r"(base|momentum)_encoder\.", prefix):
        return []
    return [
        f"{source}: {prefix} is a name of MoCo v3, whose ViT of this size has {heads} heads, not "
        f"{config.heads}: give --config.backbone={names[0]} if it is one"
    ]


def _size(weights: Weights, name: str, axis: int) -> int:
    shape = weights[name].shape if name in weights else ()
    return shape[axis] if axis < len(shape) else 0


def arrange(
    abstract: nnx.State, tensors: Mapping[str, np.ndarray], source: str, antialias: bool = False
) -> nnx.State:
    """Arranges tensors like the state `abstract`: blocks stacked, the position table resized.

    Blocks are not stacked where each has entries of its own in `abstract`, as in a `CompactViT`.

    Args:
      abstract: a state of the ViT, or of a part of it; only shapes and dtypes are used.
      tensors: by our names, an entry for each block; messages use the names of `Weights`.
      source: where the tensors come from, for messages.
      antialias: see `resize_positions`.

    Raises:
      UserError: tensors are missing, left over, not finite, or of another shape or kind.
    """
    weights = tensors if isinstance(tensors, Weights) else Weights(tensors)
    left, filled = dict(weights), []
    problems: dict[str, str] = {}  # by the name of the file's tensor
    for path, variable in nnx.to_flat_state(abstract):
        found, expected = _take(left, path, tuple(variable.shape), antialias)
        fits = True
        for name, tensor in found.items():
            shape = None if tensor is None else tensor.shape
            if shape != expected:
                fits = False
                for own, line in weights.misfit(name, shape, expected).items():
                    problems[own] = problems.get(own) or line
        if not fits:
            continue
        # Stacked one parameter at a time, so that no second copy of a big model exists.
        arrays = [tensor for tensor in found.values() if tensor is not None]  # all, by now
        name = ".".join(map(str, path))
        array = arrays[0] if name in found else np.stack(arrays)
        if not np.can_cast(array.dtype, variable.dtype, "same_kind"):
            own = weights.called(next(iter(found)))
            problems[own] = f"{own} holds {array.dtype}, expected {variable.dtype}"
            continue
        with np.errstate(all="ignore"):
            array = array.astype(variable.dtype, copy=False)
        parts = [array] if name in found else array
        for own, part in zip(map(weights.called, found), parts, strict=True):
            if not np.isfinite(part).all():
                problems[own] = f"{own} has values that are not finite"
        filled.append((path, variable.replace(array)))
    for name in left:
        problems = weights.unexpected(name) | problems
    if lines := sorted(filter(None, problems.values()), key=_natural):
        reasons = "".join(f"; {reason}" for reason in weights.reasons)
        raise UserError(
            f"the weights in {source} do not fit the model ({len(lines)} problems){reasons}:"
            f"{listed(lines)}"
        )
    return nnx.from_flat_state(filled)


def _natural(line: str) -> list:
    """A key to sort lines by that puts block 2 before block 10."""
    parts = re.split(r"(\d{1,9})", line)  # text and number in turn
    return [int(part) if i % 2 else part for i, part in enumerate(parts)]


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
