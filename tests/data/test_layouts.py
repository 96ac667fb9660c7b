"""Folders of images as people have them: taken with nothing lost in silence, or refused."""

import pathlib
import zlib

import PIL.Image
import pillow_heif
import pytest

from noah_jax import data
from noah_jax.data import loader
from noah_jax.data.folders.classes import split_of
from noah_jax.data.shots import Shots
from noah_jax.errors import UserError
from tests.helpers.images import open_red, sizes

pillow_heif.register_heif_opener()
CLASSES = ("cat", "dog", "eel")


def _write(folder, count, classes=CLASSES, suffix=".png"):
    """`count` images of each class; red tells the class, the rest differs from image to image."""
    for label, name in enumerate(classes):
        (folder / name).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            path = folder / name / f"{number}{suffix}"
            _, *rest = zlib.crc32(str(path).encode()).to_bytes(4, "big")
            PIL.Image.new("RGB", (9, 12), (80 * label, *rest[:2])).save(path)


@pytest.mark.parametrize(
    ("name", "split"),
    [
        *(("train", "train"), ("seg_train", "train"), ("Training Set", "train"), ("trn", "train")),
        *(("train2017", "train"), ("images-train", "train"), ("TrainImages", "train")),
        *(("val", "val"), ("valid", "val"), ("Validation", "val"), ("dev_set", "val")),
        *(("test", "test"), ("TEST", "test"), ("testset", "test"), ("testing_data", "test")),
        *(("cats", ""), ("trains", ""), ("train station", "train"), ("train_val", "")),
        *(("contest", ""), ("valley", ""), ("", ""), ("0", "")),
    ],
)
def test_what_split_a_name_says(name, split):
    assert split_of(name) == split


@pytest.mark.parametrize(
    ("train", "val", "test"),
    [
        ("train", "val", "test"),  # ultralytics, Hugging Face
        ("Training Set", "Validation Set", "Test Set"),
        ("data/train", "data/valid", "data/test"),  # in a folder that the archive makes
        ("seg_train/seg_train", "seg_val/seg_val", "seg_test/seg_test"),  # unzipped twice
    ],
)
def test_folders_of_splits(train, val, test, tmp_path):
    home = tmp_path / "pets"
    for place, count in ((train, 5), (val, 2), (test, 3)):
        _write(home / place, count)
    source = open_red(home)
    assert sizes(source) == {"train": 15, "val": 6, "test": 9}
    assert source.class_names == CLASSES and source.warnings == ()
    first = pathlib.Path(train).parts[0]
    said = "the classes are in data/; train is train/" if first == "data" else f"train is {first}/"
    assert "; ".join(source.notes).startswith(said)


def test_a_split_that_is_missing_is_drawn(tmp_path):
    _write(tmp_path / "a" / "train", 11)
    _write(tmp_path / "a" / "test", 2)
    assert sizes(open_red(tmp_path / "a")) == {"train": 27, "val": 6, "test": 6}
    _write(tmp_path / "b" / "train", 11)
    _write(tmp_path / "b" / "val", 2)
    source = open_red(tmp_path / "b")
    assert sizes(source) == {"train": 27, "val": 6, "test": 6}
    assert {pathlib.Path(name).parts[0] for name in source.splits["test"].names} == {"val"}
    assert (
        "val is the test, as there is no test; a fifth of train is for validation" in source.notes
    )
    _write(tmp_path / "c" / "train", 10)
    source = open_red(tmp_path / "c")
    assert sizes(source) == {"train": 21, "val": 3, "test": 6}
    assert source.notes == ("train is train/",)


def test_splits_inside_class_folders(tmp_path):
    for split, count in (("train", 4), ("test", 2)):
        _write(tmp_path / "turned" / split, count)
        for name in CLASSES:
            (tmp_path / "pets" / name).mkdir(parents=True, exist_ok=True)
            (tmp_path / "turned" / split / name).rename(tmp_path / "pets" / name / split)
    source = open_red(tmp_path / "pets")
    assert sizes(source) == {"train": 9, "val": 3, "test": 6}
    assert source.class_names == CLASSES
    assert source.notes == ("the splits are inside the class folders",)


def test_splits_inside_a_folder_inside_class_folders(tmp_path):
    for name in CLASSES:
        _write(tmp_path / "pets" / name / "images", 4, ("train", "test"))
    source = data.open_source("pets", str(tmp_path), 0)
    assert sizes(source) == {"train": 9, "val": 3, "test": 12} and source.class_names == CLASSES


def test_what_is_beside_the_splits_is_counted(tmp_path):
    """As in Kaggle's data sets: images without classes, a table of another thing, a text."""
    for split, count in (("seg_train", 5), ("seg_test", 2)):
        _write(tmp_path / "scenes" / split / split, count)
    for number in range(7):
        image = PIL.Image.new("RGB", (9, 9), (number, 9, 9))
        image.save(tmp_path / "scenes" / f"{number}.jpg")
    (tmp_path / "scenes/seg_pred/seg_pred").mkdir(parents=True)
    image.save(tmp_path / "scenes/seg_pred/seg_pred/1.jpg")
    (tmp_path / "scenes/results.csv").write_text("image,label\nelsewhere/0.png,cat\n")
    (tmp_path / "scenes/read me.txt").write_text("images/1.png 1")
    assert open_red(tmp_path / "scenes").notes == (
        "train is seg_train/",
        "test is seg_test/",
        "left out: 1 .txt (read me.txt), 1 .csv (results.csv), 8 outside the class folders (0.jpg "
        "and 7 more)",
    )


def _parts(home):
    for part in ("part1", "part2"):
        _write(home / part, 4)
    _write(home / "part2", 4, ("fox",))


def _flat(home):
    for split in ("train", "test"):
        _write(home, 4, (split,))


def _two_trains(home):
    for split in ("train", "training", "test"):
        _write(home / split, 4)


def _only_test(home):
    _write(home / "test", 4)
    _write(home / "val", 4)


def _other_classes(home):
    _write(home / "train", 4)
    _write(home / "test", 4, ("unknown",))


def _inside_itself(home):
    _write(home, 4)
    _write(home / home.name, 4)


def _vehicles(home):
    for name in ("bus", "car", "train"):
        _write(home / name, 4, ("day", "night"))


def _detection(home):
    for split in ("train", "val"):
        _write(home / split, 4, ("images",))
        (home / split / "labels").mkdir()
        (home / split / "labels/0.txt").write_text("0 0.5 0.5 0.1 0.1")


def _camera(home):
    for name in CLASSES:
        _write(home / name, 4, ("day", "night"))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            _parts,
            "holds part1, part2, and each of these holds cat, dog, eel, fox.*names do not say",
        ),
        (_camera, "holds cat, dog, eel, and each of these holds day, night"),
        (_vehicles, "holds bus, car, train, and each of these holds day, night"),
        (_flat, "holds the splits test, train, but these hold no class folders"),
        (_two_trains, "train, training are all of the split train"),
        (_only_test, "there is test, val, but no folder of the split train"),
        (
            _other_classes,
            r"test holds unknown, none of which is a class of train \(cat, dog, eel\)",
        ),
        (_inside_itself, "pets/pets holds cat, dog, eel again, .* unzipped into its own folder"),
        (_detection, "class labels has 0 images\n  left out: 2 .txt"),
    ],
)
def test_folders_that_are_refused(make, message, tmp_path):
    """What was seen is said, and what is expected."""
    home = tmp_path / "pets"
    make(home)
    with pytest.raises(UserError, match=f"(?s){message}") as error:
        open_red(home)
    assert str(home) in str(error.value)
    assert make is _inside_itself or "Expected at least two folders, one a class" in str(
        error.value
    )


@pytest.mark.parametrize(
    "classes", [("bus", "car", "train"), ("alley", "house", "test_site"), ("a", "b", "c", "test")]
)
def test_a_class_may_have_the_name_of_a_split(classes, tmp_path):
    """Beside others, and if it holds images."""
    _write(tmp_path / "own", 4, classes)
    assert data.open_source("own", str(tmp_path), 0).class_names == classes


def test_a_folder_in_a_folder_is_opened(tmp_path):
    _write(tmp_path / "pets" / "pets", 4)
    (tmp_path / "pets/__MACOSX/pets").mkdir(parents=True)
    (tmp_path / "pets/__MACOSX/pets/._0.png").write_bytes(b"\0\5\x16\7")
    source = open_red(tmp_path / "pets")
    assert source.class_names == CLASSES
    assert source.notes == ("the classes are in pets/", "left out: 1 __MACOSX (__MACOSX)")


@pytest.mark.parametrize(
    "place", ["{junk}/0.png", "cat/{junk}/0.png", "cat/more/{junk}/0.png", "train/cat/{junk}/0.png"]
)
@pytest.mark.parametrize("junk", [".ipynb_checkpoints", "__MACOSX", "@eaDir", "lost+found"])
def test_folders_of_programs_are_no_data(place, junk, tmp_path):
    _write(tmp_path / "pets" / ("train" if place.startswith("train") else ""), 5)
    path = tmp_path / "pets" / place.format(junk=junk)
    path.parent.mkdir(parents=True)
    path.write_bytes((next((tmp_path / "pets").rglob("cat")) / "0.png").read_bytes())
    source = open_red(tmp_path / "pets")
    kind = "hidden" if junk.startswith(".") else junk
    assert source.class_names == CLASSES and sum(sizes(source).values()) == 15
    where = place.format(junk=junk).removesuffix("/0.png")
    assert source.notes[-1] == f"left out: 1 {kind} ({where})"
    assert source.warnings == ()


@pytest.mark.parametrize("junk", ["Thumbs.db", ".DS_Store", "desktop.ini", "._0.png"])
def test_files_of_programs_are_no_data(junk, tmp_path):
    _write(tmp_path / "pets", 5)
    for folder in ("", "cat"):
        (tmp_path / "pets" / folder / junk).write_bytes(b"\0")
    source = open_red(tmp_path / "pets")
    kind = "hidden" if junk.startswith(".") else junk
    first = min(junk, f"cat/{junk}")  # in order of the names
    assert source.notes == (f"left out: 2 {kind} ({first} and 1 more)",)
    assert sum(sizes(source).values()) == 15


@pytest.mark.parametrize(
    ("suffix", "kind"),
    [
        *((".jfif", "JPEG"), ("", "PNG"), (".HEIC", "HEIF"), (".avif", "AVIF"), (".Webp", "WEBP")),
        *((".tiff", "TIFF"), (".gif", "GIF"), (".jpg_large", "JPEG"), (".jpg", "PNG")),
        *((".jp2", "JPEG2000"), (".ico", "ICO"), (".JPE", "JPEG"), (".bak", "BMP")),
    ],
)
def test_images_are_known_by_their_content(suffix, kind, tmp_path):
    for name in CLASSES:
        (tmp_path / "pets" / name).mkdir(parents=True)
        for number in range(5):
            image = PIL.Image.new("RGB", (16, 16), (99, 9 * number, 9))
            image.save(tmp_path / "pets" / name / f"{number}{suffix}", kind)
    source = data.open_source("pets", str(tmp_path), 0)
    assert sum(sizes(source).values()) == 15 and source.notes == ()
    assert loader.load(source.splits["test"], 8)[0].shape == (3, 8, 8, 3)


def test_what_is_no_image_is_counted_by_kind(tmp_path):
    _write(tmp_path / "pets", 5)
    for name in ("cat/notes.txt", "cat/movie.mp4", "dog/movie.MP4", "dog/raw", "eel/0.cr2"):
        (tmp_path / "pets" / name).write_bytes(b"GIF or not")
    assert open_red(tmp_path / "pets").notes == (
        "left out: 2 .mp4 (cat/movie.mp4 and 1 more), 1 .txt (cat/notes.txt), 1 without a suffix "
        "(dog/raw), 1 .cr2 (eel/0.cr2)",
    )


def test_links_are_followed_or_named(tmp_path):
    home = tmp_path / "pets"
    _write(tmp_path / "elsewhere", 5)
    home.mkdir()
    for name in CLASSES:  # a class is a link
        (home / name).symlink_to(tmp_path / "elsewhere" / name)
    assert sum(sizes(open_red(home)).values()) == 15
    (home / "dog").unlink()
    (home / "dog").mkdir()
    (home / "dog/more").symlink_to(tmp_path / "elsewhere/dog")  # a folder in a class
    (home / "dog/0.png").symlink_to(tmp_path / "nowhere.png")
    (home / "dog/1.png").symlink_to("1.png")
    (home / "dog/back").symlink_to(home)
    source = open_red(home)
    assert sum(sizes(source).values()) == 15
    assert source.notes == (
        "images in dog/more count as those of the class around",
        "left out: 2 broken link (dog/0.png and 1 more), 1 link to a folder above it (dog/back)",
    )


def test_few_images_of_folders_with_splits(tmp_path):
    _write(tmp_path / "pets/train", 6)
    _write(tmp_path / "pets/test", 2)
    assert sizes(open_red(tmp_path / "pets", Shots(2, 0))) == {"train": 6, "val": 6, "test": 6}
    assert sizes(open_red(tmp_path / "pets", Shots(4, 0))) == {"train": 12, "val": 6, "test": 6}
    with pytest.raises(UserError, match="\n  6 of class cat\n  6 of class dog\n  6 of class eel"):
        open_red(tmp_path / "pets", Shots(6, 0))


def test_a_class_that_a_split_lacks_is_warned_of(tmp_path):
    _write(tmp_path / "pets/train", 4)
    _write(tmp_path / "pets/test", 2, ("cat", "dog"))
    assert open_red(tmp_path / "pets").warnings == ("test: no image of 1 of the 3 classes: eel",)
    for number in range(1, 4):
        (tmp_path / f"pets/train/cat/{number}.png").unlink()
    assert open_red(tmp_path / "pets").warnings == (
        "val: no image of 1 of the 3 classes: cat",
        "test: no image of 1 of the 3 classes: eel",
    )
    _write(tmp_path / "pets/test", 2, ("cat", "dog", "fox"))
    with pytest.raises(AssertionError):  # fox is third of three in the test, fourth of four in all
        open_red(tmp_path / "pets")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("cat\ndog", "class_names.txt has 2 lines, but there are 3 classes"),
        ("\n".join("abcd"), None),
        ("cat\ndog\neel\n\n", None),
    ],
)
def test_names_beside_vtabs_lists(text, message, tmp_path):
    _write(tmp_path / "pets", 4)
    names = {"train800": (0,), "val200": (1,), "train800val200": (0, 1), "test": (2, 3)}
    for name, numbers in names.items():
        rows = [f"{c}/{n}.png {label}" for n in numbers for label, c in enumerate(CLASSES)]
        (tmp_path / "pets" / f"{name}.txt").write_text("\n".join(rows))
    assert open_red(tmp_path / "pets").class_names == ()
    (tmp_path / "pets/class_names.txt").write_text(text)
    if message:
        with pytest.raises(UserError, match=message):
            open_red(tmp_path / "pets")
    else:
        assert open_red(tmp_path / "pets").class_names == tuple(text.split())


def test_classes_of_which_one_holds_no_splits(tmp_path):
    for name in ("cat", "dog"):
        _write(tmp_path / "pets" / name, 4, ("train", "test"))
    _write(tmp_path / "pets", 4, ("eel",))
    with pytest.raises(UserError, match="eel holds no splits, but the other .* hold test, train"):
        open_red(tmp_path / "pets")
    _write(tmp_path / "pets/fox", 4, ("train",))
    for path in (tmp_path / "pets/eel").iterdir():
        path.unlink()
    (tmp_path / "pets/eel").rmdir()
    source = data.open_source("pets", str(tmp_path), 0)
    assert source.class_names == ("cat", "dog", "fox")
    assert source.warnings == ("test: no image of 1 of the 3 classes: fox",)


def test_a_split_that_was_unzipped_into_itself(tmp_path):
    for split in ("train/train", "train", "test"):
        _write(tmp_path / "pets" / split, 4)
    with pytest.raises(UserError, match="pets/train/train holds cat, dog, eel again"):
        open_red(tmp_path / "pets")


def test_a_link_up_inside_a_class(tmp_path):
    _write(tmp_path / "pets", 5)
    (tmp_path / "pets/cat/up").symlink_to("..")
    source = open_red(tmp_path / "pets")
    assert sum(sizes(source).values()) == 15
    assert source.notes == ("left out: 1 link to a folder above it (cat/up)",)


@pytest.mark.parametrize("text", ["a note\n", "images/0.png 1\n", ""])
@pytest.mark.parametrize("name", ["test.txt", "train.txt"])
def test_texts_beside_class_folders(name, text, tmp_path):
    _write(tmp_path / "pets", 5)
    (tmp_path / "pets" / name).write_text(text)
    assert open_red(tmp_path / "pets").notes == (f"left out: 1 .txt ({name})",)


@pytest.mark.parametrize(
    ("line", "message"),
    [("cat/9.png", "line 16: expected `path label`"), ("cat/9.png 0", "cat/9.png: No such file")],
)
def test_lists_with_a_wrong_line_are_not_passed_over(line, message, tmp_path):
    _write(tmp_path / "pets", 5)
    rows = [f"{name}/{n}.png {label}" for n in range(5) for label, name in enumerate(CLASSES)]
    (tmp_path / "pets/train.txt").write_text("\n".join([*rows, line]))
    with pytest.raises(UserError, match=message):
        open_red(tmp_path / "pets")
    (tmp_path / "pets/train.txt").write_text("\n".join(rows[:9]))
    (tmp_path / "pets/valid.txt").write_text("\n".join(rows[9:]))
    source = open_red(tmp_path / "pets")
    assert sizes(source) == {"train": 6, "val": 3, "test": 6} and source.class_names == ()


def test_a_folder_with_the_name_of_a_version(tmp_path):
    _write(tmp_path / "pets" / "1.0.0", 5)
    assert open_red(tmp_path / "pets").notes == ("the classes are in 1.0.0/",)


def test_folders_in_class_folders_are_told(tmp_path):
    _write(tmp_path / "pets", 5)
    _write(tmp_path / "pets/cat", 2, ("night",))
    source = data.open_source("pets", str(tmp_path), 0)
    assert sum(sizes(source).values()) == 17
    assert source.notes == ("images in cat/night count as those of the class around",)
