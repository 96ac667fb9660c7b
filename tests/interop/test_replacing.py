"""An export replaces an older one in its folder, and nothing else, even if it is killed."""

import json
import os
import pathlib
import shutil

import numpy as np
import pytest

from noah_jax.errors import UserError
from noah_jax.interop import card, export, subnet
from tests.helpers.subnets import random_subnet


@pytest.fixture(autouse=True)
def nothing_compiled(monkeypatch):
    monkeypatch.setattr(export, "stablehlo", lambda merged: b"a program")


@pytest.fixture
def runs(tmp_path):
    """What two runs leave: a subnet with LoRA alone, and a mix, all of whose weights are saved."""
    for name, only in (("lora", "lora"), ("mix", "")):
        (tmp_path / name).mkdir()
        _, _, found = random_subnet(len(name), 3, only)
        subnet.write(found.facts, found.tensors, tmp_path / name)
    return tmp_path


def _contents(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_nothing_of_the_older_export_is_left_and_all_else_is(runs):
    folder = runs / "export"
    export.export(runs / "lora", folder)
    assert (folder / "peft/base/model.safetensors").is_file()
    own = {"notes.txt": b"mine", "timm/notes.txt": b"mine", "huggingface/tokenizer.json": b"{}"}
    for name, content in own.items():
        (folder / name).write_bytes(content)
    export.export(runs / "mix", folder)
    export.export(runs / "mix", runs / "fresh")
    assert _contents(folder) == _contents(runs / "fresh") | own
    assert not (folder / "peft").exists()
    assert sorted({*_contents(folder)} - own.keys()) == export.files(folder)


def test_an_export_of_version_0_2_is_replaced(runs):
    """It has no list of its files, and fewer kinds of them."""
    folder = runs / "export"
    export.export(runs / "lora", folder)
    for name in ("model.onnx", "torch_model.py", "README.md"):
        (folder / name).unlink()
    facts = json.loads((folder / "subnet.json").read_bytes())
    del facts["files"]
    (folder / "subnet.json").write_text(json.dumps(facts))
    export.export(runs / "mix", folder)
    export.export(runs / "mix", runs / "fresh")
    assert _contents(folder) == _contents(runs / "fresh")


def test_files_of_the_same_names_are_refused(runs):
    folder = runs / "own"
    folder.mkdir()
    (folder / "model.onnx").write_bytes(b"mine")
    (folder / "README.md").write_text("mine")
    with pytest.raises(UserError, match=r"(?s)of no export: move them.*model\.onnx$"):
        export.export(runs / "mix", folder)
    assert _contents(folder) == {"model.onnx": b"mine", "README.md": b"mine"}
    (folder / "model.onnx").unlink()
    assert "is your own" in export.export(runs / "mix", folder)[-1]
    (folder / "README.md").write_text("mine still")
    export.export(runs / "lora", folder)
    assert (folder / "README.md").read_text() == "mine still"
    (runs / "lora/result.json").write_text("{}")
    for place in ("mix", "lora"):
        before = _contents(runs / place)
        with pytest.raises(UserError, match="is the workdir of a run: choose another --out"):
            export.export(runs / "mix", runs / place)
        assert _contents(runs / place) == before
    (runs / "lora/result.json").unlink()
    with pytest.raises(UserError, match="is an export: give the workdir of its run"):
        export.export(folder, runs / "other")
    (folder / "subnet.json").write_text("{")
    with pytest.raises(UserError, match=r"subnet\.json cannot be read"):
        export.export(runs / "mix", folder)


def test_a_card_of_ones_own_stays(runs):
    folder = runs / "export"
    export.export(runs / "lora", folder)
    text = (folder / "README.md").read_text()
    (folder / "README.md").write_text(text.replace(card._MARK, "My model."))
    export.export(runs / "mix", folder)
    assert "My model." in (folder / "README.md").read_text()


class _Killed(BaseException):
    pass


def test_killed_anywhere_it_is_completed_by_the_next(runs, monkeypatch):
    """What is read in between is one export or the other, or refused."""
    export.export(runs / "mix", runs / "fresh")
    trained = [subnet.read(runs / name) for name in ("lora", "mix")]
    weights = [one.tensors for each in trained for one in (each, each.merged())]
    export.export(runs / "lora", runs / "older")
    (runs / "older/peft/mine.txt").write_bytes(b"mine")
    folder, survived, steps = runs / "export", False, 0
    while not survived:
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(runs / "older", folder)
        steps, left = steps + 1, iter(range(steps))

        def step(call, left=left):
            def counted(*arguments, **options):
                if next(left, None) is None:
                    raise _Killed
                return call(*arguments, **options)

            return counted

        with monkeypatch.context() as patched:
            patched.setattr(os, "replace", step(os.replace))
            patched.setattr(pathlib.Path, "unlink", step(pathlib.Path.unlink))
            try:
                export.export(runs / "mix", folder)
                survived = True
            except _Killed:
                pass
        try:
            read = subnet.read(folder).tensors
        except UserError as error:
            assert "holds no subnet.json" in str(error) or "cannot be read" in str(error)
        else:
            assert any(
                read.keys() == each.keys() and all(np.array_equal(read[k], each[k]) for k in each)
                for each in weights
            )
        export.export(runs / "mix", folder)
        assert _contents(folder) == _contents(runs / "fresh") | {"peft/mine.txt": b"mine"}
    assert steps > 30
