"""Folders of images: VTAB-1k's lists, one folder per class, and the published few-shot lists.

<folder>/train800.txt  val200.txt  train800val200.txt  test.txt   lines `images/… label`
<folder>/<class>/…                                                a fifth becomes the test
<lists>/train_meta.list.num_shot_8.seed_1 …                       NOAH's few-shot lists
<lists>/images_variant_train.txt …                                FGVC Aircraft's own
<lists>.json                                                      CoOp's split_zhou_….json
"""

import os
import pathlib
from collections.abc import Sequence

import numpy as np

from noah_jax.data.images import open_file
from noah_jax.data.lists import Rows, read_coop, read_fgvc, read_lists
from noah_jax.data.loader import Source, Split
from noah_jax.data.shots import Shots
from noah_jax.data.tasks import Task
from noah_jax.errors import UserError, listed

_LISTS = {"train": "train800", "val": "val200", "trainval": "train800val200", "test": "test"}
_SPLIT_NAMES = {"train", "training", "val", "valid", "validation", "test", "testing"}
_SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".gif", ".ppm", ".tif", ".tiff", ".webp"}
_IMAGE_FOLDERS = ("", "images", "jpg", "data/images", "train", "val", "images/train", "images/val")
_MAX_CLASSES = 100_000  # in one's own images; a mistyped label must not take memory


def open_folder(
    folder: pathlib.Path, task: Task | None, split_seed: int, shots: Shots | None
) -> Source:
    """The data of one task.

    One's own images are turned upright as their EXIF says; a benchmark's are not, as the reference
    code does not.

    Args:
      task: its facts, if it is a benchmark's.
      split_seed: of the splits of class folders.
      shots: draws that many of what the folder has for training; None = all.

    Raises:
      UserError: a list cannot be read, or the folder cannot be split.
    """
    num_classes, class_names = task.num_classes if task else 0, ()
    if shots and shots.lists:
        files = published(folder, task, shots)
    elif any((folder / f"{name}.txt").is_file() for name in _LISTS.values()):
        files = read_lists({ours: folder / f"{name}.txt" for ours, name in _LISTS.items()})
    else:
        files, num_classes = _split_classes(folder, split_seed), 0
        class_names = tuple(class_folders(folder))
    found = max((label for _, label in files["trainval"]), default=-1) + 1
    num_classes = num_classes or min(found, _MAX_CLASSES)
    if shots and not shots.lists:
        files |= drawn(files["trainval"], shots)
    splits = {name: file_split(folder, rows, upright=task is None) for name, rows in files.items()}
    return Source(splits, num_classes, encoding(files), class_names=class_names)


def file_split(
    folder: pathlib.Path, rows: Rows, classes: tuple[int, ...] = (), upright: bool = False
) -> Split:
    """The images of `rows` inside `folder`; see `Split` and `images.open_file`."""
    return Split(
        [str(path) for path, _ in rows],
        lambda index: (open_file(folder / rows[index][0], upright), rows[index][1]),
        classes,
        [label for _, label in rows],
        folder,
    )


def encoding(files: dict[str, Rows]) -> str:
    """The image formats by their suffixes."""
    suffixes = {path.suffix.lower() for rows in files.values() for path, _ in rows} & _SUFFIXES
    return "+".join(sorted({{".jpg": "jpeg"}.get(name, name[1:]) for name in suffixes}))


def drawn(pool: Rows, shots: Shots) -> dict[str, Rows]:
    """Few of `pool` to train on, few to validate with; a subnet is retrained on the former."""
    num_classes = len({label for _, label in pool})
    train, val = shots.split(lambda index: pool[index][1], len(pool), num_classes)
    files = {"train": [pool[index] for index in train], "val": [pool[index] for index in val]}
    return files | {"trainval": files["train"]}


def published(folder: pathlib.Path, task: Task | None, shots: Shots) -> dict[str, Rows]:
    """The few-shot images that NOAH published, or few of CoOp's or FGVC's lists.

    Args:
      folder: where the images are, themselves or in a folder that the archives make.
      task: its facts, if it is a benchmark's.

    Raises:
      UserError: `shots.lists` is none of these.
    """
    lists = pathlib.Path(shots.lists).expanduser()
    own = lists / f"{folder.name}.json", lists / folder.name  # where there are several tasks
    lists = next((path for path in own if path.exists()), lists)
    coop, fgvc = lists.suffix == ".json", (lists / "images_variant_train.txt").is_file()
    if coop or fgvc:
        files = read_coop(lists) if coop else read_fgvc(lists)
        files |= {"train": drawn(files["train"], shots)["train"]}
    else:
        val, test = (task or Task(0)).lists
        train = f"train_meta.list.num_shot_{shots.number}.seed_{shots.seed}"
        names = {"train": train, "val": val, "test": test}
        files = read_lists({ours: lists / name for ours, name in names.items()})
    val = files["val"]
    chosen = shots.val(lambda index: val[index][1], len(val), len({label for _, label in val}))
    files |= {"val": [val[index] for index in chosen], "trainval": files["train"]}
    return {name: _placed(folder, rows) for name, rows in files.items()}


def _placed(folder: pathlib.Path, rows: Rows) -> Rows:
    """Adds to the paths the folders that the archives make, which lists leave out."""
    first = rows[0][0] if rows else ""
    places = (place for place in _IMAGE_FOLDERS if os.path.isfile(folder / place / first))
    place = next(places, "")
    return [(place / path, label) for path, label in rows]


# --- One folder per class ------------------------------------------------------------------------


def class_rows(folder: pathlib.Path, name: str, label: int) -> Rows:
    """The images of the class folder `name`, in order of their paths, which start there."""
    return [(path.relative_to(folder), label) for path in image_files(folder / name)]


def image_files(folder: pathlib.Path) -> list[pathlib.Path]:
    """The images in a folder and those below it, in order of their paths."""
    return [
        path
        for path in sorted(folder.rglob("*"))
        if path.suffix.lower() in _SUFFIXES and path.name[0] != "."
    ]


def class_folders(folder: pathlib.Path) -> list[str]:
    """The names of the folders in `folder`, sorted: a class's label is its place."""
    if not folder.is_dir():
        return []
    return sorted(path.name for path in folder.iterdir() if path.is_dir() and path.name[0] != ".")


def _split_classes(folder: pathlib.Path, seed: int) -> dict[str, Rows]:
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
    splits: dict[str, list] = {name: [] for name in _LISTS}
    for examples in classes:
        rows = [examples[i] for i in rng.permutation(len(examples))]
        test = max(1, len(rows) // 5)
        val = max(1, (len(rows) - test) // 5)
        splits["test"] += rows[:test]
        splits["val"] += rows[test : test + val]
        splits["train"] += rows[test + val :]
    return splits | {"trainval": splits["train"] + splits["val"]}
