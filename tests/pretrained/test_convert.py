"""`python -m noah_jax.pretrained convert` on what programs save with torch.save, and on traps."""

import argparse
import collections
import datetime
import http
import pathlib
import pickle
import re
import shlex
import sys
import typing
import uuid
import warnings

import numpy as np
import pytest
import safetensors.torch
import torch
from flax import nnx

from noah_jax import pretrained
from noah_jax.errors import UserError
from noah_jax.pretrained import convert as convert_lib
from noah_jax.pretrained.weights import read_files
from tests.helpers import damage
from tests.helpers.commands import run_module

TIMM = {name: torch.tensor(x) for name, x in damage.tensors("safetensors").items()}
OTHER = {name: x + 1 for name, x in TIMM.items()}


class Settings:
    """A class of the training program, which the converter does not have."""

    def __init__(self, **values):
        self.__dict__.update(values)


class Options(dict):
    """As above, and a dict."""


def _namespace():
    return argparse.Namespace(
        lr=1e-3,
        folder=pathlib.PurePosixPath("a"),
        best=np.float64(0.5),
        kind=torch.float16,
        mean=np.ones(3),
        when=datetime.datetime(2026, 1, 1),
        seen=collections.defaultdict(list, a=[1]),
        last=collections.deque([1.0]),
        range=range(3),
        device=torch.device("cpu"),
        nested=argparse.Namespace(a=1),
    )


def _prefixed(prefix, tensors):
    return {prefix + name: x for name, x in tensors.items()}


def _tied():
    tensors = dict(TIMM, head=TIMM["norm.bias"], **{"head.weight": TIMM["cls_token"][0]})
    return {"state_dict": collections.OrderedDict(tensors)}


def _not_contiguous():
    turned = {name: x.transpose(0, -1).contiguous().transpose(0, -1) for name, x in TIMM.items()}
    large = torch.zeros(1000, 8)
    large[7] = TIMM["norm.bias"]
    return {"model": turned | {"norm.bias": large[7]}}


CHECKPOINTS = {  # what a program saved; in it are the tensors of TIMM
    "plain": lambda: TIMM,
    "model": lambda: {"model": TIMM},
    "state_dict, epoch": lambda: {"state_dict": TIMM, "epoch": 3, "optimizer": {"state": {0: {}}}},
    "tied": _tied,
    "not contiguous": _not_contiguous,
    "Namespace": lambda: {"model": TIMM, "args": _namespace(), "best": np.float32(1)},
    "parameters": lambda: {"model": {k: torch.nn.Parameter(x) for k, x in TIMM.items()}},
    "teacher": lambda: {
        "student": _prefixed("module.backbone.", OTHER),
        "teacher": _prefixed("backbone.", TIMM),
        "queue": torch.ones(99, 99),
    },
    "ema": lambda: {"state_dict": OTHER, "state_dict_ema": TIMM, "metric": 0.7},
    "moco": lambda: {
        "state_dict": _prefixed("module.base_encoder.", OTHER)
        | _prefixed("module.momentum_encoder.", TIMM)
    },
    "nested": lambda: {"checkpoint": {"net": {"model": TIMM}, "step": 1}},
    "numpy": lambda: {"model": {name: x.numpy() for name, x in TIMM.items()}},
    "own classes": lambda: {"model": TIMM, "cfg": Settings(a=Options(b=1)), "o": Options(a=1)},
    "a larger optimizer": lambda: {"model": TIMM, "optimizer": {"a": torch.ones(500, 500)}},
}


def _save(value, path, legacy=False):
    torch.save(value, path, _use_new_zipfile_serialization=not legacy)
    return path


def _read(path):
    return {
        k: v.get_value() for k, v in nnx.to_flat_state(pretrained.backbone(damage.VIT, str(path)))
    }


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    path = tmp_path_factory.mktemp("whole") / "w.safetensors"
    safetensors.torch.save_file(TIMM, path)
    return _read(path)


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("kind", CHECKPOINTS)
def test_the_advice_for_a_checkpoint_works(kind, legacy, expected, tmp_path):
    """The command is taken from the message, and its file is read."""
    folder = tmp_path / "a folder's"
    folder.mkdir()
    path = _save(CHECKPOINTS[kind](), folder / "w.pth", legacy)
    with pytest.raises(UserError) as error:
        pretrained.backbone(damage.VIT, str(path))
    command = re.search("`python -m (.*?)`,", str(error.value))[1]
    done = run_module(*shlex.split(command))
    found = _read(folder / "w.safetensors")
    for name, x in expected.items():
        np.testing.assert_array_equal(found[name], x)
    assert re.match(rf"{re.escape(str(folder))}/w.safetensors: \d+ tensors of .*w.pth", done.stdout)
    for word in {"Namespace": ["args", "best"], "ema": ["state_dict (", "metric"]}.get(kind, ()):
        assert word in done.stdout.split("left out: ")[1]


@pytest.mark.parametrize("suffix", [".pth", ".pt", ".bin", ".ckpt", ".safetensors", ".npz", ""])
def test_any_name_of_a_checkpoint_leads_to_the_command(suffix, tmp_path):
    path = _save({"model": TIMM}, tmp_path / f"w{suffix}")
    with pytest.raises(UserError, match=f"pretrained convert {path}`"):
        read_files([path])
    run_module("noah_jax.pretrained", "convert", path)
    out = "w-converted.safetensors" if suffix == ".safetensors" else "w.safetensors"
    read_files([tmp_path / out])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64, torch.int64])
def test_types_are_kept(dtype, tmp_path):
    path = _save({"model": {"a": torch.ones(3, dtype=dtype)}}, tmp_path / "w.pt")
    convert_lib.convert(path, tmp_path / "o.safetensors")
    assert safetensors.torch.load_file(tmp_path / "o.safetensors")["a"].dtype == dtype


def test_a_file_with_other_contents_stays(tmp_path):
    path = _save(TIMM, tmp_path / "w.pth")
    out = tmp_path / "w.safetensors"
    run_module("noah_jax.pretrained", "convert", path)
    data = out.read_bytes()
    run_module("noah_jax.pretrained", "convert", path)  # the same again
    _save(OTHER, path)
    done = run_module("noah_jax.pretrained", "convert", path, code=2)
    assert f"error: {out} is there already, with other contents: name another file" in done.stderr
    assert out.read_bytes() == data
    done = run_module("noah_jax.pretrained", "convert", path, tmp_path / "no/w.safetensors", code=2)
    assert "no/w.safetensors cannot be written" in done.stderr
    done = run_module("noah_jax.pretrained", "convert", path, tmp_path / "w.npz", code=2)
    assert "must end in .safetensors" in done.stderr
    assert sorted(x.name for x in tmp_path.iterdir()) == ["w.pth", "w.safetensors"]


def test_keep_takes_one_of_several_backbones(expected, tmp_path):
    path = tmp_path / "w.safetensors"
    safetensors.torch.save_file(_prefixed("left.", OTHER) | _prefixed("right.", TIMM), path)
    with pytest.raises(UserError) as error:
        _read(path)
    command = re.search("`python -m (.*?)`", str(error.value))[1]
    run_module(*shlex.split(command.replace("NEW", str(tmp_path / "new"))))
    np.testing.assert_array_equal(
        _read(tmp_path / "new.safetensors")["norm", "bias"], expected["norm", "bias"]
    )
    done = run_module("noah_jax.pretrained", "convert", path, "--keep=x.", code=2)
    assert "no tensor whose name begins with x.: left.blocks.0.attn" in done.stderr


def test_keep_takes_one_of_several_dicts(expected, tmp_path):
    path = _save({"student": OTHER, "teacher": TIMM}, tmp_path / "w.pth", False)
    run_module("noah_jax.pretrained", "convert", path, tmp_path / "t.safetensors")
    keep = ["--keep=student."]
    run_module("noah_jax.pretrained", "convert", path, tmp_path / "s.safetensors", *keep)
    teacher, student = (_read(tmp_path / f"{x}.safetensors")["norm", "bias"] for x in "ts")
    np.testing.assert_array_equal(teacher, expected["norm", "bias"])
    assert np.abs(student - teacher).max() > 0


@pytest.mark.parametrize("beside", ["momentum", "exp_avg", "optimizer", "optimizer_states", "ema"])
def test_what_an_optimizer_keeps_is_no_model(beside, expected, tmp_path):
    """Though it has the model's names; a moving average of the weights is one."""
    state = {"exp_avg": OTHER} if beside.startswith("optim") else OTHER
    path = _save({"model": TIMM, beside: state}, tmp_path / "w.pth", False)
    run_module("noah_jax.pretrained", "convert", path)
    found = _read(tmp_path / "w.safetensors")["norm", "bias"]
    assert np.array_equal(found, expected["norm", "bias"]) == (beside != "ema")


class _Unknown(torch.optim.SGD):
    """An object beside the weights, of a class that reading does not need."""


@pytest.mark.parametrize(
    "beside",
    [
        torch.torch_version.TorchVersion("2.0"),
        torch.optim.SGD([torch.zeros(1)], lr=0.1),
        _Unknown([torch.zeros(1)], lr=0.1),
        uuid.UUID(int=3),
        http.HTTPStatus.OK,
        {"kind": typing.Any},
    ],
)
def test_objects_beside_the_weights_do_no_harm(beside, expected, tmp_path):
    path = _save({"model": TIMM, "beside": beside}, tmp_path / "w.pth", False)
    run_module("noah_jax.pretrained", "convert", path)
    found = _read(tmp_path / "w.safetensors")["norm", "bias"]
    np.testing.assert_array_equal(found, expected["norm", "bias"])


class _Runs:
    """Pickled so that reading it calls a function."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def _trap(folder, number):
    import os
    import runpy
    import subprocess

    path = str(folder / "ran")
    return [
        _Runs(os.system, f"touch {path}"),
        _Runs(subprocess.check_call, ["touch", path]),
        _Runs(eval, f"open({path!r}, 'w')"),
        _Runs(exec, f"open({path!r}, 'w')"),
        _Runs(open, path, "w"),
        _Runs(runpy.run_path, path),
        _Runs(pathlib.Path.touch, pathlib.PurePosixPath(path)),
        _Runs(torch.save, {}, path),
    ][number]


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("number", range(8))
def test_nothing_in_a_checkpoint_is_run(number, legacy, tmp_path):
    trap = _trap(tmp_path, number)
    path = _save({"model": TIMM, "args": trap}, tmp_path / "w.pth", legacy)
    for file in (path, tmp_path / "bare.pkl"):
        if file != path:
            file.write_bytes(pickle.dumps(trap, protocol=2))
        done = run_module("noah_jax.pretrained", "convert", file, code=2)
        assert f"error: {file} cannot be read as tensors: " in done.stderr
        with pytest.raises(UserError):
            read_files([file])
    assert not (tmp_path / "ran").exists() and not list(tmp_path.glob("*.safetensors*"))


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (
            lambda: torch.nn.Linear(2, 2),
            "torch.nn.modules.linear.Linear in it is an object, as of a wh",
        ),
        (lambda: {"model": torch.nn.LayerNorm(2)}, "as of a whole module, not tensors. Where its"),
        (lambda: {"epoch": 1}, "holds no tensors with names, but a dict of epoch (int)"),
        (lambda: [torch.ones(2)], "holds no tensors with names, but a list"),
        (lambda: torch.ones(2), "holds no tensors with names, but a Tensor"),
        (lambda: {}, "holds no tensors with names, but a dict. Where"),
        (lambda: {"a": torch.ones(2).to_sparse()}, "a is sparse, quantised or without numbers"),
        (lambda: {"a": torch.ones(1).expand(10**12)}, "far more than the file has"),
        (lambda: Settings(a=1), "holds no tensors with names"),
    ],
)
def test_what_holds_no_tensors_is_refused_with_the_reason(value, message, tmp_path):
    path = _save(value(), tmp_path / "w.pth")
    done = run_module("noah_jax.pretrained", "convert", path, code=2)
    assert done.stderr.startswith(f"error: {path}") and message in done.stderr
    assert done.stderr.count("\n") == 1 and len(done.stderr) < 1000
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"<html>", "it is a web page (HTML)"),
        (b"", "it is empty"),
        (b"version https://git-lfs.github.com/spec/v1\n", "a Git LFS pointer"),
        (b"\x80\x02damaged", "cannot be read as tensors: "),
        (b"\1\xff\2\3", "its contents are not known here"),
    ],
)
def test_what_torch_has_not_written_is_refused(content, message, tmp_path):
    (tmp_path / "w.pth").write_bytes(content)
    done = run_module("noah_jax.pretrained", "convert", tmp_path / "w.pth", code=2)
    assert message in done.stderr
    (tmp_path / "w.safetensors").write_bytes(content)
    done = run_module("noah_jax.pretrained", "convert", tmp_path / "w.safetensors", code=2)
    assert done.stderr.startswith(f"error: {tmp_path}/w.safetensors ")
    done = run_module("noah_jax.pretrained", "convert", tmp_path / "none.pth", code=2)
    assert "there is no file" in done.stderr


def test_a_checkpoint_that_holds_itself(tmp_path):
    value = {"model": TIMM}
    value["self"] = value
    path = _save(value, tmp_path / "w.pth")
    assert "left out: self (dict)" in convert_lib.convert(path, None)[1]


def test_a_program_of_torchscript_is_refused_and_its_advice_works(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with warnings.catch_warnings(action="ignore"):  # TorchScript is on its way out
        torch.jit.trace(torch.nn.Linear(2, 3), torch.ones(1, 2)).save("a.pt")
    done = run_module("noah_jax.pretrained", "convert", tmp_path / "a.pt", code=2)
    advice = re.search("`(torch.save.*?)`", done.stderr)[1]
    assert f"torch.jit.load('{tmp_path}/a.pt')" in advice
    with warnings.catch_warnings(action="ignore"):
        exec(advice, {"torch": torch})
    run_module("noah_jax.pretrained", "convert", tmp_path / "weights.pth")
    found = safetensors.torch.load_file(tmp_path / "weights.safetensors")
    assert {name: list(x.shape) for name, x in found.items()} == {"weight": [3, 2], "bias": [3]}


def test_without_torch_one_message_says_what_to_do(tmp_path, monkeypatch):
    path = _save(TIMM, tmp_path / "w.pth")
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(UserError, match="torch.*: to convert PyTorch's files, `pip install torch`"):
        convert_lib.convert(path, None)
