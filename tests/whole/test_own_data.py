"""One's own images, from the layouts that people have to an export that names the classes."""

import json
import pathlib
import shutil

import datasets
import numpy as np
import PIL.Image
import pytest

from tests.helpers.commands import run_main, run_module
from tests.helpers.images import write_photo

NAMES = ("blue + green", "lime", "red")  # sorted, as folders and labels are
PARTS = {"train": 24, "test": 12}


def _photos(folder, files):
    """Photos of three plain colours; `files` is number, colour → path in `folder`."""
    rng = np.random.default_rng(0)
    for part, count in PARTS.items():
        for number in range(count):
            path = folder / files(part, number, number % 3)
            path.parent.mkdir(parents=True, exist_ok=True)
            write_photo(path, (number % 3 + 2) % 3, rng)  # the colour differs from the label
    return folder


def _folders(home):
    return _photos(home / "a, b", lambda part, n, label: f"seg_{part}/{NAMES[label]}/{n}.jpg")


def _table(home):
    folder = _photos(home / "listed", lambda part, n, _: f"images/{part} {n}.jpg")
    rows = [(f"{part} {n}.jpg", NAMES[n % 3], part) for part in PARTS for n in range(PARTS[part])]
    text = "file;class;split\n" + "".join(f"{';'.join(row)}\n" for row in rows)
    (folder / "all.csv").write_text(text)
    return folder


def _parquet(home):
    files = _photos(home / "files", lambda part, n, _: f"{part}/{n}.jpg")
    features = {"image": datasets.Image(), "label": datasets.ClassLabel(names=list(NAMES))}
    (home / "hub+set").mkdir()
    for part, count in PARTS.items():
        images = [
            {"bytes": (files / part / f"{n}.jpg").read_bytes(), "path": f"{n}.jpg"}
            for n in range(count)
        ]
        table = {"image": images, "label": [n % 3 for n in range(count)]}
        table = datasets.Dataset.from_dict(table, datasets.Features(features))
        table.to_parquet(home / "hub+set" / f"{part}-00000-of-00001.parquet")
    shutil.rmtree(files)
    return home / "hub+set"


@pytest.mark.parametrize("make", [_folders, _table, _parquet])
def test_from_images_to_an_export_with_class_names(make, home, tmp_path):
    """Folders of splits, a CSV, parquet; two of the folders have odd names."""
    place, workdir = make(tmp_path), tmp_path / "run"
    config = f'configs/folder.py:"{place}",method=lora'
    done = run_main(home, workdir, config=config, render=True)
    counts = f"{24 - 3} train, 3 val, 12 test images of 3 classes (blue + green, lime, red)"
    assert counts in done.stdout and "warning" not in done.stdout
    result = json.loads((workdir / "result.json").read_text())
    assert result["class_names"] == list(NAMES) and result["test_accuracy"] > 0.6
    assert json.loads((workdir / "predictions.json").read_text())["class_names"] == list(NAMES)
    classes = (workdir / "figures/classes.csv").read_text()
    assert all(name in classes for name in NAMES)
    run_module("noah_jax.interop", "export", workdir)
    config = json.loads((workdir / "export/huggingface/config.json").read_text())
    assert config["id2label"] == {str(i): name for i, name in enumerate(NAMES)}
    shown = _photos(tmp_path / "shown", lambda part, n, label: f"{label}/{part}{n}.jpg")
    (shown / "0/broken.jpg").write_bytes(b"no image")
    (shown / "notes.txt").touch()
    done = run_module("noah_jax.interop", "predict", workdir / "export", shown, code=1)
    assert "1 of 37 images cannot be read" in done.stderr and "left out: 1 .txt" in done.stderr
    right = []
    for line in done.stdout.splitlines():
        path, best, *_ = line.split("  ")
        right.append(best.startswith(NAMES[int(pathlib.Path(path).parent.name)]))
    assert len(right) == 36 and np.mean(right) > 0.6


@pytest.fixture
def moved(home, tmp_path):
    """A run whose supernet is trained, and then all that it was made of moves elsewhere."""
    first, then = tmp_path / "first", tmp_path / "then/disk"
    shutil.copytree(home / "colours", first / "colours")
    shutil.copy(home / "ti16.safetensors", first)
    run_main(first, tmp_path / "run", "--config.stage=supernet")
    then.parent.mkdir()
    first.rename(then)
    return then


def test_a_run_moves_with_its_data_and_weights(home, moved, tmp_path):
    """It goes on where it was, and its result is that of a run that stayed."""
    gone = run_main(tmp_path / "first", tmp_path / "run", code=2)
    assert "there is no folder or file" in gone.stderr
    (moved / "colours").rename(moved / "renamed")
    config = f"configs/folder.py:{moved / 'renamed'}"
    supernet = {p: p.stat().st_mtime_ns for p in (tmp_path / "run/supernet").rglob("*")}
    done = run_main(moved, tmp_path / "run", config=config)
    assert "supernet goes on after step 9 of 9" in done.stdout
    assert supernet == {p: p.stat().st_mtime_ns for p in (tmp_path / "run/supernet").rglob("*")}
    run_main(home, tmp_path / "stayed")
    kept = []
    for workdir in ("run", "stayed"):
        result = json.loads((tmp_path / workdir / "result.json").read_text())
        kept.append(
            {key: result[key] for key in ("genome", "test_accuracy", "test_loss", "inputs")}
        )
        kept[-1]["best"] = json.loads((tmp_path / workdir / "best.json").read_text())["genome"]
    assert kept[0] == kept[1]
    settings = json.loads((tmp_path / "run/config.json").read_text())
    assert settings["data_dir"] == str(moved) and settings["task"] == "renamed"


def test_what_else_needs_the_old_places_can_be_told_the_new_ones(home, moved, tmp_path):
    """The supernet's ranking and its use by another run, an export; each message says how."""
    old, run = tmp_path / "first", tmp_path / "run"
    rank = ["noah_jax.search", "rank", run, "--genomes=3"]
    lost = run_module(*rank, code=2).stderr
    assert f"{old}/colours" in lost and "--data_dir=FOLDER" in lost and "--weights=FILE" in lost
    places = [f"--data_dir={moved}", f"--weights={moved}/ti16.safetensors"]
    assert "Kendall's tau" in run_module(*rank, *places).stdout
    run_main(moved, tmp_path / "other", f"--config.supernet_from={run}", "--config.stage=search")
    run_main(moved, tmp_path / "lora", "--config.method=lora")
    again = moved.rename(tmp_path / "again")
    (again / "colours").rename(again / "shades")
    places = [f"--data_dir={again}", f"--weights={again}/ti16.safetensors", "--task=shades"]
    assert "Kendall's tau" in run_module(*rank, *places).stdout
    export = ["noah_jax.interop", "export", tmp_path / "lora"]
    lost = run_module(*export, code=2).stderr
    assert "no weights at" in lost and "--weights=FILE" in lost
    assert "model.stablehlo" in run_module(*export, f"--weights={again}/ti16.safetensors").stdout
    predict = ["noah_jax.interop", "predict", tmp_path / "lora", again / "shades/images/test"]
    run_module(*predict, code=2)
    assert "%" in run_module(*predict, f"--weights={again}/ti16.safetensors").stdout


def test_other_contents_at_another_place_are_refused(home, moved, tmp_path):
    """Before and after the end of a run: an image, a label, the weights."""
    run = tmp_path / "run"
    for stage in ("search", "all"):
        other = tmp_path / f"other-{stage}"
        shutil.copytree(moved, other)
        PIL.Image.new("RGB", (40, 40)).save(other / "colours/images/test/000000.jpg")
        refused = run_main(other, run, f"--config.stage={stage}", code=2)
        assert "the images: not the same as there" in refused.stderr
        shutil.copytree(moved / "colours", other / "colours", dirs_exist_ok=True)
        weights = (other / "ti16.safetensors").read_bytes()
        (other / "ti16.safetensors").write_bytes(weights[:-1] + bytes([weights[-1] ^ 1]))
        refused = run_main(other, run, f"--config.stage={stage}", code=2)
        assert "the file of weights: not the same as there" in refused.stderr
        run_main(moved, run)  # the right ones, still
