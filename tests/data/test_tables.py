"""Tables of images: CSV files and Hugging Face's metadata, as people write them."""

import json
import shutil

import PIL.Image
import pytest

from noah_jax import data
from noah_jax.errors import UserError
from tests.helpers.images import open_red, sizes

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
    source = open_red(pets)
    assert source.class_names == CLASSES and sizes(source) == ALL
    assert source.notes == ("the labels are from labels.csv",)
    assert open_red(pets / "labels.csv").fingerprint == source.fingerprint  # given itself


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
    assert sizes(open_red(pets)) == {"train": 9, "val": 3, "test": 6}
    (pets / "labels.csv").write_text(_table(rows, ""))
    assert sizes(open_red(pets)) == {"train": 9, "val": 3, "test": 6}


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
    source = open_red(pets)
    assert sizes(source) == {"train": 9, "val": 3, "test": 6}
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
    source = open_red(pets)
    assert source.class_names == CLASSES
    assert sizes(source) == ({"train": 6, "val": 3, "test": 9} if by_split else ALL)


def test_the_column_of_labels_can_be_named(pets):
    rows = [(path, label, number % 2) for number, (path, label) in enumerate(_rows())]
    (pets / "labels.csv").write_text(_table(rows, "path,label,sex"))
    assert open_red(pets, label_column="label").class_names == CLASSES
    source = data.open_source("pets", str(pets.parent), 0, label_column="sex")
    assert source.class_names == ("0", "1")
    with pytest.raises(UserError, match="a column breed, (?s:.*)labels.csv: 'path,label,sex'"):
        open_red(pets, label_column="breed")


def test_images_that_the_table_does_not_list_are_counted(pets):
    (pets / "labels.csv").write_text(_table(_rows(range(15))))
    (pets / "other.csv").write_text("a,b\n1,2\n")
    assert open_red(pets).notes == (
        "the labels are from labels.csv",
        "left out: 3 not in the table (images/15.png and 2 more), 1 .csv (other.csv)",
    )


def test_absolute_paths_inside_the_folder(pets):
    (pets / "labels.csv").write_text(_table(_rows(folder=f"{pets}/images/")))
    assert sizes(open_red(pets)) == ALL
    (pets / "labels.csv").write_text(_table(_rows(folder=f"{pets.parent}/images/")))
    with pytest.raises(UserError, match="line 2: expected a path inside the folder"):
        open_red(pets)


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
        open_red(pets)
    assert str(pets) in str(error.value)


def test_several_tables_must_say_their_splits(pets):
    for name in ("a.csv", "b.csv"):
        (pets / name).write_text(_table(_rows()))
    with pytest.raises(UserError, match="several tables, a.csv, b.csv, .*: give one of them"):
        open_red(pets)
    assert sizes(open_red(pets / "b.csv")) == ALL  # as advised


@pytest.mark.parametrize("name", ["labels.csv", "labels.txt", "labels"])
def test_a_file_that_is_no_table(name, pets):
    (pets / name).write_text("one two three\n")
    with pytest.raises(
        UserError, match=f"expected a header with columns path and label(?s:.*){name}"
    ):
        open_red(pets / name)
    (pets / name).write_bytes(b"\x89PNG\0\xff")
    with pytest.raises(UserError, match=f"cannot read .*{name}: .*expected text in UTF-8"):
        open_red(pets / name)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            _table([*_rows(), ("images/0.png", "dog")]),
            "images/0.png is all, cat, and again all, do",
        ),
        (_table([("images/0.png", "dog, small"), *_rows()]), "line 2 has 3 cells, expected 2"),
        (_table([*_rows(range(17)), ("images/17.png", "NaN")]), "line 19: .* has no label"),
        (_table(_rows(labels=("cat",) * 3)), "all images are of one class"),
        (_table([(path, i) for i, (path, _) in enumerate(_rows())]), "18 of the 18 classes have f"),
        (_table(_rows(folder="photos/")), "none of the 18 images of labels.csv is there, e.g. ph"),
        (_table([("images/\0.png", "cat"), *_rows()]), "images/.*png: "),
    ],
)
def test_labels_that_cannot_be_meant(text, message, pets):
    (pets / "labels.csv").write_text(text)
    with pytest.raises(UserError, match=message) as error:
        open_red(pets)
    assert str(pets) in str(error.value) and len(str(error.value)) < 3000


@pytest.mark.parametrize("label", [None, ["cat"], {"box": [1, 2]}, ""])
def test_metadata_without_a_label(label, pets):
    rows = [{"file_name": f"images/{n}.png", "label": CLASSES[n % 3]} for n in range(18)]
    rows[4]["label"] = label
    (pets / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    with pytest.raises(UserError, match="line 5: 'images/4.png' has no label, a number or a name"):
        open_red(pets)


def test_a_table_whose_first_images_are_gone_is_not_passed_over(pets):
    """Beside other folders, which could be taken for classes."""
    (pets / "masks").mkdir()
    for number in range(18):
        shutil.copy(pets / "images" / f"{number}.png", pets / "masks" / f"m{number}.png")
    (pets / "labels.csv").write_text(_table(_rows()))
    for number in range(2):
        (pets / "images" / f"{number}.png").unlink()
    with pytest.raises(UserError, match="images/0.png: No such file"):
        open_red(pets)


def test_a_table_without_rows(pets):
    (pets / "labels.csv").write_text("path,label\n")
    with pytest.raises(UserError, match="labels.csv has no rows below its header"):
        open_red(pets / "labels.csv")


def test_an_image_that_is_listed_twice_counts_once(pets):
    (pets / "labels.csv").write_text(_table([*_rows(), *_rows(range(3))]))
    source = open_red(pets)
    assert sizes(source) == ALL and source.warnings == ()
    assert source.notes[-1] == "left out: 3 listed twice (images/0.png and 2 more)"


def test_numbers_that_are_names_stay_apart(pets):
    (pets / "labels.csv").write_text(_table(_rows(labels=("01", "1", "2"))))
    assert data.open_source("pets", str(pets.parent), 0).class_names == ("01", "1", "2")


@pytest.mark.parametrize("column", ["Usage", "part of the study"])
def test_a_column_of_splits_by_any_name(column, pets):
    splits = ["Training"] * 12 + ["PublicTest"] * 3 + ["PrivateTest"] * 3
    rows = [(*row, split, 7) for row, split in zip(_rows(), splits, strict=True)]
    (pets / "labels.csv").write_text(_table(rows, f"path,label,{column},age"))
    source = open_red(pets)
    assert sizes(source) == {"train": 9, "val": 3, "test": 6}
    assert f"the splits are its column {column}" in source.notes


def test_paths_that_say_the_split(pets):
    for split, numbers in {"train": range(9), "valid": range(9, 12), "test": range(12, 18)}.items():
        (pets / split).mkdir()
        for number in numbers:
            (pets / "images" / f"{number}.png").rename(pets / split / f"{number}.png")
    rows = _rows(range(9), folder="train/") + _rows(range(9, 12), folder="valid/")
    (pets / "metadata.csv").write_text(
        _table(rows + _rows(range(12, 18), folder="test/"), "file_name,label")
    )
    source = open_red(pets)
    assert sizes(source) == {"train": 9, "val": 3, "test": 6}
    assert "the splits are those in the paths" in source.notes


def test_ids_without_folder_and_suffix(pets):
    """As Kaggle's train.csv, beside the images of the test without a table."""
    (pets / "images").rename(pets / "train_images")
    (pets / "test_images").mkdir()
    PIL.Image.new("RGB", (9, 9)).save(pets / "test_images/0.png")
    (pets / "train.csv").write_text(_table(_rows(folder="", suffix=""), "image_id,label"))
    (pets / "sample_submission.csv").write_text("image_id,label\n0,cat\n")
    source = open_red(pets)
    assert sizes(source) == ALL
    assert source.notes[-1] == (
        "left out: 1 not in the table (test_images/0.png), 1 .csv (sample_submission.csv)"
    )


@pytest.mark.parametrize(
    "content",
    [
        "name,größe\n1,2\n".encode("latin-1"),
        b"image,label\n" + b"x" * 300_000 + b",1\n",
        b'a,b\n"open,1\n',
        b"id,text\n1,hello\n",
    ],
)
def test_another_table_beside_class_folders(content, pets):
    """It hinders nothing, and is counted as left out."""
    for label, name in enumerate(CLASSES):
        (pets / name).mkdir()
        for number in range(label, 18, 3):
            (pets / "images" / f"{number}.png").rename(pets / name / f"{number}.png")
    (pets / "images").rmdir()
    (pets / "other.csv").write_bytes(content)
    source = open_red(pets)
    assert sizes(source) == ALL and source.notes == ("left out: 1 .csv (other.csv)",)
    with pytest.raises(UserError, match="label_column=sex, but .*pets has no table"):
        open_red(pets, label_column="sex")


def test_what_a_table_lacks_is_said_where_nothing_else_fits(pets):
    (pets / "other.csv").write_text("a,b\n1,2\n")
    with pytest.raises(UserError, match="(?s)1 class folders.*tables there: .*other.csv: 'a,b'"):
        open_red(pets)


@pytest.mark.parametrize("kind", ["zip", "tar.gz", "image"])
def test_a_file_of_another_kind(kind, pets):
    if kind == "image":
        place, message = pets / "images/0.png", "is a single image: give the folder"
    else:
        archive = {"zip": "zip", "tar.gz": "gztar"}[kind]
        place = pets.parent / f"pets.{kind}"
        shutil.make_archive(str(pets.parent / "pets"), archive, pets)
        message = "is an archive or an office document: unpack"
    with pytest.raises(UserError, match=message):
        open_red(place)
