"""Image datasets of Hugging Face, in files that the package `datasets` writes."""

import io

import datasets
import numpy as np
import PIL.Image
import pyarrow
import pyarrow.parquet
import pytest

from noah_jax import data
from noah_jax.data import loader
from noah_jax.data.shots import Shots
from noah_jax.errors import UserError

CLASSES = ["cat", "dog", "eel"]


def _png(number):
    """Red tells the class, of `number % 3`."""
    content = io.BytesIO()
    PIL.Image.new("RGB", (9, 12), (80 * (number % 3), number, 0)).save(content, "PNG")
    return content.getvalue()


def _dataset(numbers, **columns):
    """With an image and a class a row, as the hub has them."""
    features = {"image": datasets.Image(), "label": datasets.ClassLabel(names=CLASSES)}
    images = [{"bytes": _png(number), "path": f"{number}.png"} for number in numbers]
    values = {"image": images, "label": [number % 3 for number in numbers], **columns}
    kinds = {name: datasets.Value("int64") for name in columns}
    return datasets.Dataset.from_dict(values, datasets.Features(features | kinds))


def _open(place, shots=None, label_column=""):
    source = data.open_source(place.name, str(place.parent), 0, shots, label_column)
    for split in source.splits.values():
        images, labels = loader.load(split, 8)
        np.testing.assert_array_equal(images[:, 0, 0, 0], 80 * labels)
    return source


def _sizes(source):
    return {name: len(split) for name, split in source.splits.items() if name != "trainval"}


@pytest.mark.parametrize(
    ("train", "test"),
    [
        (
            ["data/train-00000-of-00002.parquet", "data/train-00001-of-00002.parquet"],
            "data/test-00000-of-00001.parquet",
        ),
        (["train/0000.parquet"], "test/0000.parquet"),
        (["default/train/0000.parquet"], "default/test/0000.parquet"),  # as the hub converts them
        (["pets_train.parquet"], "pets_test.parquet"),
    ],
)
def test_files_of_splits(train, test, tmp_path):
    first = 0
    for path, count in [*((path, 18 // len(train)) for path in train), (test, 6)]:
        (tmp_path / "pets" / path).parent.mkdir(parents=True, exist_ok=True)
        _dataset(range(first, first + count)).to_parquet(tmp_path / "pets" / path)
        first += count
    source = _open(tmp_path / "pets")
    assert _sizes(source) == {"train": 15, "val": 3, "test": 6}
    assert source.class_names == tuple(CLASSES) and source.warnings == source.notes == ()
    assert _sizes(_open(tmp_path / "pets", Shots(2, 0))) == {"train": 6, "val": 6, "test": 6}


def test_one_file(tmp_path):
    _dataset(range(30)).to_parquet(tmp_path / "pets.parquet")
    source = _open(tmp_path / "pets.parquet")
    assert _sizes(source) == {"train": 21, "val": 3, "test": 6}
    assert source.splits["test"].names[0].startswith("all/")
    (tmp_path / "pets").mkdir()
    (tmp_path / "pets.parquet").rename(tmp_path / "pets/0.parquet")
    assert _open(tmp_path / "pets").fingerprint == source.fingerprint
    _dataset(range(30, 60)).to_parquet(tmp_path / "pets/0.parquet")
    assert _open(tmp_path / "pets").fingerprint != source.fingerprint


@pytest.mark.parametrize("kind", ["bytes", "large bytes", "struct"])
@pytest.mark.parametrize("labels", [CLASSES, ["10", "9", "8"], [7, 8, 9]])
def test_files_of_other_programs(kind, labels, tmp_path):
    """Without Hugging Face's description: text or numbers as labels."""
    images = [_png(number) for number in range(18)]
    column = {
        "bytes": pyarrow.array(images, pyarrow.binary()),
        "large bytes": pyarrow.array(images, pyarrow.large_binary()),
        "struct": pyarrow.array([{"bytes": image, "path": None} for image in images]),
    }[kind]
    table = pyarrow.table({"image": column, "label": [labels[n % 3] for n in range(18)]})
    pyarrow.parquet.write_table(table, tmp_path / "pets.parquet")
    source = data.open_source("pets.parquet", str(tmp_path), 0)
    names = sorted(map(str, labels), key=lambda x: int(x) if x.isdigit() else x)
    assert source.class_names == tuple(names)
    split = source.splits["test"]
    images, found = loader.load(split, 8)
    assert [names[k] for k in found] == [str(labels[x // 80]) for x in images[:, 0, 0, 0]]


def test_a_test_set_without_labels_is_left_out(tmp_path):
    (tmp_path / "pets").mkdir()
    _dataset(range(15)).to_parquet(tmp_path / "pets/train.parquet")
    hidden = _dataset(range(15, 21))
    hidden = hidden.map(lambda row: {"label": -1})
    hidden.to_parquet(tmp_path / "pets/test.parquet")
    source = _open(tmp_path / "pets")
    assert _sizes(source) == {"train": 9, "val": 3, "test": 3}
    assert source.notes == ("left out: test, whose 6 images have no label",)


def test_copies_are_known_by_content(tmp_path):
    (tmp_path / "pets").mkdir()
    _dataset(range(15)).to_parquet(tmp_path / "pets/train.parquet")
    _dataset([3, 100, 101]).to_parquet(tmp_path / "pets/test.parquet")
    (warning,) = [x for x in _open(tmp_path / "pets").warnings if "copies" in x]
    assert "test: 1 of the 3 images are copies" in warning and "test/0 = train/3" in warning


def test_several_columns(tmp_path):
    """The images and labels must be clear; else the message says how to name them."""
    place = tmp_path / "pets.parquet"
    _dataset(range(18), coarse=[number % 2 for number in range(18)]).to_parquet(place)
    assert _open(place).class_names == tuple(CLASSES)
    source = data.open_source("pets.parquet", str(tmp_path), 0, None, "coarse")
    assert source.class_names == ("0", "1")
    columns = "has the columns image, label, coarse: expected .* --config.label_column=NAME"
    with pytest.raises(UserError, match=columns):
        _open(place, label_column="fine")
    table = pyarrow.parquet.read_table(place)
    for lost in ("image", "label"):
        pyarrow.parquet.write_table(table.drop_columns([lost, "coarse"]), place)
        with pytest.raises(
            UserError, match="pets.parquet: all has the columns .*: expected one of im"
        ):
            _open(place)


def test_what_cannot_be_read_is_named(tmp_path):
    place = tmp_path / "pets.parquet"
    place.write_bytes(b"PAR1 but no more")
    with pytest.raises(UserError, match="cannot read .*pets.parquet: "):
        _open(place)
    images = [{"bytes": _png(number), "path": None} for number in range(18)]
    images[4]["bytes"] = b"no image"
    table = {"image": pyarrow.array(images), "label": [number % 3 for number in range(18)]}
    pyarrow.parquet.write_table(pyarrow.table(table), place)
    with pytest.raises(UserError, match="(?s)the data in .*pets.parquet.*all/4: no image that can"):
        _open(place)
    images[4]["bytes"] = None
    table["image"] = pyarrow.array(images)
    pyarrow.parquet.write_table(pyarrow.table(table), place)
    with pytest.raises(UserError, match="does not hold the images themselves"):
        _open(place)


def test_a_name_on_the_hub(tmp_path, monkeypatch):
    """`datasets` takes a folder of that name first, so that no network is needed."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    (tmp_path / "me/pets").mkdir(parents=True)
    _dataset(range(15)).to_parquet("me/pets/train.parquet")
    _dataset(range(15, 21)).to_parquet("me/pets/test.parquet")
    source = data.open_source("pets", "hf://me", 0)
    assert _sizes(source) == {"train": 12, "val": 3, "test": 6}
    assert source.class_names == tuple(CLASSES)
    assert {*loader.load(source.splits["test"], 8)[1].tolist()} == {0, 1, 2}
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(UserError, match="cannot fetch hf://me/nothing: "):
        data.open_source("nothing", "hf://me", 0)
    monkeypatch.setitem(__import__("sys").modules, "datasets", None)
    with pytest.raises(UserError, match="hf://me/pets needs a package: run `pip install datasets`"):
        data.open_source("pets", "hf://me", 0)
