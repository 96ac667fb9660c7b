"""Tables of images: CSV files and Hugging Face's metadata, as people write them."""

import json

import numpy as np
import PIL.Image
import pytest

from noah_jax import data
from noah_jax.data import loader
from noah_jax.errors import UserError

CLASSES = ("cat", "dog", "eel")


@pytest.fixture
def pets(tmp_path):
    """The folder `pets/images` with 0.png to 17.png; red tells the class, of `number % 3`."""
    folder = tmp_path / "pets" / "images"
    folder.mkdir(parents=True)
    for number in range(18):
        image = PIL.Image.new("RGB", (9, 12), (80 * (number % 3), number, 0))
        image.save(folder / f"{number}.png")
    return tmp_path / "pets"


def _rows(numbers=range(18), labels=CLASSES, folder="images/", suffix=".png"):
    return [(f"{folder}{number}{suffix}", labels[number % 3]) for number in numbers]


def _table(rows, header="path,label", delimiter=","):
    lines = [header.replace(",", delimiter)] if header else []
    return "\n".join(lines + [delimiter.join(map(str, row)) for row in rows]) + "\n"


def _open(place, label_column=""):
    source = data.open_source(place.name, str(place.parent), 0, label_column=label_column)
    for split in source.splits.values():
        images, labels = loader.load(split, 8)
        np.testing.assert_array_equal(images[:, 0, 0, 0], 80 * labels)
    return source


def _sizes(source):
    return {name: len(split) for name, split in source.splits.items() if name != "trainval"}


ALL = {"train": 12, "val": 3, "test": 3}
WAYS = {
    "comma": _table(_rows()),
    "semicolon": _table(_rows(), "Image;Class", ";"),
    "tab": _table(_rows(), "file_name\tcategory", "\t"),
    "no header": _table(_rows(), ""),
    "byte order mark": "\ufeff" + _table(_rows(), "Filename,Label"),
    "Windows": _table(_rows()).replace("\n", "\r\n"),
    "quotes": _table([(f'"{path}"', f' "{label}"') for path, label in _rows()]).replace(' "', '"'),
    "further columns": _table([(i, *row, 3) for i, row in enumerate(_rows())], "id,path,label,age"),
    "label first": _table([row[::-1] for row in _rows()], "label,path"),
    "an unknown name of two": _table(_rows(), "path,species"),
    "without the folder": _table(_rows(folder="")),
}


@pytest.mark.parametrize("way", WAYS)
def test_ways_to_write_a_table(way, pets):
    (pets / "labels.csv").write_text(WAYS[way])
    source = _open(pets)
    assert source.class_names == CLASSES and _sizes(source) == ALL
    assert source.notes == ("the labels are from labels.csv",)
    assert _open(pets / "labels.csv").fingerprint == source.fingerprint  # given itself


@pytest.mark.parametrize(
    ("labels", "names"),
    [
        ((0, 1, 2), ("0", "1", "2")),
        ((1, 2, 10), ("1", "2", "10")),  # in the order of numbers
        (("3.0", "7.0", "11"), ("3", "7", "11")),  # as pandas writes a column with gaps
        (("-1", "0", "+"), ("+", "-1", "0")),
        (("a cat", "b, dog", "ü"), ("a cat", "b, dog", "ü")),
    ],
)
def test_labels_of_all_kinds(labels, names, pets):
    quoted = [f'"{label}"' for label in labels]
    (pets / "labels.csv").write_text(_table(_rows(labels=quoted)))
    source = data.open_source("pets", str(pets.parent), 0)
    assert source.class_names == names
    for name, label in zip(source.splits["test"].names, source.splits["test"].labels, strict=True):
        written = str(labels[int(name.split("/")[1].split(".")[0]) % 3])
        assert names[label] == written.removesuffix(".0")


def test_a_column_of_splits(pets):
    splits = ["training"] * 9 + ["valid"] * 3 + ["Test"] * 6
    rows = [(*row, split) for row, split in zip(_rows(), splits, strict=True)]
    (pets / "labels.csv").write_text(_table(rows, "path,label,data set"))
    assert _sizes(_open(pets)) == {"train": 9, "val": 3, "test": 6}
    (pets / "labels.csv").write_text(_table(rows, ""))
    assert _sizes(_open(pets)) == {"train": 9, "val": 3, "test": 6}


@pytest.mark.parametrize(
    ("names", "others"),
    [
        (("train.csv", "val.csv", "test.csv"), ()),
        (("pets_train.csv", "pets_dev.csv", "pets_test.csv"), ()),
        (("train.tsv", "valid.tsv", "test.tsv"), ("sample_submission.csv",)),
    ],
)
def test_a_table_for_each_split(names, others, pets):
    for name, numbers in zip(names, (range(9), range(9, 12), range(12, 18)), strict=True):
        delimiter = "\t" if name.endswith("tsv") else ","
        (pets / name).write_text(_table(_rows(numbers), delimiter=delimiter))
    for name in others:
        (pets / name).write_text("id,label\n1,cat\n")
    source = _open(pets)
    assert _sizes(source) == {"train": 9, "val": 3, "test": 6}
    left = [note for note in source.notes if "left out" in note]
    assert left == [f"left out: 1 .csv ({name})" for name in others]


@pytest.mark.parametrize("name", ["metadata.csv", "metadata.jsonl"])
@pytest.mark.parametrize("by_split", [False, True])
def test_metadata_of_hugging_face(name, by_split, pets):
    """For an image folder, or inside each of its splits."""
    images = pets / "images"
    splits = {"train": range(9), "test": range(9, 18)} if by_split else {"": range(18)}
    for split, numbers in splits.items():
        (pets / split).mkdir(exist_ok=True)
        for number in numbers:
            (images / f"{number}.png").rename(pets / split / f"{number}.png")
        rows = _rows(numbers, folder="")
        if name.endswith("csv"):
            text = _table(rows, "file_name,label")
        else:
            text = "\n".join(json.dumps({"file_name": f, "label": x}) for f, x in rows)
        (pets / split / name).write_text(text)
    images.rmdir()
    source = _open(pets)
    assert source.class_names == CLASSES
    assert _sizes(source) == ({"train": 6, "val": 3, "test": 9} if by_split else ALL)


def test_the_column_of_labels_can_be_named(pets):
    rows = [(path, label, number % 2) for number, (path, label) in enumerate(_rows())]
    (pets / "labels.csv").write_text(_table(rows, "path,label,sex"))
    assert _open(pets, "label").class_names == CLASSES
    source = data.open_source("pets", str(pets.parent), 0, label_column="sex")
    assert source.class_names == ("0", "1")
    with pytest.raises(UserError, match="a column breed, (?s:.*)labels.csv: 'path,label,sex'"):
        _open(pets, "breed")


def test_images_that_the_table_does_not_list_are_counted(pets):
    (pets / "labels.csv").write_text(_table(_rows(range(15))))
    (pets / "other.csv").write_text("a,b\n1,2\n")
    assert _open(pets).notes == (
        "the labels are from labels.csv",
        "left out: 3 not in the table (images/15.png and 2 more), 1 .csv (other.csv)",
    )


def test_absolute_paths_inside_the_folder(pets):
    (pets / "labels.csv").write_text(_table(_rows(folder=f"{pets}/images/")))
    assert _sizes(_open(pets)) == ALL
    (pets / "labels.csv").write_text(_table(_rows(folder=f"{pets.parent}/images/")))
    with pytest.raises(UserError, match="line 2: expected a path inside the folder"):
        _open(pets)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (_table([*_rows(), ("images/1.png", "")]), "line 20: 'images/1.png' has no label"),
        (_table([*_rows(), ("../1.png", "cat")]), "line 20: expected a path inside the folder"),
        (_table([*_rows(), ("", "cat")]), "line 20: expected a path inside the folder"),
        (_table([*_rows(), ("images/90.png", "cat")]), "images/90.png: No such file"),
        (
            _table([(*row, "fold 1") for row in _rows()], "path,label,split"),
            "line 2: expected train, val or test, got 'fold 1'",
        ),
        (
            _table([(*row, "test") for row in _rows()], ""),
            "there are images of the split test, but none to train on",
        ),
        (_table([(*row, "train"[: 5 * (i > 4)]) for i, row in enumerate(_rows())], ""), "no split"),
        ('path,label\n"images/0.png,cat\n', "cannot read the table .*labels.csv"),
    ],
)
def test_tables_that_are_refused(text, message, pets):
    (pets / "labels.csv").write_text(text)
    with pytest.raises(UserError, match=message) as error:
        _open(pets)
    assert str(pets) in str(error.value)


def test_several_tables_must_say_their_splits(pets):
    for name in ("a.csv", "b.csv"):
        (pets / name).write_text(_table(_rows()))
    with pytest.raises(UserError, match="several tables, a.csv, b.csv, .*: give one of them"):
        _open(pets)
    assert _sizes(_open(pets / "b.csv")) == ALL  # as advised


@pytest.mark.parametrize("name", ["labels.csv", "labels.txt", "labels"])
def test_a_file_that_is_no_table(name, pets):
    (pets / name).write_text("one two three\n")
    with pytest.raises(
        UserError, match=f"expected a header with columns path and label(?s:.*){name}"
    ):
        _open(pets / name)
    (pets / name).write_bytes(b"\x89PNG\0\xff")
    with pytest.raises(UserError, match=f"cannot read the list .*{name}"):
        _open(pets / name)
