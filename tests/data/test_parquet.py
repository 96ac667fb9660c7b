"""Image datasets of Hugging Face, in files that the package `datasets` writes."""

import io

import datasets
import PIL.Image
import pyarrow
import pyarrow.parquet
import pytest

from noah_jax import data
from noah_jax.data import loader
from noah_jax.data.shots import Shots
from noah_jax.errors import UserError
from tests.helpers.images import open_red, sizes

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
    source = open_red(tmp_path / "pets")
    assert sizes(source) == {"train": 15, "val": 3, "test": 6}
    assert source.class_names == tuple(CLASSES) and source.warnings == source.notes == ()
    assert sizes(open_red(tmp_path / "pets", Shots(2, 0))) == {"train": 6, "val": 6, "test": 6}


def test_one_file(tmp_path):
    _dataset(range(30)).to_parquet(tmp_path / "pets.parquet")
    source = open_red(tmp_path / "pets.parquet")
    assert sizes(source) == {"train": 21, "val": 3, "test": 6}
    assert source.splits["test"].names[0].startswith("all/")
    (tmp_path / "pets").mkdir()
    (tmp_path / "pets.parquet").rename(tmp_path / "pets/0.parquet")
    assert open_red(tmp_path / "pets").fingerprint == source.fingerprint
    _dataset(range(30, 60)).to_parquet(tmp_path / "pets/0.parquet")
    assert open_red(tmp_path / "pets").fingerprint != source.fingerprint


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
    source = open_red(tmp_path / "pets")
    assert sizes(source) == {"train": 9, "val": 3, "test": 3}
    assert source.notes == ("left out: test, whose 6 images have no label",)


def test_copies_are_known_by_content(tmp_path):
    (tmp_path / "pets").mkdir()
    _dataset(range(15)).to_parquet(tmp_path / "pets/train.parquet")
    _dataset([3, 100, 101]).to_parquet(tmp_path / "pets/test.parquet")
    (warning,) = [x for x in open_red(tmp_path / "pets").warnings if "copies" in x]
    assert "test: 1 of the 3 images are copies" in warning and "test/0 = train/3" in warning


def test_several_columns(tmp_path):
    """The images and labels must be clear; else the message says how to name them."""
    place = tmp_path / "pets.parquet"
    _dataset(range(18), coarse=[number % 2 for number in range(18)]).to_parquet(place)
    assert open_red(place).class_names == tuple(CLASSES)
    source = data.open_source("pets.parquet", str(tmp_path), 0, None, "coarse")
    assert source.class_names == ("0", "1")
    columns = "has the columns image, label, coarse: expected .* --config.label_column=NAME"
    with pytest.raises(UserError, match=columns):
        open_red(place, label_column="fine")
    table = pyarrow.parquet.read_table(place)
    for lost in ("image", "label"):
        pyarrow.parquet.write_table(table.drop_columns([lost, "coarse"]), place)
        with pytest.raises(
            UserError, match="pets.parquet: all has the columns .*: expected one of im"
        ):
            open_red(place)


def test_what_cannot_be_read_is_named(tmp_path):
    place = tmp_path / "pets.parquet"
    place.write_bytes(b"PAR1 but no more")
    with pytest.raises(UserError, match="cannot read .*pets.parquet: "):
        open_red(place)
    images = [{"bytes": _png(number), "path": None} for number in range(18)]
    images[4]["bytes"] = b"no image"
    table = {"image": pyarrow.array(images), "label": [number % 3 for number in range(18)]}
    pyarrow.parquet.write_table(pyarrow.table(table), place)
    with pytest.raises(UserError, match="(?s)the data in .*pets.parquet.*all/4: no image that can"):
        open_red(place)
    images[4]["bytes"] = None
    table["image"] = pyarrow.array(images)
    pyarrow.parquet.write_table(pyarrow.table(table), place)
    with pytest.raises(UserError, match="does not hold the images themselves"):
        open_red(place)


def test_a_name_on_the_hub(tmp_path, monkeypatch):
    """`datasets` takes a folder of that name first, so that no network is needed."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    (tmp_path / "me/pets").mkdir(parents=True)
    _dataset(range(15)).to_parquet("me/pets/train.parquet")
    _dataset(range(15, 21)).to_parquet("me/pets/test.parquet")
    source = data.open_source("pets", "hf://me", 0)
    assert sizes(source) == {"train": 12, "val": 3, "test": 6}
    assert source.class_names == tuple(CLASSES)
    assert {*loader.load(source.splits["test"], 8)[1].tolist()} == {0, 1, 2}
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(UserError, match="lists are for images in a folder"):
        data.open_source("pets", "hf://me", 0, Shots(1, 0, "lists"))
    with pytest.raises(UserError, match="cannot fetch hf://me/nothing: "):
        data.open_source("nothing", "hf://me", 0)
    monkeypatch.setitem(__import__("sys").modules, "datasets", None)
    with pytest.raises(UserError, match="hf://me/pets needs a package: run `pip install datasets`"):
        data.open_source("pets", "hf://me", 0)


def _write(dataset, path):
    path.parent.mkdir(parents=True, exist_ok=True)
    dataset.to_parquet(path)


def test_a_split_that_is_named_further_up(tmp_path):
    _write(_dataset(range(15)), tmp_path / "pets/train/default/0000.parquet")
    _write(_dataset(range(15, 21)), tmp_path / "pets/test/default/0000.parquet")
    assert sizes(open_red(tmp_path / "pets")) == {"train": 12, "val": 3, "test": 6}


def test_files_without_a_split_beside_others(tmp_path):
    for name in ("train", "val", "extra"):
        _write(_dataset(range(9)), tmp_path / "pets" / f"{name}.parquet")
    with pytest.raises(UserError, match="1 files have names that say no split, .*train, val: name"):
        open_red(tmp_path / "pets")


def test_a_column_of_splits(tmp_path):
    table = pyarrow.table(
        {
            "image": pyarrow.array([_png(number) for number in range(21)], pyarrow.binary()),
            "label": [CLASSES[number % 3] for number in range(21)],
            "split": ["train"] * 15 + ["test"] * 6,
        }
    )
    pyarrow.parquet.write_table(table, tmp_path / "pets.parquet")
    source = open_red(tmp_path / "pets.parquet")
    assert sizes(source) == {"train": 12, "val": 3, "test": 6} and source.encoding == "png"
    assert source.notes == ("the splits are its column split",)


def test_a_column_of_splits_with_another_value(tmp_path):
    for value in ("extra", None):
        images = pyarrow.array([_png(number) for number in range(9)], pyarrow.binary())
        splits = ["train"] * 5 + ["test"] * 3 + [value]
        table = pyarrow.table({"image": images, "label": ["a", "b", "c"] * 3, "split": splits})
        pyarrow.parquet.write_table(table, tmp_path / "pets.parquet")
        with pytest.raises(UserError, match=f"split is {value}, expected train, val or test"):
            open_red(tmp_path / "pets.parquet")


def test_classes_that_are_numbered_in_two_ways(tmp_path):
    _write(_dataset(range(15)), tmp_path / "pets/train.parquet")
    other = datasets.ClassLabel(names=CLASSES[::-1])
    _write(_dataset(range(6)).cast_column("label", other), tmp_path / "pets/test.parquet")
    with pytest.raises(UserError, match="test, train number the classes in different ways"):
        open_red(tmp_path / "pets")


@pytest.mark.parametrize("name", ["validation.parquet", "unlabeled_test.parquet"])
def test_a_split_without_the_column_of_labels(name, tmp_path):
    _write(_dataset(range(15)), tmp_path / "pets/train.parquet")
    _write(_dataset(range(6)).remove_columns("label"), tmp_path / "pets" / name)
    (note,) = open_red(tmp_path / "pets").notes
    assert note.startswith("left out: ") and note.endswith("whose 6 images have no label")
    _write(_dataset(range(15)).remove_columns("label"), tmp_path / "pets/train.parquet")
    with pytest.raises(UserError, match="train has the columns image: expected one of images, and"):
        open_red(tmp_path / "pets")


@pytest.mark.parametrize("label", [["cat"], {"x": 1}, None, "", float("nan"), b"cat"])
def test_labels_that_are_none(label, tmp_path):
    labels = [label] * 3 if isinstance(label, list | dict | bytes) else ["cat", "dog", label]
    labels = [0.5, 1.5, label] if label != label else labels
    images = pyarrow.array([_png(number) for number in range(3)] * 5, pyarrow.binary())
    table = pyarrow.table({"image": images, "label": labels * 5})
    pyarrow.parquet.write_table(table, tmp_path / "pets.parquet")
    with pytest.raises(UserError, match="images of all have no label in label, a number or a name"):
        open_red(tmp_path / "pets.parquet")


@pytest.mark.parametrize(
    "metadata", [b"no JSON", b"[1]", b'{"info": {"features": {"image": [1]}}}']
)
def test_metadata_of_another_kind(metadata, tmp_path):
    _write(_dataset(range(30)), tmp_path / "pets.parquet")
    table = pyarrow.parquet.read_table(tmp_path / "pets.parquet")
    table = table.replace_schema_metadata({b"huggingface": metadata})
    pyarrow.parquet.write_table(table, tmp_path / "pets.parquet")
    source = open_red(tmp_path / "pets.parquet")
    assert sizes(source) == {"train": 21, "val": 3, "test": 6}
    assert source.class_names == ("0", "1", "2")


def test_odd_suffixes_links_and_what_lies_beside(tmp_path):
    _write(_dataset(range(15)), tmp_path / "elsewhere/train.PARQUET")
    _write(_dataset(range(15, 21)), tmp_path / "elsewhere/test.pq")
    (tmp_path / "pets").mkdir()
    (tmp_path / "pets/data").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "pets/README.md").touch()
    (tmp_path / "pets/logo.png").write_bytes(_png(99))
    source = open_red(tmp_path / "pets")
    assert sizes(source) == {"train": 12, "val": 3, "test": 6}
    assert source.notes == ("left out: 1 .md (README.md), 1 beside the parquet files (logo.png)",)
    assert sizes(open_red(tmp_path / "elsewhere/train.PARQUET")) == {
        "train": 9,
        "val": 3,
        "test": 3,
    }


def test_splits_of_one_kind_on_the_hub(tmp_path, monkeypatch):
    """The one that is called so counts; the others are named."""
    monkeypatch.chdir(tmp_path)
    for name, numbers in (("train", range(15)), ("test", range(15, 21)), ("test_hard", range(9))):
        _write(_dataset(numbers), tmp_path / "me/hard" / f"{name}.parquet")
    rows = "\n".join(
        f"    - {{split: {x}, path: {x}.parquet}}" for x in ("test_hard", "test", "train")
    )
    text = f"---\nconfigs:\n- config_name: default\n  data_files:\n{rows}\n---\n"
    (tmp_path / "me/hard/README.md").write_text(text)
    source = data.open_source("hard", "hf://datasets/me", 0)
    assert sizes(source) == {"train": 12, "val": 3, "test": 6}
    assert source.notes == ("left out: 1 split of another kind (test_hard)",)
