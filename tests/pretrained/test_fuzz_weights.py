"""Weight files: a value or one message comes of thousands that are nearly right.

`pytest -m long tests/pretrained/test_fuzz_weights.py -rP` takes 10,000 and shows the counts.
"""

import functools
import itertools
import json
import warnings
import zipfile

import numpy as np
import onnx
import pytest

from noah_jax.errors import UserError
from tests.helpers import damage
from tests.helpers.fuzzing import NUMBERS, corrupt, pick, report, try_all

_abstract = functools.cache(damage.abstract_backbone)
_SIZES = (0, 1, 2, 3, 5, 8, 16, 24, 32, -1, 127, 2**16, 2**31, 2**32, 2**40, 2**62, 2**63, 10**20)
_KINDS = ("<f4", "<f8", "<f2", ">f4", "<i4", "|u1", "|b1", "<c8", "|O", "<U9", "|V2", "<M8[s]", "")
_NUMBERS = (0.0, -0.0, 1e-45, 1.0, 3e38, -3e38, 1e300, np.inf, np.nan)


def _name(rng, names):
    """One of the file's, of another layout's, or one that looks like them."""
    name = pick(rng, names)
    match rng.integers(5):
        case 0:
            name = pick(rng, list(damage.FORMATS[pick(rng, list(damage.FORMATS))][1]))
        case 1:
            name = name.replace("1", pick(rng, ("7", "999999999999", "-1", "", "9" * 40, "٣")))
        case 2:
            name = pick(rng, ("dist_token", "reg_token", "norm_pre.weight", "position.grid"))
        case 3:
            name = corrupt(name.encode(), rng).decode(errors="replace").replace("\0", "")
    return name or "x"


@np.errstate(all="ignore")
def _other_tensors(kind, rng):
    """The tensors of a small model, a few of them changed in name, shape, type or values."""
    arrays = damage.tensors(kind)
    for _ in range(rng.integers(1, 4)):
        names = list(arrays)
        name = pick(rng, names)
        array = arrays[name]
        match rng.integers(6):
            case 0:
                arrays[_name(rng, names)] = arrays.pop(name)
            case 1:
                shape = [pick(rng, _SIZES[:9]) for _ in range(rng.integers(0, 6))]
                arrays[name] = np.zeros(shape[: 1 + (np.prod(shape) < 1e6) * 9], np.float32)
            case 2:
                kinds = ("f2", "f4", "f8", "i1", "i4", "u8", "?")
                arrays[name] = (100 * array).astype(pick(rng, kinds))
            case 3:
                wide = array.astype(pick(rng, ("f4", "f8")))
                wide.reshape(-1)[-1:] = pick(rng, _NUMBERS)
                arrays[name] = wide
            case 4:
                del arrays[name]
            case 5:
                arrays[_name(rng, names)] = array
    return {name: np.ascontiguousarray(array) for name, array in arrays.items()}


def _lie_npz(arrays, rng, path):
    """Headers that say something else than the data."""
    with zipfile.ZipFile(path, "w", pick(rng, (0, 0, 0, 8, 8, 8, 8, 12, 14))) as file:
        liar = pick(rng, list(arrays))
        for name, array in arrays.items():
            shape, kind = array.shape, "<f4"
            if name == liar:
                shape = tuple(pick(rng, _SIZES) for _ in range(rng.integers(0, 4)))
                kind = pick(rng, _KINDS)
            header = {"descr": kind, "fortran_order": bool(rng.integers(2)), "shape": shape}
            text = str(header).encode().ljust(100) + b"\n"
            version = bytes([pick(rng, (1, 1, 1, 2, 3, 9)) if name == liar else 1, 0])
            length = len(text).to_bytes(2 if version[0] == 1 else 4, "little")
            data = array.astype(np.float32).tobytes()
            file.writestr(f"{name}.npy", b"\x93NUMPY" + version + length + text + data)


def _lie_safetensors(data, rng):
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    name = pick(rng, [name for name in header if name != "__metadata__"])
    key = pick(rng, ("dtype", "shape", "data_offsets", "more"))
    types = ("F32", "F64", "F16", "BF16", "I32", "F8_E4M3", "F4", "C64", "BOOL", "", "O", 7)
    numbers = [pick(rng, _SIZES) for _ in range(rng.integers(0, 4))]
    header[name][key] = pick(rng, (pick(rng, types), numbers, numbers, None, {"a": []}))
    text = json.dumps(header).encode()
    length = pick(rng, (len(text), len(text), len(text), *(max(0, n) for n in _SIZES[:16])))
    return int(length).to_bytes(8, "little") + text + data[8 + int.from_bytes(data[:8], "little") :]


def _lie_onnx(arrays, rng):
    tensors = damage.initialisers(arrays)
    tensor = pick(rng, tensors)
    match rng.integers(5):
        case 0:
            del tensor.dims[:]
            sizes = [n for n in _SIZES if n < 2**63]
            tensor.dims.extend(pick(rng, sizes) for _ in range(rng.integers(0, 4)))
        case 1:
            tensor.data_type = int(rng.integers(0, 35))
        case 2:
            tensor.raw_data = rng.bytes(int(rng.integers(0, 99)))
        case 3:
            tensor.ClearField("raw_data")
            field = pick(rng, ("float_data", "int32_data", "double_data", "int64_data"))
            getattr(tensor, field).extend([1] * int(rng.integers(0, 99)))
        case 4:
            tensor.data_location = onnx.TensorProto.EXTERNAL
            location = pick(rng, ("/etc/passwd", "../x", "", "x"))
            tensor.external_data.add(key="location", value=location)
    return damage.onnx_model(tensors)


def _write_weights(kind, rng, path):
    """A file of that format with something wrong in it, or nothing."""
    arrays = _other_tensors(kind, rng) if rng.random() < 0.5 else damage.tensors(kind)
    with warnings.catch_warnings(action="ignore"):  # of names that are twice in a zip file
        if kind.startswith("npz") and rng.random() < 0.4:
            _lie_npz(arrays, rng, path)
        elif kind == "wheel" and rng.random() < 0.4:
            with zipfile.ZipFile(path, "w", pick(rng, (0, 0, 8, 8, 8, 12))) as file:
                for name in (("a.onnx",), ("a.onnx", "b.onnx"), ("a.onnx", "a.onnx"), ())[
                    pick(rng, (0, 0, 0, 0, 1, 2, 3))
                ]:
                    file.writestr(name, _lie_onnx(arrays, rng))
        else:
            damage.write(kind, arrays, path)
    if kind == "safetensors" and rng.random() < 0.4:
        path.write_bytes(_lie_safetensors(path.read_bytes(), rng))
    if kind == "onnx" and rng.random() < 0.4:
        path.write_bytes(_lie_onnx(arrays, rng))
    for _ in range(rng.integers(0, 3)):
        path.write_bytes(corrupt(path.read_bytes(), rng))


@pytest.mark.parametrize("number", NUMBERS)
def test_weights(number, tmp_path):
    rng, kinds = np.random.default_rng(2), itertools.cycle(damage.FORMATS)

    def files():
        for i in range(number):
            kind = next(kinds)
            path = tmp_path / f"{i}{damage.FORMATS[kind][0]}"
            _write_weights(kind, rng, path)
            yield path

    def read(path):
        try:
            for array in damage.backbone(_abstract(), path).values():
                assert array.dtype == np.float32 and np.isfinite(array).all()
        except UserError as error:
            assert str(path) in str(error)
            raise
        finally:
            path.unlink()

    report("weights", try_all(files(), read), number)
    assert list(tmp_path.iterdir()) == []  # nothing in them was unpacked
