"""Turns a checkpoint of PyTorch into a `.safetensors`; nothing in it is run.

This module alone needs torch. Its reader makes only tensors, NumPy's arrays and plain values. In
the place of a class that is data, such as argparse.Namespace, there is a dict.
"""

import _compat_pickle
import collections
import contextlib
import importlib
import os
import pathlib
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from noah_jax.digests import file_sha256
from noah_jax.errors import UserError, joined
from noah_jax.pretrained import files, prefixes

_NUMPY: tuple[type, ...] = (
    np.ndarray,
    np.dtype,
    *{type(np.dtype(kind)) for kind in np.typecodes["All"]},
)
# Classes of these modules are data; of any other of Python, a file may want to run code.
_DATA = {
    *("argparse", "collections", "datetime", "decimal", "enum", "fractions", "functools", "http"),
    *("pathlib", "types", "typing", "uuid", "zoneinfo"),
}
# Keys of an optimizer and its like, which keep tensors under the model's names.
_OF_OPTIMIZERS = r"optim\w*|exp_avg\w*|momentum(_buffer)?|grads?|(lr_)?schedulers?|\w*scaler"
_DEEPEST = 8  # dicts in dicts
_MOST_TIMES_ITS_SIZE, _ALWAYS_ALLOWED = 10, 256 << 20  # bytes of tensors that share memory


class _Unread:
    """Stands in for a class that is not loaded: a dict that keeps what the class would be given.

    Torch's reader lets no other kind of dict have attributes.
    """

    def __new__(cls, *_args, **_values):
        return collections.OrderedDict()


def convert(path: pathlib.Path, out: pathlib.Path | None, keep: str = "") -> list[str]:
    """Writes the tensors of a checkpoint as a `.safetensors`.

    If the checkpoint holds several dicts of tensors, one is taken: one with a known layout before
    others, a teacher or a moving average before what it is made of, and then the largest.

    Args:
      path: what torch.save wrote: a dict of tensors, or dicts around it; or a `.safetensors`.
      out: default: `path` with another suffix. A file with other contents is not replaced.
      keep: the beginning of the names of those tensors to keep.

    Returns:
      Lines that say what was written, and what was left out.

    Raises:
      UserError: torch is not there, the file is something else, or needs code to be run, or `out`
        cannot be written.
    """
    if out is None:
        out = path.with_suffix(".safetensors")
        out = out if out != path else path.with_name(f"{path.stem}-converted.safetensors")
    if out.suffix != ".safetensors":
        raise UserError(f"{out}: the new file must end in .safetensors")
    try:
        import safetensors.torch
        import torch
    except ImportError as error:
        raise UserError(
            f"{error}: to convert PyTorch's files, `pip install torch`, here or elsewhere"
        ) from error
    if not path.is_file():
        raise UserError(f"there is no file {path}")
    value = _load(path, torch)
    where, found, tensors = _choose(value, path, keep, torch)
    _refuse_claims(tensors, path, torch)
    # safetensors takes no two tensors that share memory, and none with gaps.
    whole = {
        name: x.detach().clone(memory_format=torch.contiguous_format) for name, x in tensors.items()
    }
    _write(out, lambda part: safetensors.torch.save_file(whole, part, {"format": "pt"}))
    lines = [f"{out}: {len(whole)} tensors of {path}" + f", of its {'.'.join(where)}" * bool(where)]
    if left := [*_beside(value, where), *(name for name in found if name not in tensors)]:
        lines.append(f"left out: {joined(left)}")
    return lines


# --- Reading -------------------------------------------------------------------------------------


def _load(path: pathlib.Path, torch) -> Any:
    """Reads what torch.save wrote, or a `.safetensors`."""
    if path.suffix == ".safetensors" and not files.is_torch(path):
        import safetensors.torch

        try:
            return safetensors.torch.load_file(path)
        except Exception as error:  # it has errors of its own
            problem = files.description(path) or f"it is cut short or damaged ({error})"
            raise UserError(f"{path} cannot be read: {problem}") from error
    if not files.is_torch(path):
        problem = files.description(path) or "its contents are not known here"
        raise UserError(f"{path} is not what torch.save writes: {problem}")
    if files.is_program(path):
        raise UserError(
            f"{path} is a program of TorchScript. If you trust it, `torch.save(torch.jit.load("
            f"{str(path)!r}).state_dict(), 'weights.pth')` in Python makes what can be converted"
        )
    allowed: dict[str, Any] = {f"{x.__module__}.{x.__name__}": x for x in _NUMPY}
    allowed |= {f"builtins.{x.__name__}": x for x in (list, dict, set, frozenset, slice, complex)}
    allowed |= dict.fromkeys(("builtins.range", "collections.deque"), lambda *_: [])
    allowed["_codecs.encode"] = _bytes
    for name in ("scalar", "_reconstruct"):  # of NumPy's numbers and arrays, before 2.0 and since
        function = getattr(importlib.import_module("numpy._core.multiarray"), name)
        allowed |= {f"numpy.{core}.multiarray.{name}": function for core in ("core", "_core")}
    while True:
        pairs = [(x, name) for name, x in allowed.items()]
        try:
            # Given a path, torch.load would judge by its suffix.
            with torch.serialization.safe_globals(pairs), open(path, "rb") as file:
                return torch.load(file, map_location="cpu", weights_only=True)
        except Exception as error:  # a damaged file can make it raise anything
            name = _unknown_class(str(error))
            if not name or name in allowed:
                raise UserError(f"{path} cannot be read as tensors: {_reason(error)}") from error
            allowed[name] = _Unread


def _unknown_class(message: str) -> str:
    """The name of the class that the reader did not know; empty if it may not be replaced."""
    match = re.search(r"GLOBAL ([\w.]+) was not an allowed global", message)
    name = match[1] if match else ""
    python = {*sys.stdlib_module_names, *_compat_pickle.IMPORT_MAPPING}  # under its old names, too
    refused = {*python, "torch", "numpy"} - _DATA
    if re.match(r"torch\.(torch_version|optim|amp|cuda\.amp)\.", name):
        return name
    return "" if name.split(".")[0] in refused else name


def _reason(error: Exception) -> str:
    found = re.search(r"GLOBAL ([\w.]+)", str(error))
    if not found:
        text = str(error)  # torch's advice in it would run the file's code
        words = re.search(r"error:\s*(\S.*)", text) or re.match(r"(?!Weights only)(\S.*)", text)
        return f"{words[1][:200] if words else type(error).__name__}. {_SAVE}"
    if found[1].startswith("torch.nn."):
        return f"{found[1]} in it is an object, as of a whole module, not tensors. {_SAVE}"
    return f"it would run {found[1]}. {_SAVE}"


_SAVE = (
    "Where its program is, save the tensors alone: torch.save(model.state_dict(), 'weights.pth')"
)


def _bytes(text: str, encoding: str) -> bytes:
    """Makes bytes as pickle writes them for old versions of Python."""
    if encoding != "latin1":
        raise ValueError(f"bytes in the encoding {encoding[:20]!r}")
    return text.encode("latin1")


# --- Choosing ------------------------------------------------------------------------------------


def _choose(
    value: Any, path: pathlib.Path, keep: str, torch
) -> tuple[tuple[str, ...], dict[str, Any], dict[str, Any]]:
    """Chooses one of the dicts of tensors in a checkpoint.

    Args:
      keep: the beginning of the names of those tensors that are wanted; the names may begin with
        the keys that lead to their dict.

    Returns:
      The keys that lead to the dict, all of its tensors, and those that are wanted.
    """
    dicts = dict(_dicts(value, (), set(), torch))
    if not dicts:
        parts = [f"{key} ({_kind(x)})" for key, x in value.items()] if type(value) is dict else []
        inside = f" of {joined(parts)}" if parts else ""
        raise UserError(
            f"{path} holds no tensors with names, but a {_kind(value)}{inside}. {_SAVE}"
        )
    wanted = {
        where: {name: x for name, x in some.items() if _begins(where, name, keep)}
        for where, some in dicts.items()
    }
    wanted = {where: some for where, some in wanted.items() if some}
    if not wanted:
        names = [".".join((*where, name)) for where, some in dicts.items() for name in some]
        raise UserError(f"{path} has no tensor whose name begins with {keep}: {joined(names)}")

    def rank(where):
        size = sum(x.numel() for x in wanted[where].values())
        return prefixes.has_layout(wanted[where]), prefixes.role(".".join(where)), size

    where = max(sorted(wanted), key=rank)
    return where, dicts[where], wanted[where]


def _begins(where: tuple[str, ...], name: str, keep: str) -> bool:
    own = prefixes.unwrapped(name)
    return own.startswith(keep) or ".".join((*where, own)).startswith(keep)


def _dicts(
    value: Any, where: tuple[str, ...], seen: set[int], torch
) -> Iterator[tuple[tuple[str, ...], dict[str, Any]]]:
    """Yields the dicts that hold tensors by name, and the keys that lead to each."""
    if not isinstance(value, Mapping) or id(value) in seen or len(where) > _DEEPEST:
        return
    seen.add(id(value))  # a pickle can hold itself
    tensors = {}
    for name, x in value.items():
        if not isinstance(name, str):
            continue
        if re.fullmatch(_OF_OPTIMIZERS, name):
            continue
        if isinstance(x, np.ndarray) and x.dtype.kind in "fiub":
            x = torch.from_numpy(np.ascontiguousarray(x))
        if isinstance(x, torch.Tensor):
            tensors[name] = x
        yield from _dicts(x, (*where, name), seen, torch)
    if tensors:
        yield where, tensors


def _beside(value: Any, where: tuple[str, ...]) -> Iterator[str]:
    """Lists what is beside the chosen dict, and in it what is no tensor."""
    for key in (*where, None):
        for name, x in value.items():
            if name != key and (key is not None or not hasattr(x, "shape")):
                yield f"{name} ({_kind(x)})"
        value = value if key is None else value[key]


def _kind(value: Any) -> str:
    return type(value).__name__


# --- Writing -------------------------------------------------------------------------------------


def _refuse_claims(tensors: Mapping[str, Any], path: pathlib.Path, torch) -> None:
    """Raises UserError if there are tensors without numbers, or far larger than the file."""
    for name, x in tensors.items():
        if x.layout != torch.strided or x.is_quantized or x.is_meta:
            raise UserError(f"{path}: {name} is sparse, quantised or without numbers")
    size = sum(x.numel() * x.element_size() for x in tensors.values())
    if size > max(_ALWAYS_ALLOWED, _MOST_TIMES_ITS_SIZE * path.stat().st_size):
        raise UserError(f"{path}: its tensors claim to be {size} bytes, far more than the file has")


def _write(out: pathlib.Path, save: Callable[[pathlib.Path], None]) -> None:
    """Writes a file whole or not at all; one with other contents stays."""
    part = out.with_name(f"{out.name}.{os.getpid()}.part")
    try:
        save(part)
        if out.exists():
            if out.is_file() and file_sha256(out) == file_sha256(part):
                return
            raise UserError(f"{out} is there already, with other contents: name another file")
        os.replace(part, out)
    except UserError:
        raise
    except Exception as error:  # safetensors has errors of its own
        raise UserError(f"{out} cannot be written: {error}") from error
    finally:
        with contextlib.suppress(OSError):
            part.unlink()
