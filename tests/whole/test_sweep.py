"""The command's own part, and several runs in one process: names, checks, what they share."""

import json
import pathlib
import signal
import subprocess
import sys

import numpy as np
import PIL.Image
import pytest
import safetensors.numpy

from noah_jax import config as config_lib
from noah_jax import main, sweep
from noah_jax.errors import UserError

ROOT = pathlib.Path(__file__).parents[2]


def _configs(**values):
    settings = config_lib.defaults()
    with settings.unlocked():
        settings.update(values)
    return config_lib.expand(settings)


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ("configs/vtab.py:cifar100", "vtab"),
        ("configs/demo.py", "demo"),
        ("configs/folder.py:a/b,method=lora+noah", "folder"),
        ("configs/folder.py:/data/my.photos/v1.2,seed=1", "folder"),
        ("configs/folder.py:/data/a:b/c", "folder"),
        ("/home/a.b/my+new,configs/mine.v2.py:x/y.py", "mine.v2"),
    ],
)
def test_a_workdir_is_named_by_its_config(given, name):
    """Whatever follows the first colon."""
    configs = _configs(task="photos", method="lora")
    workdirs, common = sweep.places(configs, main._name(given))
    assert workdirs == [common] == [pathlib.Path(f"runs/{name}-photos-lora-s0")]


def test_places(tmp_path):
    several = _configs(task="a+b", method="lora+noah", seeds=2)
    workdirs, common = sweep.places(several, "folder")
    assert len({*workdirs}) == 8 and workdirs[0] == pathlib.Path("runs/folder-a-lora-s0")
    assert common == pathlib.Path("runs/folder-a+b-lora+noah-s0-1")
    workdirs, common = sweep.places(several, "folder", str(tmp_path))
    assert common == tmp_path and {path.parent for path in workdirs} == {tmp_path}
    assert workdirs[0].name == "a-lora-s0"
    for configs in (several, several[:1]):
        workdirs, common = sweep.places(configs, "folder", str(tmp_path), anew=True)
        assert common == pathlib.Path(f"{tmp_path}-2")
        assert workdirs[0] in (common, common / "a-lora-s0")
    with pytest.raises(UserError, match="name it by --workdir"):
        sweep.places(several, "folder", anew=True)


def test_everything_wrong_with_several_runs_is_told_at_once(tmp_path):
    configs = [_configs(task=name, method="linear")[0] for name in ("cifar10", "naturel")]
    with pytest.raises(UserError) as error:
        sweep.run(configs, [tmp_path / "a", tmp_path / "b"], tmp_path)
    lines = str(error.value).splitlines()
    assert len(lines) == 2 and "'cifar10'" in lines[0] and "'naturel'" in lines[1]
    assert not [*tmp_path.iterdir()]


def test_a_run_sees_what_changed_since_the_one_before_in_its_process(ti16, tmp_path):
    """First the weights, then the images of a class."""
    for number in range(9):
        path = tmp_path / "data/photos" / "abc"[number % 3] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        PIL.Image.new("RGB", (16, 16), (20 * number, 0, 0)).save(path)
    weights = tmp_path / "weights.safetensors"
    tensors = safetensors.numpy.load_file(ti16)
    safetensors.numpy.save_file(tensors, weights)
    (config,) = _configs(
        task="photos",
        data_dir=str(tmp_path / "data"),
        method="linear",
        backbone="vit_ti16",
        weights=str(weights),
        normalisation="half",
        image_size=16,
        stage="retrain",
        retrain={"epochs": 2, "warmup_epochs": 0, "batch_size": 2},
    )
    inputs, losses = [], []
    for number in range(3):
        workdir = tmp_path / f"{number}"
        sweep.run([config], [workdir], workdir)
        inputs.append(json.loads((workdir / "config.json").read_text())["inputs"])
        lines = map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())
        losses.append([line["loss"] for line in lines if "loss" in line])
        if number == 0:
            one = {"cls_token": np.ones((1, 1, 192), np.float32)}
            safetensors.numpy.save_file(tensors | one, weights)
        for path in (tmp_path / "data/photos/c").iterdir() if number == 1 else ():
            PIL.Image.new("RGB", (16, 16), (0, 200, 0)).save(path)
    assert inputs[0]["images"] == inputs[1]["images"] != inputs[2]["images"]
    assert inputs[0]["weights"] != inputs[1]["weights"] == inputs[2]["weights"]
    assert len(losses[0]) == 2 and losses[0] != losses[1] != losses[2]


def test_ctrl_c_while_modules_are_loaded_shows_no_traceback():
    command = [sys.executable, "-X", "importtime", "-m", "noah_jax.main"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=ROOT) as running:
        while " absl" not in running.stderr.readline():  # one of the first
            assert running.poll() is None
        running.send_signal(signal.SIGINT)
        _, said = running.communicate()
    assert running.returncode == -signal.SIGINT and "Traceback" not in said
