"""Data is refused, or warned of, before anything starts: on real files."""

import json
import os
import pathlib

import numpy as np
import PIL.Image
import pytest

from noah_jax import data
from noah_jax.data import images, inspection
from noah_jax.data.shots import Shots
from noah_jax.errors import UserError


@pytest.fixture
def photos(tmp_path):
    """A folder `photos` with lists of 3 classes: 9 images to train, 3 to validate, 6 to test."""
    folder, number = tmp_path / "photos", 0
    folder.mkdir()
    lists = {}
    for name, count in (("train800", 9), ("val200", 3), ("test", 6)):
        lists[name] = []
        for i in range(count):
            path = f"{name} {i}.png"  # names with a space
            PIL.Image.new("RGB", (9, 12), (number, 0, 0)).save(folder / path)
            lists[name].append(f"{path} {i % 3}")
            number += 1
    lists["train800val200"] = lists["train800"] + lists["val200"]
    for name, lines in lists.items():
        (folder / f"{name}.txt").write_text("\n".join(lines))
    return folder


def _open(folder):
    return data.open_source(folder.name, str(folder.parent), 0)


def _add(folder, name, line):
    with open(folder / f"{name}.txt", "a") as file:
        file.write(f"\n{line}")


def test_nothing_to_warn_of(photos):
    assert _open(photos).warnings == ()


def test_copies_are_counted(photos):
    """Copies are known by content, whatever their names; val and test are counted apart."""
    for copy, original in (("test 9", "train800 4"), ("test 10", "val200 1"), ("val 9", "test 0")):
        (photos / f"{copy}.png").write_bytes((photos / f"{original}.png").read_bytes())
    _add(photos, "test", "test 9.png 1\ntest 10.png 1")
    _add(photos, "val200", "val 9.png 1\ntrain800 0.png 0")
    val, test = _open(photos).warnings
    assert val == (
        "val: 1 of the 5 images are copies of images to train with: train800 0.png = train800 0.png"
    )
    assert test.startswith(
        "test: 3 of the 8 images are copies of images to train or validate with: "
        "test 0.png = val 9.png, test 9.png = train800 4.png, test 10.png = val200 1.png"
    )


def test_classes_that_a_split_lacks(photos):
    _add(photos, "train800val200", "test 0.png 7")
    (photos / "test.txt").write_text("test 1.png 7")
    assert _open(photos).warnings == (
        "train and val: no image of 5 of the 8 classes: 3, 4, 5, 6, 7",
        "trainval: no image of 4 of the 8 classes: 3, 4, 5, 6",
        "test: no image of 7 of the 8 classes: 0, 1, 2, 3, 4, 5, 6",
    )
    (photos / "class_names.txt").write_text("\n".join("ABCDEFGH"))
    assert _open(photos).warnings[1] == "trainval: no image of 4 of the 8 classes: D, E, F, G"
    (photos / "class_names.txt").unlink()
    for name in ("train800", "train800val200"):
        _add(photos, name, "train800 0.png 99999")
    (warning,) = _open(photos).warnings[:1]
    assert warning.endswith(
        "of the 100000 classes: 3, 4, 5, 6, 7, 8, 9, 10, 11, 12 and 99,986 more"
    )


def test_several_frames_are_counted(photos):
    frames = [PIL.Image.new("RGB", (9, 12), (200, number, 0)) for number in (1, 2)]
    for name in ("a.gif", "b.tif"):
        frames[0].save(photos / name, save_all=True, append_images=frames[1:])
        _add(photos, "train800", f"{name} 0")
    assert (
        "2 images have several frames or pages, only the first of which is used: a.gif, b.tif"
        in _open(photos).warnings
    )


def test_thousands_of_wrong_labels_and_images_are_told_shortly(photos):
    lines = [f"gone {i}.png {i % 3}" for i in range(500)]
    lines += [f"train800 0.png {label}" for label in range(3, 3000)]
    (photos / "test.txt").write_text("\n".join(lines))
    with pytest.raises(UserError) as error:
        _open(photos)
    lines = str(error.value).splitlines()
    assert len(lines) == 1 + 1 + 21 + 21
    assert lines[1] == "  1 images are in trainval and in the test: train800 0.png"
    assert lines[2] == "  train800 0.png has label 3, expected 0 … 2"
    assert lines[22] == "  … and 2,977 more"
    assert lines[23] == "  gone 0.png: No such file or directory"
    assert lines[43] == "  … and 480 more"


def test_a_mistyped_label_takes_no_memory(photos):
    _add(photos, "train800val200", "train800 0.png 999999999")
    with pytest.raises(UserError, match="train800 0.png has label 999999999, expected 0 … 99999"):
        _open(photos)


def test_names_cannot_write_on_the_terminal(photos):
    _add(photos, "train800", "\x1b[2Jgone.png 0")
    with pytest.raises(UserError, match=r"\\x1b\[2Jgone.png: No such file") as error:
        _open(photos)
    assert "\x1b" not in str(error.value)


@pytest.mark.parametrize(
    "path",
    [
        "../x.png",
        "/etc/x.png",
        "a/../../x.png",
        "a\\x.png",
        "..\\x.png",
        "C:/x.png",
        "//host/x.png",
    ],
)
def test_lists_do_not_lead_out_of_the_folder(photos, path):
    """Though the file is there: of all kinds of lists."""
    PIL.Image.new("RGB", (9, 12)).save(photos.parent / "x.png")
    expected = "expected a path inside the folder of the images, written with /, got .*x.png"
    _add(photos, "test", f"{path} 0")
    with pytest.raises(UserError, match=f"line 7: {expected}"):
        _open(photos)

    def few(lists):
        return data.open_source("photos", str(photos.parent), 0, Shots(1, 0, str(lists)))

    own = photos.parent / "lists"
    own.mkdir()
    for name in ("train_meta.list.num_shot_1.seed_0", "val_meta.list", "test_meta.list"):
        (own / name).write_text(f"train800 0.png 0\n{path} 0")
    with pytest.raises(UserError) as error:
        few(own)
    assert str(error.value).count("line 2: expected a path inside") == 3
    rows = {name: [["train800 0.png", 0, "a"], [path, 0, "a"]] for name in ("train", "val", "test")}
    (own / "coop.json").write_text(json.dumps(rows))
    with pytest.raises(UserError, match=f"coop.json:\n  train: {expected}"):
        few(own / "coop.json")
    (own / "variants.txt").write_text("DC-3\n")
    for name in ("train", "val", "test"):
        (own / f"images_variant_{name}.txt").write_text(f"{path} DC-3\n")
    with pytest.raises(UserError, match="images_variant_train.txt: expected a path inside"):
        few(own)


def test_links_inside_the_folder_are_followed(photos):
    (photos / "test 0.png").rename(photos.parent / "elsewhere.png")
    (photos / "test 0.png").symlink_to(photos.parent / "elsewhere.png")
    assert len(_open(photos).splits["test"]) == 6


def test_fingerprint(photos, tmp_path):
    """It changes with content, labels and order, not with the place, nor in another process."""
    first = _open(photos).fingerprint
    assert len(first) == 64 and _open(photos).fingerprint == first
    moved = photos.rename(photos.parent / "moved")
    assert _open(moved).fingerprint == first
    lines = (moved / "test.txt").read_text().splitlines()
    (moved / "test.txt").write_text("\n".join(lines[::-1]))
    order = _open(moved).fingerprint
    (moved / "test.txt").write_text("\n".join([*lines[:-1], "test 5.png 0"]))
    label = _open(moved).fingerprint
    (moved / "test.txt").write_text("\n".join(lines))
    PIL.Image.fromarray(np.full((12, 9, 3), 77, np.uint8)).save(moved / "test 5.png")
    content = _open(moved).fingerprint
    assert len({first, order, label, content}) == 4


def test_an_image_that_changes_between_two_runs_of_one_process(photos, monkeypatch):
    """It is inspected again, even if size and time are as before; the others are not."""
    path, looked = photos / "test 5.png", []
    first, before, whole = _open(photos).fingerprint, path.stat(), path.read_bytes()

    def counting(image):
        looked.append(pathlib.Path(image.filename).name)
        return images.glance(image)

    monkeypatch.setattr(inspection, "glance", counting)
    PIL.Image.new("RGB", (9, 12), (99, 0, 0)).save(path)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert path.stat().st_size == before.st_size
    assert _open(photos).fingerprint != first and looked == ["test 5.png"]
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match="\n  test 5.png: "):
        _open(photos)
    path.write_bytes(whole)
    assert _open(photos).fingerprint == first and {*looked} == {"test 5.png"}


def test_fingerprint_of_digits():
    prints = [data.open_source("digits", "", seed).fingerprint for seed in (0, 0, 1)]
    assert prints[0] == prints[1] != prints[2]
