"""Sources, on real files: folders, lists, broken images, digits."""

import dataclasses
import os
import pathlib
import subprocess
import sys
import threading
import time

import numpy as np
import PIL.Image
import pytest

from noah_jax import data
from noah_jax.data import Split, loader
from noah_jax.data.shots import Shots
from noah_jax.errors import UserError


@pytest.fixture
def lists(tmp_path):
    """A VTAB-1k folder `shapes` of tiny JPEGs; the label is the red channel / 60."""
    folder, rng = tmp_path / "shapes", np.random.default_rng(0)
    rows = {}
    for name, count in (("train800", 12), ("val200", 4), ("test", 7)):
        (folder / "images" / name).mkdir(parents=True)
        rows[name] = []
        for i in range(count):
            label = i % 3
            pixels = rng.integers(0, 20, (20, 30, 3)) + np.array([60 * label + 20, 0, 0])
            path = f"images/{name}/{i:06d}.jpg"
            PIL.Image.fromarray(pixels.astype(np.uint8)).save(folder / path, quality=95)
            rows[name].append(f"{path} {label}")
    rows["train800val200"] = rows["train800"] + rows["val200"]
    for name, lines in rows.items():
        (folder / f"{name}.txt").write_text("\n".join(lines) + "\n")
    return folder


def _open(folder, split_seed=0):
    return data.open_source(folder.name, str(folder.parent), split_seed)


def test_lists(lists):
    source = _open(lists)
    assert {name: len(split) for name, split in source.splits.items()} == {
        "train": 12,
        "val": 4,
        "trainval": 16,
        "test": 7,
    }
    assert source.num_classes == 3 and source.encoding == "jpeg"
    images, labels = loader.load(source.splits["trainval"], 16)
    assert images.shape == (16, 16, 16, 3) and images.dtype == np.uint8
    np.testing.assert_array_equal(images[..., 0].mean(axis=(1, 2)) // 60, labels)
    with PIL.Image.open(lists / "images" / "val200" / "000001.jpg") as image:
        np.testing.assert_array_equal(images[13], loader.resize(image, 16))


def test_batches_are_in_order_and_padded(lists):
    test = _open(lists).splits["test"]
    whole, labels = loader.load(test, 16)
    parts = list(loader.batches(test, 16, 3))
    assert [images.shape for images, _ in parts] == [(3, 16, 16, 3)] * 3
    np.testing.assert_array_equal(np.concatenate([part for part, _ in parts])[:7], whole)
    together = np.concatenate([part for _, part in parts])
    np.testing.assert_array_equal(together, [*labels, -1, -1])


def test_each_host_decodes_its_rows_of_a_batch(lists):
    """In batches of 4 out of 7 images; those that others have to read are never opened."""
    test = _open(lists).splits["test"]
    read = []
    noted = dataclasses.replace(test, read=lambda index: read.append(index) or test.read(index))
    whole = list(loader.batches(test, 16, 4))
    parts = list(loader.batches(noted, 16, 4, rows=np.array([1, 3])))
    assert sorted(read) == [1, 3, 5] and parts[1][1].tolist() == [whole[1][1][1], -1]
    for (images, labels), part in zip(whole, parts, strict=True):
        np.testing.assert_array_equal(part[0], images[[1, 3]])
        np.testing.assert_array_equal(part[1], labels[[1, 3]])


@pytest.mark.parametrize("rows", [None, np.array([1, 3])])
def test_batches_go_on_from_an_example(lists, rows):
    """Those of an interrupted test, as the whole one has them."""
    test = _open(lists).splits["test"]
    whole = list(loader.batches(test, 16, 4, rows=rows))
    (rest,) = loader.batches(test, 16, 4, rows=rows, start=4)
    for part, expected in zip(rest, whole[1], strict=True):
        np.testing.assert_array_equal(part, expected)
    shifted = np.concatenate([labels for _, labels in loader.batches(test, 16, 4, start=2)])
    assert shifted.tolist() == [2, 0, 1, 2, 0, -1, -1, -1]
    assert not list(loader.batches(test, 16, 4, start=7))
    assert not list(loader.batches(test, 16, 4, start=8))


def _threads_end(before):
    """Those that came after; within a moment, for one may still be at its last image."""
    for _ in range(100):
        if not {*threading.enumerate()} - before:
            return True
        time.sleep(0.05)
    return False


def test_no_thread_is_left(lists):
    source, before = _open(lists), {*threading.enumerate()}
    test = source.splits["test"]
    whole = loader.batches(test, 16, 2)
    assert len(list(whole)) == 4
    loader.load(source.splits["trainval"], 16)
    assert _threads_end(before)
    broken = loader.batches(dataclasses.replace(test, read=None), 16, 2)
    with pytest.raises(UserError, match="cannot be read"):
        next(broken)
    assert _threads_end(before)
    loader.batches(test, 16, 2).close()  # before it began


def test_closing_ends_reading_ahead():
    before, read = {*threading.enumerate()}, []

    def slowly(index):
        read.append(index)
        time.sleep(0.02)
        return PIL.Image.new("RGB", (9, 9)), 0

    cores = os.cpu_count() or 1
    batches = loader.batches(Split(["image"] * 100 * cores, slowly), 8, 2)
    next(batches)
    assert {*threading.enumerate()} - before
    batches.close()
    assert _threads_end(before)
    assert len(read) <= 8 * cores and not list(batches)


def test_all_missing_and_broken_images_and_labels_are_named(lists):
    (lists / "images/train800/000003.jpg").unlink()
    (lists / "images/val200/000001.jpg").write_bytes(b"no image")
    whole = (lists / "images/test/000006.jpg").read_bytes()
    (lists / "images/test/000006.jpg").write_bytes(whole[: len(whole) // 2])
    text = (lists / "test.txt").read_text()
    (lists / "test.txt").write_text(text.replace("000002.jpg 2", "000002.jpg 7"))
    with pytest.raises(UserError) as error:
        _open(lists)
    lines = str(error.value).splitlines()
    assert str(lists) in lines[0] and len(lines) == 5
    for expected in (
        "train800/000003.jpg",
        "val200/000001.jpg",
        "test/000006.jpg",
        "000002.jpg has label 7, expected 0 … 2",
    ):
        assert sum(expected in line for line in lines) == 1, expected


def test_images_that_are_trained_on_and_tested_with(lists):
    with open(lists / "test.txt", "a") as file:
        file.write("images/train800/000004.jpg 1\nimages/train800/000005.jpg 9\n")
    with pytest.raises(UserError) as error:
        _open(lists)
    for message in ("2 images are in trainval and in the test", "000005.jpg has label 9"):
        assert message in str(error.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "val has no images"),
        ("images/val200/000000.jpg\n", "line 1: expected `path label`"),
        ("images/val200/000000.jpg -1\n", "has label -1, expected 0 … 2"),
    ],
)
def test_bad_lists(lists, text, message):
    (lists / "val200.txt").write_text(text)
    with pytest.raises(UserError, match=message):
        _open(lists)


def test_lists_written_on_windows(lists):
    text = (lists / "train800.txt").read_text().replace("\n", "\r\n")
    (lists / "train800.txt").write_bytes(b"\xef\xbb\xbf" + text.encode() + b"\r\n")
    assert len(_open(lists).splits["train"]) == 12


def test_sixteen_bit_images_are_refused_not_clipped(lists):
    deep = np.linspace(0, 63_000, 900).astype(np.uint16).reshape(30, 30)
    PIL.Image.fromarray(deep).save(lists / "images/deep.png")
    (lists / "val200.txt").write_text("images/deep.png 0\n")
    with pytest.raises(UserError, match="deep.png: mode I;16 has more than 8 bits"):
        _open(lists)


def test_missing_list(lists):
    (lists / "test.txt").unlink()
    with pytest.raises(UserError, match="cannot read .*test.txt: "):
        _open(lists)


@pytest.fixture
def classes(tmp_path):
    """`animals/<class>/*.png`: 10, 6 and 3 images of modes that need converting."""
    folder = tmp_path / "animals"
    for name, count, mode in (("cat", 10, "RGB"), ("dog", 6, "L"), ("eel", 3, "RGBA")):
        (folder / name / "deeper").mkdir(parents=True)
        for i in range(count):
            path = folder / name / ("deeper" if i % 2 else "") / f"{i}.png"
            PIL.Image.new(mode, (9, 12)).save(path)
    (folder / "cat" / "notes.txt").write_text("not an image")
    (folder / "cat" / "._0.png").write_text("what macOS leaves")
    (folder / ".ipynb_checkpoints").mkdir()
    return folder


def test_one_folder_per_class(classes):
    source = _open(classes)
    names = {name: set(split.names) for name, split in source.splits.items()}
    assert {name: len(split) for name, split in names.items()} == {
        "train": 7 + 4 + 1,
        "val": 1 + 1 + 1,
        "trainval": 15,
        "test": 2 + 1 + 1,
    }
    assert names["train"] | names["val"] == names["trainval"]
    assert not names["train"] & names["val"] and not names["trainval"] & names["test"]
    for split in source.splits.values():
        labels = loader.load(split, 8)[1]
        assert set(labels) == {0, 1, 2}  # every class in every split
        for name, label in zip(split.names, labels, strict=True):
            assert pathlib.Path(name).parts[0] == ("cat", "dog", "eel")[label]
    assert source.splits["train"].names == _open(classes).splits["train"].names
    assert source.splits["train"].names != _open(classes, 1).splits["train"].names
    assert loader.load(source.splits["trainval"], 8)[0].shape == (15, 8, 8, 3)
    assert source.class_names == ("cat", "dog", "eel")


def test_several_runs_open_a_folder_once_and_the_next_runs_see_what_changed(classes):
    with data.opened_once():
        first = _open(classes)
        (classes / "dog" / "0.png").unlink()
        assert _open(classes) is first and _open(classes, 1) is not first
    with data.opened_once():
        assert _open(classes).fingerprint != first.fingerprint
    assert _open(classes) is not _open(classes)


def test_folders_that_cannot_be_split(classes):
    (classes / "eel" / "0.png").unlink()
    with pytest.raises(UserError, match="class eel has 2 images"):
        _open(classes)
    (classes / "Test").mkdir()
    with pytest.raises(UserError, match="class Test has 0 images"):
        _open(classes)
    (classes.parent / "void").mkdir()
    with pytest.raises(UserError, match="0 class folders"):
        _open(classes.parent / "void")


@pytest.mark.parametrize("data_dir", ["", "/no/folder/of/digits"])
def test_digits_are_the_real_ones(data_dir):
    source = data.open_source("digits", data_dir, 0)
    sizes = {name: len(split) for name, split in source.splits.items()}
    assert sizes == {"train": 800, "val": 200, "trainval": 1000, "test": 797}
    names = [name for split in ("train", "val", "test") for name in source.splits[split].names]
    assert len(set(names)) == 1797
    images, labels = loader.load(source.splits["test"], 8)
    assert images.max() == 255 and len(np.unique(labels)) == 10


def test_few_digits_leave_the_test_as_it_is():
    whole = data.open_source("digits", "", 0)
    few = data.open_source("digits", "", 0, Shots(16, seed=1))
    sizes = {name: len(split) for name, split in few.splits.items()}
    assert sizes == {"train": 160, "val": 40, "trainval": 160, "test": 797}
    assert few.splits["test"].names == whole.splits["test"].names
    drawn = [*few.splits["train"].names, *few.splits["val"].names]
    assert len(set(drawn)) == 200 and set(drawn) < set(whole.splits["trainval"].names)
    assert np.bincount(loader.load(few.splits["train"], 8)[1]).tolist() == [16] * 10
    other = data.open_source("digits", "", 0, Shots(16, seed=2))
    assert few.fingerprint != other.fingerprint


def test_unknown_task_suggests_the_nearest():
    with pytest.raises(UserError, match="unknown task 'cifar10' .did you mean cifar100"):
        data.open_source("cifar10", "", 0)
    with pytest.raises(UserError, match="unknown task 'naturel' .did you mean natural"):
        data.open_source("naturel", "", 0)


@pytest.mark.parametrize("left", ["", "cifar100/incomplete.D9AMRU_3.0.2"])
def test_unprepared_dataset_says_what_to_run(tmp_path, left, monkeypatch):
    """It says so also if the preparation was killed."""
    (tmp_path / left).mkdir(parents=True, exist_ok=True)
    message = "is not prepared in [^ ]*: run `python -m noah_jax.data prepare cifar100 --data_dir="
    with pytest.raises(UserError, match=message):
        data.open_source("cifar100", str(tmp_path), 0)
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(UserError, match=f"is not prepared in {tmp_path}/cifar100/3"):
        data.open_source("cifar100", "~", 0)


def test_the_package_loads_no_jax():
    """Nor what reads, prepares and ships images; each takes seconds, and is loaded where used."""
    heavy = "{'jax', 'grain', 'tensorflow', 'tensorflow_datasets', 'sklearn'}"
    program = f"import sys, noah_jax.data, noah_jax.data.augment; print({heavy} & {{*sys.modules}})"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.strip() == "set()", done.stdout + done.stderr
