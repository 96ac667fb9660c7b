"""Files that are no weights, models in several files, and folders."""

import bz2
import gzip
import io
import json
import lzma
import pickle
import re
import struct
import tarfile
import zipfile

import numpy as np
import pytest
import safetensors.numpy
import torch
from flax import nnx

from noah_jax import pretrained
from noah_jax.errors import UserError
from noah_jax.pretrained import checksums, files
from noah_jax.pretrained.weights import read_files
from tests.helpers import damage

TIMM = damage.tensors("safetensors")


def _saved(save, *arguments):
    buffer = io.BytesIO()
    save(*arguments, buffer)
    return buffer.getvalue()


def _zip(*names):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        for name in names:
            file.writestr(name, "x")
    return buffer.getvalue()


def _tar():
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as file:
        file.addfile(tarfile.TarInfo("weights.npz"))
    return buffer.getvalue()


def _torch(legacy=False):
    state, buffer = {"model": {"a": torch.ones(2)}}, io.BytesIO()
    torch.save(state, buffer, _use_new_zipfile_serialization=not legacy)
    return buffer.getvalue()


NO_WEIGHTS = {  # what it is called → a suffix of its own, contents
    "a Git LFS pointer": (".bin", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n"),
    "a git-annex pointer": ("", b"/annex/objects/SHA256E-s3--00\n"),
    "a web page (HTML)": (".html", b"\xef\xbb\xbf\n<!DOCTYPE html>\n<title>Log in</title>"),
    "a web page (HTML): ": (".txt", b"<!-- x -->\n<HTML><head>"),
    "a text in XML": (".xml", b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>'),
    "a text in JSON: exp": (".json", b' {"error": "Invalid credentials"}'),
    "a text in JSON: an index": (".json", b'{"weight_map": {}}'),
    "a text that begins 'Entry not found'": (".txt", b"Entry not\nfound"),
    "it is empty": (".part", b""),
    "4096 zero bytes": (".part", bytes(9999)),
    "a checkpoint of PyTorch": (".pth", _torch()),
    "a checkpoint of PyTorch or another pickle": (".pt", _torch(legacy=True)),
    "or another pickle": (".pkl", pickle.dumps({"a": 1})),
    "a zip file of weights/a.bin": (".zip", _zip("weights/a.bin", "b")),
    "a zip file (.npz, .whl, .pth) that is cut short": (".zip", _torch()[:-99]),
    "a model of Keras": (".keras", _zip("config.json", "model.weights.h5")),
    "a tar archive": (".tar", _tar()),
    "packed by gzip": (".gz", gzip.compress(b"x")),
    "packed by bzip2": (".bz2", bz2.compress(b"x")),
    "packed by xz": (".xz", lzma.compress(b"x")),
    "an HDF5 file": (".h5", b"\x89HDF\r\n\x1a\n" + bytes(99)),
    "a TensorFlow Lite model": (".tflite", b"\x1c\0\0\0TFL3" + bytes(99)),
    "a part of a TensorFlow checkpoint": (
        ".index",
        b"\1\2\3" + struct.pack("<Q", 0xDB4775248B80FB57),
    ),
    "the list of a TensorFlow checkpoint": ("", b'model_checkpoint_path: "model.ckpt-1"'),
    "one array of NumPy": (".npy", _saved(lambda x, file: np.save(file, x), np.ones(3))),
    "an image (PNG)": (".png", b"\x89PNG\r\n\x1a\n" + bytes(9)),
    "a .safetensors by its contents": (".bin", safetensors.numpy.save(TIMM)),
}


@pytest.mark.parametrize("what", NO_WEIGHTS)
def test_what_is_no_weights_is_called_what_it_is(what, tmp_path):
    """Under its own name, and under the names of weights."""
    suffix, content = NO_WEIGHTS[what]
    names = [f"own{suffix}", "w.onnx", "w.safetensors", "w.npz", "w.whl"]
    if what.startswith(("a zip file of", "a model of Keras")):
        names = names[:3]  # a reader of zip files says what is missing in it
    if what == "a .safetensors by its contents":
        names.remove("w.safetensors")
    for path in (tmp_path / name for name in names):
        path.write_bytes(content)
        with pytest.raises(UserError) as error:
            read_files([path])
        assert str(error.value).startswith(f"cannot read weights from {path}: it ")
        assert what in str(error.value) and str(error.value).isprintable()
        assert re.search("expected|fetch|unpack|name it so|git|index|convert", str(error.value))


@pytest.mark.parametrize(
    "name", ["model.ckpt-9.data-00000-of-00001", "model.ckpt.index", "x.ckpt-5.meta"]
)
def test_parts_of_a_tensorflow_checkpoint_by_their_names(name, tmp_path):
    (tmp_path / name).write_bytes(b"\1\xfe\3")
    with pytest.raises(UserError, match="a part of a TensorFlow checkpoint"):
        read_files([tmp_path / name])


@pytest.mark.parametrize("share", [0.01, 0.5, 0.99])
def test_a_download_that_broke_off_is_said(share, tmp_path):
    path = tmp_path / "w.safetensors"
    data = safetensors.numpy.save(TIMM)
    path.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(UserError, match="it is cut short or damaged .*: fetch it again"):
        read_files([path])


def test_an_unknown_suffix_is_said(tmp_path):
    (tmp_path / "w.dat").write_bytes(b"\1\xff\2")
    with pytest.raises(UserError, match=r"name ends in '.dat': expected .* \.safetensors, \.npz"):
        read_files([tmp_path / "w.dat"])


# --- Several files, and folders -------------------------------------------------------------------


def _shards(folder, count=3, index="model.safetensors.index.json", pattern="model-{}-of-{}"):
    names, paths = sorted(TIMM), []
    weight_map = {}
    for i in range(count):
        path = folder / (pattern.format(f"{i + 1:05d}", f"{count:05d}") + ".safetensors")
        part = names[i::count]
        safetensors.numpy.save_file({name: TIMM[name] for name in part}, path)
        weight_map |= dict.fromkeys(part, path.name)
        paths.append(path)
    if index:
        (folder / index).write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return paths


def _whole(folder):
    path = folder / "whole.safetensors"
    safetensors.numpy.save_file(TIMM, path)
    return _state(path)


def _state(path):
    return dict(nnx.to_flat_state(pretrained.backbone(damage.VIT, str(path))))


def _same(one, other):
    return all(np.array_equal(one[k].get_value(), other[k].get_value()) for k in one)


@pytest.mark.parametrize("index", ["model.safetensors.index.json", "x.safetensors.index.json", ""])
@pytest.mark.parametrize("count", [1, 2, 5])
def test_all_parts_are_one_model(index, count, tmp_path):
    expected, folder = _whole(tmp_path), tmp_path / "model"
    folder.mkdir()
    _shards(folder, count, index)
    (folder / "pytorch_model.bin").write_bytes(b"not read")
    assert _same(expected, _state(folder))
    if index:
        assert _same(expected, _state(folder / index))


def test_a_folder_with_one_file(tmp_path):
    for name in ("model.safetensors", "open_clip_model.safetensors", "weights.npz"):
        folder = tmp_path / name[:4]
        folder.mkdir()
        if name.endswith("npz"):
            np.savez(folder / name, **damage.tensors("npz stored"))
        else:
            safetensors.numpy.save_file(TIMM, folder / name)
        (folder / "config.txt").touch()
        _state(folder)
        assert pretrained.fingerprint(str(folder)) == checksums.sha256(folder / name)
    safetensors.numpy.save_file(TIMM, tmp_path / "mode" / "adapter_model.safetensors")
    _state(tmp_path / "mode")  # model.safetensors counts


def test_a_part_is_told_as_such(tmp_path):
    part = _shards(tmp_path)[1]
    with pytest.raises(UserError, match=f"{part} is a part of a model, one of 3: give their index"):
        _state(part)
    (tmp_path / "model.safetensors.index.json").unlink()
    with pytest.raises(UserError, match=f"one of 3: put all parts in one folder .*={tmp_path}$"):
        _state(part)
    odd = tmp_path / "odd"
    odd.mkdir()
    part = _shards(odd, pattern="p{}x{}")[0]  # only the index tells
    with pytest.raises(UserError, match="is a part of a model, one of 3: give their index"):
        _state(part)
    (odd / "p00002x00003.safetensors").unlink()
    with pytest.raises(UserError, match="is a part of a model, one of 3: give their index"):
        _state(part)


def test_missing_parts_are_named(tmp_path):
    parts = _shards(tmp_path)
    parts[1].unlink()
    for path in (tmp_path, tmp_path / "model.safetensors.index.json"):
        with pytest.raises(
            UserError, match=f"1 of the model's 3 parts are missing: {parts[1].name}"
        ):
            _state(path)
    (tmp_path / "model.safetensors.index.json").unlink()
    with pytest.raises(UserError, match=f"1 of the model's 3 parts are missing: {parts[1].name}"):
        _state(tmp_path)


def test_a_tensor_in_two_parts_is_refused(tmp_path):
    part = _shards(tmp_path)[2]
    safetensors.numpy.save_file(TIMM, part)
    with pytest.raises(UserError, match="00003.safetensors: it has the tensor .*, as another part"):
        _state(tmp_path)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ([], "holds no weights: expected a file .*; it has nothing"),
        (["pytorch_model.bin", "vocab.txt"], "Convert PyTorch's file with .*pytorch_model.bin`"),
        (["optimizer.pt", "rng.pth", "w_model.pt"], "Convert PyTorch's file with .*w_model.pt`"),
        (["a.npz", "b.npz"], "holds several files of weights, name one: a.npz, b.npz"),
        (["a.safetensors", "b.onnx"], "name one: a.safetensors, b.onnx"),
        (["checkpoint", "model.ckpt-1.index"], "it has checkpoint, model.ckpt-1.index$"),
    ],
)
def test_what_is_in_a_folder_without_one_model_is_said(names, message, tmp_path):
    for name in names:
        (tmp_path / name).touch()
    with pytest.raises(UserError, match=message):
        _state(tmp_path)


@pytest.mark.parametrize(
    "name", ["../secret.safetensors", "/etc/x.safetensors", "a/b.safetensors", "..\\x", ".."]
)
def test_an_index_reads_no_file_elsewhere(name, tmp_path):
    index = tmp_path / "in" / "model.safetensors.index.json"
    index.parent.mkdir()
    safetensors.numpy.save_file(TIMM, tmp_path / "secret.safetensors")
    index.write_text(json.dumps({"weight_map": {"cls_token": name}}))
    for path in (index, index.parent):
        with pytest.raises(UserError, match="names files that are not beside it|are missing"):
            _state(path)


@pytest.mark.parametrize(
    "text", ["", "[]", "{", "[" * 100_000, '{"weight_map": []}', '{"weight_map": {}}', "\xff"]
)
def test_an_index_that_is_none(text, tmp_path):
    (tmp_path / "m.safetensors.index.json").write_bytes(text.encode("latin1"))
    with pytest.raises(UserError, match="m.safetensors.index.json"):
        _state(tmp_path)


def test_the_fingerprint_of_parts_changes_with_each(tmp_path):
    paths = _shards(tmp_path)
    first = pretrained.fingerprint(str(tmp_path))
    assert first == pretrained.fingerprint(str(tmp_path / "model.safetensors.index.json"))
    found = {first}
    for path in paths:
        data = bytearray(path.read_bytes())
        data[-1] ^= 1
        path.write_bytes(data)
        found.add(pretrained.fingerprint(str(tmp_path)))
    assert len(found) == 4


def test_the_note_of_each_part_is_verified(tmp_path):
    paths = _shards(tmp_path)
    for path in paths:
        checksums.write_note(path)
    _state(tmp_path)
    checksums.note(paths[2]).write_text("0" * 64)
    with pytest.raises(UserError, match=f"{paths[2].name} is damaged"):
        _state(tmp_path)


def test_nothing_is_read_of_what_only_claims_to_be_large(tmp_path, no_memory):
    path = tmp_path / "huge.safetensors.index.json"
    with open(path, "wb") as file:
        file.truncate(1 << 33)
    with pytest.raises(UserError, match="has more than"):
        files.found(path)
    with open(tmp_path / "huge.bin", "wb") as file:
        file.truncate(1 << 33)
    assert "zero bytes" in files.description(tmp_path / "huge.bin")
