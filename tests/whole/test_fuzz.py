"""Each reader gets thousands of inputs that are nearly right: it gives a value or one message.

`pytest -m long tests/whole/test_fuzz.py -rP` takes the 10,000 of each and shows the counts.
"""

import functools
import itertools
import json
import pathlib
import string
import warnings
import zipfile

import numpy as np
import onnx
import pytest
from absl import flags
from ml_collections import config_flags

from configs import demo, domain, fewshot, folder, vtab
from noah_jax import config as config_lib
from noah_jax.errors import UserError
from noah_jax.interop import read_genome
from noah_jax.space.genomes import ALL_MODULES, MODULES
from tests.helpers import damage

_abstract = functools.cache(damage.abstract_backbone)
CONFIGS = (demo, domain, fewshot, folder, vtab)
NUMBERS = (300, pytest.param(10_000, marks=pytest.mark.long))


def _report(what, counts, number):
    print(f"{what}: {number} inputs, {counts['read']} read, {counts['refused']} refused")
    assert counts.total() == number
    assert counts["read"] > number / 100 and counts["refused"] > number / 10


# --- Weights -------------------------------------------------------------------------------------

_SIZES = (0, 1, 2, 3, 5, 8, 16, 24, 32, -1, 127, 2**16, 2**31, 2**32, 2**40, 2**62, 2**63, 10**20)
_KINDS = ("<f4", "<f8", "<f2", ">f4", "<i4", "|u1", "|b1", "<c8", "|O", "<U9", "|V2", "<M8[s]", "")
_NUMBERS = (0.0, -0.0, 1e-45, 1.0, 3e38, -3e38, 1e300, np.inf, np.nan)


def _pick(rng, choices):
    return choices[rng.integers(len(choices))]


def _name(rng, names):
    """One of the file's, of another layout's, or one that looks like them."""
    name = _pick(rng, names)
    match rng.integers(5):
        case 0:
            name = _pick(rng, list(damage.FORMATS[_pick(rng, list(damage.FORMATS))][1]))
        case 1:
            name = name.replace("1", _pick(rng, ("7", "999999999999", "-1", "", "9" * 40, "٣")))
        case 2:
            name = _pick(rng, ("dist_token", "reg_token", "norm_pre.weight", "position.grid"))
        case 3:
            name = damage.corrupt(name.encode(), rng).decode(errors="replace").replace("\0", "")
    return name or "x"


@np.errstate(all="ignore")
def _other_tensors(kind, rng):
    """The tensors of a small model, a few of them changed in name, shape, type or values."""
    arrays = damage.tensors(kind)
    for _ in range(rng.integers(1, 4)):
        names = list(arrays)
        name = _pick(rng, names)
        array = arrays[name]
        match rng.integers(6):
            case 0:
                arrays[_name(rng, names)] = arrays.pop(name)
            case 1:
                shape = [_pick(rng, _SIZES[:9]) for _ in range(rng.integers(0, 6))]
                arrays[name] = np.zeros(shape[: 1 + (np.prod(shape) < 1e6) * 9], np.float32)
            case 2:
                kinds = ("f2", "f4", "f8", "i1", "i4", "u8", "?")
                arrays[name] = (100 * array).astype(_pick(rng, kinds))
            case 3:
                wide = array.astype(_pick(rng, ("f4", "f8")))
                wide.reshape(-1)[-1:] = _pick(rng, _NUMBERS)
                arrays[name] = wide
            case 4:
                del arrays[name]
            case 5:
                arrays[_name(rng, names)] = array
    return {name: np.ascontiguousarray(array) for name, array in arrays.items()}


def _lie_npz(arrays, rng, path):
    """Headers that say something else than the data."""
    with zipfile.ZipFile(path, "w", _pick(rng, (0, 0, 0, 8, 8, 8, 8, 12, 14))) as file:
        liar = _pick(rng, list(arrays))
        for name, array in arrays.items():
            shape, kind = array.shape, "<f4"
            if name == liar:
                shape = tuple(_pick(rng, _SIZES) for _ in range(rng.integers(0, 4)))
                kind = _pick(rng, _KINDS)
            header = {"descr": kind, "fortran_order": bool(rng.integers(2)), "shape": shape}
            text = str(header).encode().ljust(100) + b"\n"
            version = bytes([_pick(rng, (1, 1, 1, 2, 3, 9)) if name == liar else 1, 0])
            length = len(text).to_bytes(2 if version[0] == 1 else 4, "little")
            data = array.astype(np.float32).tobytes()
            file.writestr(f"{name}.npy", b"\x93NUMPY" + version + length + text + data)


def _lie_safetensors(data, rng):
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    name = _pick(rng, [name for name in header if name != "__metadata__"])
    key = _pick(rng, ("dtype", "shape", "data_offsets", "more"))
    types = ("F32", "F64", "F16", "BF16", "I32", "F8_E4M3", "F4", "C64", "BOOL", "", "O", 7)
    numbers = [_pick(rng, _SIZES) for _ in range(rng.integers(0, 4))]
    header[name][key] = _pick(rng, (_pick(rng, types), numbers, numbers, None, {"a": []}))
    text = json.dumps(header).encode()
    length = _pick(rng, (len(text), len(text), len(text), *(max(0, n) for n in _SIZES[:16])))
    return int(length).to_bytes(8, "little") + text + data[8 + int.from_bytes(data[:8], "little") :]


def _lie_onnx(arrays, rng):
    tensors = damage.initialisers(arrays)
    tensor = _pick(rng, tensors)
    match rng.integers(5):
        case 0:
            del tensor.dims[:]
            sizes = [n for n in _SIZES if n < 2**63]
            tensor.dims.extend(_pick(rng, sizes) for _ in range(rng.integers(0, 4)))
        case 1:
            tensor.data_type = int(rng.integers(0, 35))
        case 2:
            tensor.raw_data = rng.bytes(int(rng.integers(0, 99)))
        case 3:
            tensor.ClearField("raw_data")
            field = _pick(rng, ("float_data", "int32_data", "double_data", "int64_data"))
            getattr(tensor, field).extend([1] * int(rng.integers(0, 99)))
        case 4:
            tensor.data_location = onnx.TensorProto.EXTERNAL
            location = _pick(rng, ("/etc/passwd", "../x", "", "x"))
            tensor.external_data.add(key="location", value=location)
    return damage.onnx_model(tensors)


def _write_weights(kind, rng, path):
    """A file of that format with something wrong in it, or nothing."""
    arrays = _other_tensors(kind, rng) if rng.random() < 0.5 else damage.tensors(kind)
    with warnings.catch_warnings(action="ignore"):  # of names that are twice in a zip file
        if kind.startswith("npz") and rng.random() < 0.4:
            _lie_npz(arrays, rng, path)
        elif kind == "wheel" and rng.random() < 0.4:
            with zipfile.ZipFile(path, "w", _pick(rng, (0, 0, 8, 8, 8, 12))) as file:
                for name in (("a.onnx",), ("a.onnx", "b.onnx"), ("a.onnx", "a.onnx"), ())[
                    _pick(rng, (0, 0, 0, 0, 1, 2, 3))
                ]:
                    file.writestr(name, _lie_onnx(arrays, rng))
        else:
            damage.write(kind, arrays, path)
    if kind == "safetensors" and rng.random() < 0.4:
        path.write_bytes(_lie_safetensors(path.read_bytes(), rng))
    if kind == "onnx" and rng.random() < 0.4:
        path.write_bytes(_lie_onnx(arrays, rng))
    for _ in range(rng.integers(0, 3)):
        path.write_bytes(damage.corrupt(path.read_bytes(), rng))


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

    _report("weights", damage.try_all(files(), read), number)
    assert list(tmp_path.iterdir()) == []  # nothing in them was unpacked


# --- Genomes -------------------------------------------------------------------------------------

BLOCKS = 12
_ROWS = [[5, 0, 1]] * BLOCKS
_LISTS = {"VISUAL_PROMPT_DIM": [5] * BLOCKS, "LORA_DIM": [0] * BLOCKS, "ADAPTER_DIM": [1] * BLOCKS}
_YAML = "MODEL_NAME: vit\nRETRAIN:\n" + "".join(
    f"  {key}: {row}\n" if i else f"  {key}:\n" + "".join(f"    - {size}\n" for size in row)
    for i, (key, row) in enumerate(_LISTS.items())
)
_JSONS = [
    json.dumps({"genome": rows, "params": 7, "val_accuracy": 0.5})
    for rows in (_ROWS, [[5, 0, 1, 8, -1, 0, 2]] * BLOCKS)
]

_COMMON = ["[", "]", "{", "}", ",", ":", '"', "'", "\\", "\n", "\r\n", "\t", "\0", "é", "\ud800"]
_COMMON += ["-1", "0", "1", "5.0", "1e5", "1e999", "NaN", "Infinity", ".inf", "true", "null", "~"]
_COMMON += ["10000", "10001", "2147483648", "1" + "0" * 30, "9" * 5000, "[" * 300, "{" * 300, "#"]
_YAML_PIECES = ["&a ", "*a", "<<: ", "<<: *a\n", "!!int ", "!!python/object/apply:os.getcwd []"]
_YAML_PIECES += ["!!timestamp ", "!", "!!binary ", "---\n", "...\n", "%TAG ! tag:x,2000:\n", "? "]
_YAML_PIECES += ["- ", "- - - ", "|\n", ">-\n", "2001-01-01", "2001-99-99", "1:60:60", "1:1:1.5"]
_YAML_PIECES += [
    "0x",
    "0x1F",
    "010",
    "0b_",
    "1_0",
    "=",
    ": ",
    "  ",
    "RETRAIN:\n",
    "PREFIX_DIM: 1\n",
]
_JSON_PIECES = ['"genome"', '"genome":', "[5, 0, 1]", "[[", "]]", "\\u12", '"\\ud800"', "\ufeff"]


def _edit(text, pieces, rng):
    """A few pieces put in, put in place of something, or cut out; then some bytes damaged."""
    for _ in range(rng.integers(0, 4)):
        a, b = sorted(rng.integers(0, len(text) + 1, 2).tolist())
        b = _pick(rng, (a, a, a + 1, a + int(rng.integers(1, 9)), b))
        text = text[:a] + _pick(rng, [*pieces, ""]) + text[b:]
    data = text.encode(errors="surrogatepass")
    for _ in range(_pick(rng, (0, 0, 1, 3))):
        data = damage.corrupt(data, rng)
    return data


@pytest.mark.parametrize("number", NUMBERS)
@pytest.mark.parametrize("suffix", ["yaml", "json"])
def test_genomes(suffix, number, tmp_path):
    rng, path = np.random.default_rng(3), tmp_path / f"genome.{suffix}"
    texts, pieces = {"yaml": ([_YAML], _YAML_PIECES), "json": (_JSONS, _JSON_PIECES)}[suffix]

    def read(data):
        path.write_bytes(data)
        try:
            genome = read_genome(path, BLOCKS)
        except UserError as error:
            assert str(path) in str(error)
            raise
        assert genome.dtype == np.int32 and len(genome) == BLOCKS
        assert len(MODULES) <= genome.shape[1] <= len(ALL_MODULES)
        assert genome.min() >= 0 and genome.max() <= 10_000

    inputs = (_edit(_pick(rng, texts), [*_COMMON, *pieces], rng) for _ in range(number))
    _report(f"{suffix} genomes", damage.try_all(inputs, read), number)


# --- Settings ------------------------------------------------------------------------------------

_FLAT = sorted(config_lib.defaults().to_dict() | {"": 0, "sede": 0, "__class__": 0, "items": 0})
_NESTED = [
    f"{group}.{key}"
    for group in ("space", "baseline", "supernet", "retrain", "search")
    for key in config_lib.defaults()[group]
]
_VALUES = ["", "0", "1", "-1", "3", "64", "224", "1.5", "1e999", "nan", "-inf", "True", "true"]
_VALUES += ["None", "9" * 30, "9" * 5000, "x" * 5000, "٣", "\0", "\x1b[2J", "é", "..", "/", "~no"]
_VALUES += ["a\nb", "(1,5)", "(1,", "[1,2]", "{}", "{'vpt': 3}", "(" * 300, "-" * 999 + "1"]
_VALUES += [
    "'a'",
    "noah",
    "lora",
    "lora+vpt",
    "linear+",
    "+",
    "full",
    "all",
    "1+2+4",
    "float32",
    "paper",
]
_VALUES += [
    "vit_b16",
    "vit_l16",
    "vit_b17",
    "vit_s14_reg4",
    "dinov2_vits14",
    "imagenet",
    "bfloat16",
]
_TASKS = ["cifar100", "all", "natural+kitti", "food101", "imagenet", "", "+", "..", "a/b", "no one"]


def _setting(rng):
    key = _pick(rng, _FLAT + _NESTED)
    value = _pick(rng, _VALUES)
    if rng.random() < 0.1:
        letters = string.printable
        value = "".join(_pick(rng, letters) for _ in range(rng.integers(1, 20)))
    return key, value


@pytest.mark.parametrize("number", NUMBERS)
def test_config_strings(number, tmp_path, monkeypatch):
    (tmp_path / "cats").mkdir()
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(4)

    def inputs():
        for _ in range(number):
            parts = [_pick(rng, [*_TASKS, "cats", f"{tmp_path}/cats"])]
            parts += ["=".join(_setting(rng)) for _ in range(_pick(rng, (0, 1, 1, 2, 4)))]
            if rng.random() < 0.2:
                parts.append(_pick(rng, _VALUES))
            yield _pick(rng, CONFIGS), ",".join(parts)

    def read(value):
        module, argument = value
        assert config_lib.expand(module.get_config(argument))

    _report("config strings", damage.try_all(inputs(), read), number)


@pytest.mark.parametrize("number", NUMBERS)
def test_config_flags(number, tmp_path, monkeypatch):
    """--config.KEY=VALUE; what ml_collections and absl refuse is a message of theirs."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(7)

    def inputs():
        for _ in range(number):
            module = _pick(rng, (demo, vtab))
            argument = _pick(rng, ("", ":lora", ":cifar100"))
            argv = ["main", f"--config={pathlib.Path(module.__file__)}{argument}"]
            for _ in range(_pick(rng, (1, 1, 2))):
                key, value = _setting(rng)
                argv.append(f"--config.{key}" + _pick(rng, ("=", "=", "=", "")) + value)
            yield argv

    def read(argv):
        values = flags.FlagValues()
        holder = config_flags.DEFINE_config_file("config", flag_values=values, sys_argv=argv)
        try:
            with warnings.catch_warnings(action="ignore"):
                values(argv)
            assert config_lib.expand(holder.value)
        except (flags.Error, AttributeError, KeyError, ValueError, TypeError, SyntaxError) as error:
            assert "Traceback" not in str(error)
            raise UserError(str(error)) from error

    _report("config flags", damage.try_all(inputs(), read), number)
