"""Trackers are told what metrics.jsonl holds; read back with their own packages."""

import json
import pathlib
import subprocess
import sys

import pytest

from noah_jax.config import defaults, expand
from noah_jax.errors import UserError
from noah_jax.runtime import trackers

# In a process of its own, as TensorFlow and threads of W&B stay loaded.
_SCRIPT = """
import json, os, pathlib, sys
from noah_jax.runtime.writer import Writer
folder = pathlib.Path("run")
folder.mkdir(exist_ok=True)
writer = Writer(folder)
assert "tensorflow" not in sys.modules and "wandb" not in sys.modules
with writer.tracking("tensorboard+wandb", {"seed": 3}):
    writer.log(stage="supernet", epoch=2, step=24, loss=0.5)
    writer.log(stage="search", generation=1, val_accuracy=0.25, params=1000, val_loss=None)
    writer.log(stage="test", test_set="imagenet_v2", accuracy=0.75)
    writer.log(stage="test", test_set="test", accuracy=0.5)
writer.log(stage="later", loss=9.0)
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.util.tensor_util import make_ndarray
events = EventAccumulator(str(folder / "tensorboard")).Reload()
found = {}
for tag in events.Tags()["tensors"]:
    (event,) = events.Tensors(tag)
    found[tag] = event.step, float(make_ndarray(event.tensor_proto))
print(json.dumps(found))
"""


def test_both_are_told(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    agents = {"PROJECT": "theirs", "SWEEP_ID": "sweep0", "RUN_ID": "run0"}
    for name, value in agents.items():
        monkeypatch.setenv(f"WANDB_{name}", value)
    monkeypatch.setenv("PYTHONPATH", str(pathlib.Path(__file__).parents[2]))
    done = subprocess.run(
        [sys.executable, "-c", _SCRIPT], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert json.loads(done.stdout.splitlines()[-1]) == {
        "supernet/loss": [24, 0.5],
        "search/val_accuracy": [1, 0.25],
        "search/params": [1, 1000.0],
        "test/imagenet_v2/accuracy": [0, 0.75],
        "test/accuracy": [0, 0.5],
    }
    (offline,) = tmp_path.glob("run/wandb/offline-run-*/run-run0.wandb")
    data = offline.read_bytes()
    assert all(value.encode() in data for value in agents.values()) and b"noah_jax" not in data
    for name in (
        b"supernet/loss",
        b"search/val_accuracy",
        b"test/imagenet_v2/accuracy",
        b"test/accuracy",
        b"seed",
    ):
        assert name in data
    assert b"later" not in data
    assert len((tmp_path / "run/metrics.jsonl").read_text().splitlines()) == 5


def test_what_is_missing_is_said(monkeypatch):
    values = defaults()
    values.update(task="digits", trackers="tensorboard+mlflow")
    with pytest.raises(UserError, match="no mlflow: expected tensorboard or wandb"):
        expand(values)
    monkeypatch.setattr(trackers.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="pip install wandb"):
        trackers.require_packages("wandb")
    trackers.require_packages("")
    with_all_but_tensorflow = {"tensorboard": "there", "wandb": "there"}
    monkeypatch.setattr(trackers.importlib.util, "find_spec", with_all_but_tensorflow.get)
    trackers.require_packages("wandb")
    with pytest.raises(UserError, match="pip install tensorboard tensorflow"):
        trackers.require_packages("tensorboard+wandb")
