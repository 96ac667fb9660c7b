"""One folder per class: which files are images, and how they are split."""

import pathlib
from collections.abc import Sequence

import numpy as np

from noah_jax.data.folders.files import SUFFIXES, Rows
from noah_jax.errors import UserError, listed

_SPLIT_NAMES = {"train", "training", "val", "valid", "validation", "test", "testing"}
_SPLITS = ("train", "val", "trainval", "test")


def class_rows(folder: pathlib.Path, name: str, label: int) -> Rows:
    """The images of the class folder `name`, sorted by path; the paths start with `name`."""
    return [(path.relative_to(folder), label) for path in image_files(folder / name)]


def image_files(folder: pathlib.Path) -> list[pathlib.Path]:
    """The images in a folder and those below it, in order of their paths."""
    return [
        path
        for path in sorted(folder.rglob("*"))
        if path.suffix.lower() in SUFFIXES and path.name[0] != "."
    ]


def class_folders(folder: pathlib.Path) -> list[str]:
    """The names of the folders in `folder`, sorted; the place of a class is its label."""
    if not folder.is_dir():
        return []
    return sorted(path.name for path in folder.iterdir() if path.is_dir() and path.name[0] != ".")


def split_folders(folder: pathlib.Path, seed: int) -> dict[str, Rows]:
    """Splits the images of class folders; UserError if that cannot be done."""
    classes = class_folders(folder)
    images = {name: class_rows(folder, name, label) for label, name in enumerate(classes)}
    problems = []
    if split_names := _SPLIT_NAMES & {name.lower() for name in classes}:
        problems.append(f"{', '.join(sorted(split_names))} is a split, not a class: write lists")
    if len(classes) < 2:
        problems.append(f"{len(classes)} class folders")
    problems += [f"class {name} has {len(x)} images" for name, x in images.items() if len(x) < 3]
    if problems:
        raise UserError(
            f"{folder} cannot be split into train, val and test:{listed(problems)}"
            "\nExpected train800.txt, val200.txt, train800val200.txt and test.txt with lines "
            "`images/… label`, or at least two folders, one a class, with at least 3 images each."
        )
    return split_classes([images[name] for name in classes], seed)


def split_classes(classes: Sequence[Sequence | np.ndarray], seed: int) -> dict[str, list]:
    """The examples of each class, at least 3, over the splits: a fifth for the test, and of the
    rest a fifth for validation."""
    rng = np.random.default_rng(seed)
    splits: dict[str, list] = {name: [] for name in _SPLITS}
    for examples in classes:
        rows = [examples[i] for i in rng.permutation(len(examples))]
        test = max(1, len(rows) // 5)
        val = max(1, (len(rows) - test) // 5)
        splits["test"] += rows[:test]
        splits["val"] += rows[test : test + val]
        splits["train"] += rows[test + val :]
    return splits | {"trainval": splits["train"] + splits["val"]}
