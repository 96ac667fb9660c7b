"""Files that were made to do harm: run code, read other files, take the memory, write elsewhere."""

import io
import json
import struct
import warnings
import zipfile

import numpy as np
import onnx
import pytest
import safetensors.numpy

from noah_jax import pretrained
from noah_jax.errors import UserError
from noah_jax.pretrained import containers
from noah_jax.pretrained.weights import read_files
from tests.helpers import damage


def _npy(shape, kind="<f4", data=b"", version=b"\1\0"):
    header = str({"descr": kind, "fortran_order": False, "shape": shape}).encode() + b"\n"
    length = struct.pack("<H" if version == b"\1\0" else "<I", len(header))
    return b"\x93NUMPY" + version + length + header + data


def _zip(path, members, method=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", method) as file:
        for name, data in members:
            file.writestr(name, data)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (_npy((5**16,)), "cls claims to be float32 [152587890625], but has 0 bytes"),
        (_npy((5**16,), data=bytes(99)), "has 99 bytes"),
        (_npy((2**40, 2**40)), "has 0 bytes"),
        (_npy((-1,), data=bytes(4)), "has 4 bytes"),
        (_npy((2,), data=bytes(4)), "has 4 bytes"),
        (_npy((2,), data=bytes(12)), "has 12 bytes"),
        (_npy((5**16, 0), "<V8"), "claims to be"),
        (_npy((2,), "|O", b"cos\nsystem\n"), "object"),
        (_npy((2,), "<U9999999"), "claims to be"),
        (_npy((1,), [("a", "<f4")], bytes(4)), "claims to be"),
        (_npy((1,), version=b"\3\0", data=bytes(4)), "cls has no header"),
        (_npy((1,), kind=" " * 2000, data=bytes(4)), "cls has no header"),
        (_npy((1,), version=b"\2\0")[:8] + b"\xff" * 4, "cls has no header"),
        (b"\x93NUMPY\1\0\x64\x23" + b"-" * 9060, "cls has no header"),
        (b"[" * 999, "cls has no header"),
        (b"", "cls has no header"),
    ],
)
def test_npz_whose_headers_lie(array, message, tmp_path, no_memory):
    path = tmp_path / "w.npz"
    _zip(path, [("embedding/kernel.npy", _npy((1,), data=bytes(4))), ("cls.npy", array)])
    with pytest.raises(UserError) as error:
        read_files([path])
    assert str(path) in str(error.value) and message in str(error.value)


def test_npz_is_limited_in_what_it_unpacks_to(tmp_path, monkeypatch, no_memory):
    path, zeros = tmp_path / "w.npz", _npy((5_000_000,), data=bytes(20_000_000))
    _zip(path, [("embedding/kernel.npy", zeros)], zipfile.ZIP_DEFLATED)
    assert read_files([path])["patch_embed.kernel"].shape == (1, 5_000_000)
    monkeypatch.setattr(containers, "_ALWAYS_ALLOWED", 1_000_000)
    with pytest.raises(UserError, match="holds 20000... bytes, more than the 1000000"):
        read_files([path])
    _zip(path, [("embedding/kernel.npy", zeros)], zipfile.ZIP_BZIP2)
    with pytest.raises(UserError, match="another method than deflate"):
        read_files([path])


def test_npz_members_are_written_nowhere(tmp_path):
    inner = tmp_path / "inner"
    inner.mkdir()
    names = ["../out.npy", f"{tmp_path}/abs.npy", "embedding/kernel.npy"]
    _zip(inner / "w.npz", [(name, _npy((1, 1), data=bytes(4))) for name in names])
    assert "../out" in read_files([inner / "w.npz"])  # `arrange` reports it left over
    assert [path.name for path in tmp_path.rglob("*")] == ["inner", "w.npz"]


@pytest.mark.parametrize("names", [["a", "a"], ["a", "a.npy"], ["a\x1b[2J"], ["a" * 301]])
def test_names_that_are_none(names, tmp_path):
    """One of two arrays would be taken, nobody knows which; and messages go to a terminal."""
    with warnings.catch_warnings(action="ignore"):  # of duplicates
        _zip(tmp_path / "w.npz", [(name, _npy((1,), data=bytes(4))) for name in names])
    with pytest.raises(UserError, match="two tensors a|is not the name of a tensor") as error:
        read_files([tmp_path / "w.npz"])
    assert str(error.value).isprintable() and len(str(error.value)) < 300


def _safetensors(header, data=b"", length=None):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def _tensor(start, end, shape=(2,), dtype="F32"):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [start, end]}


@pytest.mark.parametrize(
    "content",
    [
        _safetensors({}, length=2**63),
        _safetensors({}, length=99_999_999),
        _safetensors({"a": _tensor(0, 8), "b": _tensor(0, 8)}, bytes(8)),
        _safetensors({"a": _tensor(0, 8), "b": _tensor(4, 12)}, bytes(12)),
        _safetensors({"a": _tensor(0, 8)}, bytes(4)),
        _safetensors({"a": _tensor(0, 8)}, bytes(80)),
        _safetensors({"a": _tensor(8, 16)}, bytes(16)),
        _safetensors({"a": _tensor(8, 0)}, bytes(8)),
        _safetensors({"a": _tensor(0, 2**63)}, bytes(8)),
        _safetensors({"a": _tensor(0, 8, (2**62, 2**62))}, bytes(8)),
        _safetensors({"a": _tensor(0, 8, (5**16,))}, bytes(8)),
        _safetensors({"a": _tensor(0, 8, (-2,))}, bytes(8)),
        _safetensors({"a": _tensor(0, 8, (2,), "OBJECT")}, bytes(8)),
        _safetensors({"\x1b[2J": _tensor(0, 8), "\x1b[3J": _tensor(0, 8)}, bytes(8)),
        _safetensors(b'{"a": ' * 50_000),
        _safetensors(
            b'{"cls_token": {"dtype":"F32","shape":[2],"data_offsets":[0,8]},'
            b'"cls_token": {"dtype":"F32","shape":[2],"data_offsets":[8,16]}}',
            bytes(16),
        ),
    ],
)
def test_safetensors_whose_headers_lie(content, tmp_path, no_memory):
    """All but the length is the library's own work."""
    path = tmp_path / "w.safetensors"
    path.write_bytes(content)
    with pytest.raises(UserError, match="cannot read weights from .*w.safetensors") as error:
        read_files([path])
    assert str(error.value).isprintable()


def _onnx(**fields):
    tensor = onnx.TensorProto(name="onnx::Reshape_1", data_type=1, dims=[1, 1, 2])
    for name, value in fields.items():
        if isinstance(value, list):
            tensor.ClearField(name)
            getattr(tensor, name).extend(value)
        else:
            setattr(tensor, name, value)
    others = {"onnx::Concat_1": np.zeros((1, 1, 2), np.float32)}
    return damage.onnx_model([tensor, *damage.initialisers(others)])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (_onnx(raw_data=bytes(4)), "[1, 1, 2], but has 4 bytes"),
        (_onnx(raw_data=bytes(8), dims=[5**16]), "but has 8 bytes"),
        (_onnx(raw_data=bytes(8), dims=[2**62, 2**62]), "but has 8 bytes"),
        (_onnx(raw_data=bytes(8), dims=[-1]), "expected numbers"),
        (_onnx(float_data=[1.0], dims=[5**16]), "cannot reshape"),
        (_onnx(raw_data=bytes(8), dims=[5**16], data_type=onnx.TensorProto.INT4), "int4"),
        (_onnx(string_data=[b"a"], data_type=onnx.TensorProto.STRING), "expected numbers"),
        (_onnx(raw_data=bytes(8), data_type=99), "cannot read weights"),
        (_onnx(int32_data=[1, 2], data_type=onnx.TensorProto.INT32), "expected floating-point"),
    ],
)
@pytest.mark.parametrize("suffix", [".onnx", ".whl"])
def test_onnx_whose_shapes_lie(suffix, content, message, tmp_path, no_memory):
    path = tmp_path / f"w{suffix}"
    _zip(path, [("model.onnx", content)]) if suffix == ".whl" else path.write_bytes(content)
    with pytest.raises(UserError) as error:
        read_files([path])
    assert str(path) in str(error.value) and message in str(error.value)


def test_onnx_reads_no_other_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "secret").write_bytes(np.ones(2, np.float32).tobytes())
    location = onnx.StringStringEntryProto(key="location", value="secret")
    (tmp_path / "w.onnx").write_bytes(
        _onnx(data_location=onnx.TensorProto.EXTERNAL, external_data=[location])
    )
    with pytest.raises(UserError, match="onnx::Reshape_1 is in another file"):
        read_files([tmp_path / "w.onnx"])


@pytest.mark.parametrize("field", [b"\x0a", b"\x2a"])  # a node, an initialiser
@pytest.mark.parametrize("suffix", [".onnx", ".whl"])
def test_onnx_of_many_empty_parts(field, suffix, tmp_path, no_memory):
    """Each takes two bytes here, and a hundred and fifty in memory."""
    graph = (field + b"\x00") * (1 << 20)
    content = b"\x3a\x80\x80\x80\x01" + graph
    path = tmp_path / f"w{suffix}"
    _zip(path, [("model.onnx", content)]) if suffix == ".whl" else path.write_bytes(content)
    with pytest.raises(UserError, match="more than the 33554432 that are allowed"):
        read_files([path])


def test_onnx_nested_without_end(tmp_path):
    data = b""
    for tag in [b"\x32", b"\x2a", b"\x0a"] * 2000 + [b"\x3a"]:  # model.graph.node.attribute.g.node…
        size, length = len(data), b""
        while size > 127:
            length, size = length + bytes([size & 127 | 128]), size >> 7
        data = tag + length + bytes([size]) + data
    (tmp_path / "w.onnx").write_bytes(data)
    with pytest.raises(UserError, match="cannot read weights"):
        read_files([tmp_path / "w.onnx"])


def test_wheel_is_limited(tmp_path, monkeypatch, no_memory):
    path, model = tmp_path / "w.whl", _onnx(raw_data=bytes(8))
    _zip(path, [("a.onnx", model), ("b.onnx", model)])
    with pytest.raises(UserError, match="w.whl: it holds 2 .onnx files"):
        read_files([path])
    monkeypatch.setattr(containers, "_ALWAYS_ALLOWED", 1_000_000)
    _zip(path, [("a.onnx", model + bytes(20_000_000))], zipfile.ZIP_DEFLATED)
    with pytest.raises(UserError, match="more than the 1000000"):
        read_files([path])
    monkeypatch.setattr(containers, "_LARGEST_ONNX", 10)
    for suffix in (".whl", ".onnx"):
        path = tmp_path / f"small{suffix}"
        _zip(path, [("a.onnx", model)]) if suffix == ".whl" else path.write_bytes(model)
        with pytest.raises(UserError, match="more than the 10 "):
            read_files([path])


@pytest.mark.parametrize(
    "tensors",
    [
        {"patch_embed.proj.weight": (8, 3, 2, 2), f"blocks.{10**15}.norm1.bias": (8,)},
        {"patch_embed.proj.weight": (8, 3, 2, 2), f"blocks.{'9' * 250}.norm1.bias": (8,)},
        {"dist_token": (100_000, 1, 1), "pos_embed": (1, 9, 100_000)},
        {"patch_embed.proj.weight": (8, 3, 2, 2), "pos_embed": (1, 2, 1_000_000)},
        {"patch_embed.proj.weight": (8, 3, 2, 2), "pos_embed": (0, 5, 8)},
        {"patch_embed.proj.weight": (8, 3, 2, 2), "pos_embed": (1, 0, 8)},
        {"patch_embed.proj.weight": (8, 3, 2, 2), "pos_embed": (1, 1, 8)},
        {
            "patch_embed.proj.weight": (8, 3, 2, 2),
            "blocks.0.ls1.gamma": (100_000, 1),
            "blocks.0.attn.proj.weight": (100_000, 1),
            "blocks.0.attn.proj.bias": (100_000,),
        },
        {"patch_embed.proj.weight": (8, 3, 2, 2), "blocks.0.ls1.gamma": ()},
    ],
)
def test_tensors_that_would_grow(tensors, tmp_path, no_memory):
    """They would grow by a block number, by broadcasting, by resizing."""
    path = tmp_path / "w.safetensors"
    arrays = {name: np.zeros(shape, np.float32) for name, shape in tensors.items()}
    safetensors.numpy.save_file(arrays, path)
    with pytest.raises(UserError, match="do not fit the model"):
        pretrained.backbone(damage.VIT, path)


def test_a_tensor_under_our_name_that_is_no_weight(tmp_path):
    """The layout has no such name, so that nothing is made of the tensor."""
    google = damage.tensors("npz stored")
    del google["Transformer/encoder_norm/bias"]
    google["norm.bias"] = np.zeros(8, np.complex64)
    safetensors.numpy.save_file(google, tmp_path / "w.safetensors")
    with pytest.raises(
        UserError, match="1 problems.*\n  norm.bias holds complex64, expected float"
    ):
        pretrained.backbone(damage.VIT, tmp_path / "w.safetensors")


def test_numbers_that_overflow_are_not_finite(tmp_path):
    tensors = damage.tensors("safetensors")
    tensors["norm.bias"] = np.full(8, 1e300)
    tensors["pos_embed"] = np.full((1, 10, 8), -1e300)  # of another size
    for name in ("blocks.0.ls1.gamma", "blocks.0.attn.proj.weight"):
        tensors[name] = np.full_like(tensors[name], 1e30)
    safetensors.numpy.save_file(tensors, tmp_path / "w.safetensors")
    with pytest.raises(UserError) as error:
        pretrained.backbone(damage.VIT, tmp_path / "w.safetensors")
    named = [line.split()[0] for line in str(error.value).splitlines()[1:]]
    assert named == ["blocks.0.attn.proj.weight", "norm.bias", "pos_embed"]


def test_a_file_is_no_other_than_its_name_says(tmp_path):
    """The contents decide nothing: no reader is guessed."""
    buffer = io.BytesIO()
    np.save(buffer, np.zeros(3))
    for suffix in (".npz", ".safetensors", ".onnx", ".whl", ".npy", ".pkl", ".pt", ""):
        (tmp_path / f"w{suffix}").write_bytes(buffer.getvalue())
        with pytest.raises(UserError, match="cannot read weights"):
            read_files([tmp_path / f"w{suffix}"])
