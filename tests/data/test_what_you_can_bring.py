"""The tables of "What you can bring" in configs/README.md, row by row."""

import json
import pathlib
import re

import numpy as np
import PIL.Image
import pyarrow
import pyarrow.parquet
import pytest

from noah_jax import data
from noah_jax.data import images
from noah_jax.data.folders import classes, records
from noah_jax.data.shots import Shots
from noah_jax.errors import UserError

README = (pathlib.Path(__file__).parents[2] / "configs/README.md").read_text()
SECTION = README.split("## What you can bring")[1].split("\n## ")[0]
CLASSES = ("ant", "bee", "cow")
HALVES = {"train": range(6), "test": range(6, 10)}
PARTS = {"train": range(4), "val": range(4, 7), "test": range(7, 10)}


def _rows(header):
    """The cells of the table that begins with this header."""
    table = SECTION.split(f"| {header} |")[1].split("\n\n")[0]
    return [re.split(r" \| ", row.strip("| ")) for row in table.splitlines()[2:]]


def _put(home, path, label, number):
    """An image that no other is like."""
    (home / path).parent.mkdir(parents=True, exist_ok=True)
    PIL.Image.new("RGB", (9, 9), (80 * label, 8 * number, 7)).save(home / path)


def _folders(pattern, parts):
    """Makes a maker of folders; `pattern` has {part}, {name} and {number}."""

    def make(home):
        for part, numbers in parts.items():
            for label, name in enumerate(CLASSES):
                for number in numbers:
                    path = pattern.format(part=part, name=name, number=number, home=home.name)
                    _put(home, path, label, number)

    return make


def _named(**names):
    def make(home):
        _folders("{part}/{name}/{number}.png", {names[part]: HALVES[part] for part in names})(home)

    return make


def _table(name, header, parts, by_part=False):
    """Makes a maker of a table, or of one for each split, whose images lie in `images/`."""

    def make(home):
        rows = {part: [] for part in parts}
        for part, numbers in parts.items():
            for label, kind in enumerate(CLASSES):
                for number in numbers:
                    folder = part if "metadata" in name and by_part else "images"
                    path = f"{folder}/{kind}{number}.png"
                    _put(home, path, label, number)
                    cells = path, kind, part
                    rows[part].append(cells[: len(re.split("[,;]", header))])
        joint = {"": sum(rows.values(), [])} if not by_part else rows
        for part, some in joint.items():
            path = home / name.format(part=part)
            lines = [header] + [(";" if ";" in header else ",").join(row) for row in some]
            if path.suffix == ".jsonl":
                lines = [
                    json.dumps({"file_name": row[0].split("/")[1], "label": row[1]}) for row in some
                ]
            path.write_text("\n".join(lines))

    return make


def _parquet(home):
    number = 0
    for part, numbers in HALVES.items():
        encoded, labels = [], []
        for label in range(3):
            for _ in numbers:
                _put(home.parent, "one.png", label, number)
                encoded.append({"bytes": (home.parent / "one.png").read_bytes(), "path": None})
                labels.append(CLASSES[label])
                number += 1
        (home / "data").mkdir(parents=True, exist_ok=True)
        table = pyarrow.table({"image": pyarrow.array(encoded), "label": labels})
        pyarrow.parquet.write_table(table, home / f"data/{part}-00000-of-00001.parquet")


def _vtab(home):
    _folders("images/{part}{name}{number}.png", PARTS)(home)
    rows = {
        part: [
            f"images/{part}{name}{number}.png {label}"
            for label, name in enumerate(CLASSES)
            for number in numbers
        ]
        for part, numbers in PARTS.items()
    }
    for name, parts in (
        ("train800", ["train"]),
        ("val200", ["val"]),
        ("test", ["test"]),
        ("train800val200", ["train", "val"]),
    ):
        (home / f"{name}.txt").write_text("\n".join(sum((rows[part] for part in parts), [])))
    (home / "class_names.txt").write_text("\n".join(CLASSES))


def _lists(home):
    _folders("images/{part}{name}{number}.png", HALVES)(home)
    for part, numbers in HALVES.items():
        rows = [(f"{part}{name}{n}.png", k) for k, name in enumerate(CLASSES) for n in numbers]
        text = "\n".join(f"{path} {label}" for path, label in rows)
        (home / f"{part}.txt").write_text(text)
    (home / "class_names.txt").write_text("\n".join(CLASSES))


TAKEN = {
    "`<class>/…`": _folders("{name}/{number}.png", {"": range(10)}),
    "`train/<class>/…`, `val/<class>/…`, `test/<class>/…`": _folders(
        "{part}/{name}/{number}.png", PARTS
    ),
    "`seg_train/<class>/…`, `seg_test/<class>/…`": _named(train="seg_train", test="seg_test"),
    "`Training Set/<class>/…`, `valid/<class>/…`": _named(train="Training Set", test="valid"),
    "`<class>/train/…`, `<class>/test/…`": _folders("{name}/{part}/{number}.png", HALVES),
    "`PLACE/<class>/…`, as after unzipping twice": _folders(
        "{home}/{name}/{number}.png", {"": range(10)}
    ),
    "`labels.csv` with `path,label`": _table("labels.csv", "path,label", PARTS),
    "`labels.csv` with `path;label;split`": _table("labels.csv", "path;label;split", PARTS),
    "`train.csv`, `val.csv`, `test.csv`": _table("{part}.csv", "path,label", PARTS, True),
    "`metadata.csv` with `file_name,label` (Hugging Face)": _table(
        "metadata.csv", "file_name,label", PARTS
    ),
    "`train/metadata.jsonl`, `test/metadata.jsonl`": _table(
        "{part}/metadata.jsonl", "file_name,label", HALVES, True
    ),
    "`data/train-….parquet`, `data/test-….parquet` (Hugging Face)": _parquet,
    "`train800.txt`, `val200.txt`, `train800val200.txt`, `test.txt`, maybe `class_names.txt` "
    "(VTAB-1k)": _vtab,
    "`train.txt`, `test.txt` with the same lines, `path label`": _lists,
}


@pytest.mark.parametrize("row", _rows("`PLACE` holds"), ids=lambda row: row[0])
def test_what_is_taken(row, tmp_path):
    assert len(row) == 2
    home = tmp_path / "place"
    TAKEN[row[0]](home)
    source = data.open_source("place", str(tmp_path), 0)
    sizes = [len(source.splits[name]) for name in ("train", "val", "test")]
    assert sizes == [int(number) for number in re.findall(r"\d+", row[1])[:3]]
    assert source.class_names == CLASSES and source.warnings == ()


def test_all_that_is_taken_is_in_the_table():
    assert [row[0] for row in _rows("`PLACE` holds")] == list(TAKEN)


def _alone(home):
    _folders("{part}/{name}/{number}.png", {"test": range(5)})(home)


def _others(home):
    _folders("{part}/{name}/{number}.png", {"train": range(5)})(home)
    _put(home, "test/dog/0.png", 0, 0)


def _copied(home):
    _folders("{name}/{number}.png", {"": range(5)})(home)
    _folders("place/{name}/{number}.png", {"": range(5)})(home)


def _broken(home):
    _folders("{name}/{number}.png", {"": range(5)})(home)
    (home / "ant/0.png").write_bytes(b"no image")


def _deep(home):
    _folders("{name}/{number}.png", {"": range(5)})(home)
    PIL.Image.fromarray(np.zeros((9, 9), np.uint16)).save(home / "ant/0.png")


def _listed(line):
    def make(home):
        _table("labels.csv", "path,label,split", PARTS)(home)
        with open(home / "labels.csv", "a") as file:
            file.write(f"\n{line}")

    return make


def _two_tables(home):
    for name in ("a.csv", "b.csv"):
        _table(name, "path,label", PARTS)(home)


def _no_images(home):
    home.mkdir()
    pyarrow.parquet.write_table(pyarrow.table({"label": [1, 2]}), home / "0.parquet")


REFUSED = {
    "`part1/<class>/…`, `part2/<class>/…`": _folders(
        "{part}/{name}/{number}.png", {"part1": range(5), "part2": range(5, 9)}
    ),
    "`train/…`, `test/…` without classes or a table": _folders("{part}/{name}{number}.png", HALVES),
    "`test/<class>/…` alone": _alone,
    "`train/<class>/…`, `test/<other>/…`": _others,
    "`<class>/…` beside `PLACE/<class>/…`": _copied,
    "`<class>/…` with 2 images": _folders("{name}/{number}.png", {"": range(2)}),
    "`shots=8` with 8 images a class": _folders("train/{name}/{number}.png", {"": range(8)}),
    "an image that cannot be read": _broken,
    "an image with 16 bits a channel, grey": _deep,
    "`labels.csv` with a path outside of `PLACE`": _listed("../one.png,ant,test"),
    '`labels.csv` with a split "fold 1"': _listed("images/ant0.png,ant,fold 1"),
    "`a.csv`, `b.csv`": _two_tables,
    "a parquet file without images": _no_images,
}


@pytest.mark.parametrize("row", _rows("what is refused"), ids=lambda row: row[0])
def test_what_is_refused(row, tmp_path):
    """The message has the words of the table, in their order."""
    what, said = row
    home = tmp_path / "place"
    REFUSED[what](home)
    shots = Shots(8, 0) if "shots" in what else None
    if shots:  # of which none goes to a test that is drawn
        _folders("test/{name}/{number}.png", {"": range(8, 10)})(home)
    with pytest.raises(UserError) as error:
        data.open_source("place", str(tmp_path), 0, shots)
    parts = [re.escape(part.strip()).replace(r"\ ", r"\s+") for part in said.split("…")]
    assert re.search("(?s).*".join(parts).replace("(?s)", ""), str(error.value), re.DOTALL), said


def test_all_that_is_refused_is_in_the_table():
    assert [row[0] for row in _rows("what is refused")] == list(REFUSED)


def test_names_in_the_text():
    """Formats, names of splits and columns are those of the code."""
    text = SECTION.replace("\n", " ")
    assert f"by their content: {', '.join(images._FORMATS)}, and with" in text
    assert f"known by its name ({', '.join(classes._WORDS)})" in text
    for kind, others in records.COLUMNS.items():
        for name in re.findall(rf"`{kind}` \(or ([\w, ]+) …\)", text):
            assert {*name.split(", ")} <= {*others.split()}
