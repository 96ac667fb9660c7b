"""Published few-shot lists, in the layouts of NOAH, CoOp and FGVC Aircraft, on real image files."""

import json
import pathlib

import PIL.Image
import pytest

from noah_jax import data
from noah_jax.data import loader
from noah_jax.data.shots import Shots
from noah_jax.errors import UserError


@pytest.fixture
def cars(tmp_path):
    """`stanford_cars/images`: 30 images of 3 classes; its red channel is 60 × class."""
    folder = tmp_path / "stanford_cars" / "images" / "cars_train"
    folder.mkdir(parents=True)
    for number in range(30):
        PIL.Image.new("RGB", (9, 12), (60 * (number % 3), number, 0)).save(_file(folder, number))
    return tmp_path


def _file(folder, number):
    return folder / f"{number:05d}.png"


def _rows(numbers):
    folder = pathlib.Path("cars_train")
    return [(str(_file(folder, number)), number % 3) for number in numbers]


def _write(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{name} {label}\n" for name, label in rows))


def _open(cars, shots, task="stanford_cars"):
    source = data.open_source(task, str(cars), 0, shots)
    numbers = {}
    for name, split in source.splits.items():
        images, labels = loader.load(split, 4)
        assert (images[:, 0, 0, 0] == 60 * labels).all()
        numbers[name] = images[:, 0, 0, 1].tolist()
    return source, numbers


@pytest.fixture
def noah(cars):
    """NOAH's annotations: 3 × 2 images to train on, 9 to validate with, 12 for the test."""
    lists = cars / "lists"
    _write(lists / "train_meta.list.num_shot_2.seed_1", _rows(range(6)))
    _write(lists / "val_meta.list", _rows(range(6, 18)))
    _write(lists / "test_meta.list", _rows(range(18, 30)))
    return lists


def test_noahs_lists(cars, noah):
    source, numbers = _open(cars, Shots(2, 1, str(noah)))
    assert numbers["train"] == numbers["trainval"] == list(range(6))
    assert numbers["test"] == list(range(18, 30)) and source.num_classes == 196
    val = numbers["val"]  # as many as training images, of the list
    assert sorted(number % 3 for number in val) == [0, 0, 1, 1, 2, 2]
    assert set(val) < set(range(6, 18)) and len(set(val)) == 6
    _, whole = _open(cars, Shots(2, 1, str(noah), whole_val=True))
    assert whole["val"] == list(range(6, 18))


def test_lists_of_several_tasks_are_in_one_folder(cars, noah):
    noah.rename(cars / "stanford_cars_lists")
    (cars / "all").mkdir()
    (cars / "stanford_cars_lists").rename(cars / "all" / "stanford_cars")
    assert _open(cars, Shots(2, 1, str(cars / "all")))[1]["train"] == list(range(6))


def test_a_seed_that_was_not_published(cars, noah):
    with pytest.raises(UserError, match="train_meta.list.num_shot_2.seed_0"):
        _open(cars, Shots(2, 0, str(noah)))


def test_coops_json(cars):
    rows = {"train": range(0, 15), "val": range(15, 21), "test": range(21, 30)}
    named = {
        name: [[path, label, f"car {label}"] for path, label in _rows(numbers)]
        for name, numbers in rows.items()
    }
    path = cars / "split_zhou_StanfordCars.json"
    path.write_text(json.dumps(named))
    _, numbers = _open(cars, Shots(1, 5, str(path)))
    assert sorted(number % 3 for number in numbers["train"]) == [0, 1, 2]
    assert set(numbers["train"]) < set(range(15)) and set(numbers["val"]) < set(range(15, 21))
    assert len(numbers["val"]) == 3 and numbers["test"] == list(range(21, 30))
    _, other = _open(cars, Shots(1, 6, str(path)))
    assert other["train"] != numbers["train"]
    for broken in ("{", "[]", json.dumps(named | {"val": [["a.png"]]}), '{"train": []}'):
        path.write_text(broken)
        with pytest.raises(UserError, match="split_zhou_StanfordCars.json .*train, val and test"):
            _open(cars, Shots(1, 5, str(path)))


def test_fgvcs_own_lists(tmp_path):
    """The archive's folder, as it is unpacked: `data/images/0000012.jpg`, names with spaces."""
    own = tmp_path / "fgvc_aircraft" / "data"
    (own / "images").mkdir(parents=True)
    variants = ["707-320", "Boeing 717", "DC-3"]
    (own / "variants.txt").write_text("\n".join(variants) + "\n")
    for split, numbers in {"train": range(9), "val": range(9, 15), "test": range(15, 21)}.items():
        lines = [f"{number:07d} {variants[number % 3]}" for number in numbers]
        (own / f"images_variant_{split}.txt").write_text("\n".join(lines) + "\n")
        for number in numbers:
            image = PIL.Image.new("RGB", (9, 12), (60 * (number % 3), number, 0))
            image.save(own / "images" / f"{number:07d}.jpg", quality=100, subsampling=0)
    source = data.open_source("fgvc_aircraft", str(tmp_path), 0, Shots(2, 0, str(own)))
    assert source.num_classes == 100 and source.encoding == "jpeg"
    labels = loader.load(source.splits["train"], 4)[1]
    assert labels.tolist() == [0, 0, 1, 1, 2, 2] and len(source.splits["test"]) == 6
    (own / "variants.txt").write_text("707-320\nDC-3\n")
    with pytest.raises(
        UserError, match="'0000001 Boeing 717' has a variant that variants.txt lacks"
    ):
        data.open_source("fgvc_aircraft", str(tmp_path), 0, Shots(2, 0, str(own)))


def test_few_of_ones_own_images(tmp_path):
    for label, name in enumerate(("cat", "dog")):
        (tmp_path / "animals" / name).mkdir(parents=True)
        for number in range(20):
            image = PIL.Image.new("RGB", (9, 12), (60 * label, number, 0))
            image.save(tmp_path / "animals" / name / f"{number}.png")
    source, numbers = _open(tmp_path, Shots(3, 0), "animals")
    assert {name: len(rows) for name, rows in numbers.items()} == {
        "train": 6,
        "val": 6,
        "trainval": 6,
        "test": 8,
    }
    names = [name for split in ("train", "val", "test") for name in source.splits[split].names]
    assert len(set(names)) == 20
    (tmp_path / "animals").rename(tmp_path / "food101")  # one's own, too, and not only few of it
    assert len(_open(tmp_path, None, "food101")[1]["train"]) == 26


@pytest.mark.parametrize(("task", "turned"), [("holidays", True), ("food101", False)])
def test_ones_own_photos_are_turned_upright_and_a_benchmarks_are_not(tmp_path, task, turned):
    exif = PIL.Image.Exif()
    exif[274] = 8  # the camera's top is on the left
    for name in ("beach", "city"):
        (tmp_path / task / name).mkdir(parents=True)
        for number in range(3):
            image = PIL.Image.new("RGB", (32, 16), (200, number, 0))
            image.paste((0, 0, 200), (0, 0, 16, 16))
            image.save(tmp_path / task / name / f"{number}.jpg", exif=exif, subsampling=0)
    source = data.open_source(task, str(tmp_path), 0)
    blue = loader.load(source.splits["test"], 16)[0][0, :, :, 2] > 100
    assert blue[:8].mean() == (0 if turned else 0.5)  # as viewers show it, it is at the bottom
    assert blue[8:].mean() == (1 if turned else 0.5)


def test_few_shot_tasks_need_shots_and_others_have_none(tmp_path):
    with pytest.raises(UserError, match="food101 is trained on few images: set shots"):
        data.open_source("food101", str(tmp_path), 0)
    with pytest.raises(UserError, match="svhn has splits of its own, leave shots at 0"):
        data.open_source("svhn", str(tmp_path), 0, Shots(1, 0))
    with pytest.raises(UserError, match="TFDS does not have fgvc_aircraft"):
        data.open_source("fgvc_aircraft", str(tmp_path), 0, Shots(1, 0))
    with pytest.raises(UserError, match="expected in the folder .*food101"):
        data.open_source("food101", str(tmp_path), 0, Shots(1, 0, "somewhere"))
