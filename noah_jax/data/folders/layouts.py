"""Folders of images: VTAB-1k's lists, one folder per class, and the published few-shot lists.

<folder>/train800.txt  val200.txt  train800val200.txt  test.txt   lines `images/… label`
<folder>/<class>/…                                                a fifth becomes the test
<lists>/train_meta.list.num_shot_8.seed_1 …                       NOAH's few-shot lists
<lists>/images_variant_train.txt …                                FGVC Aircraft's own
<lists>.json                                                      CoOp's split_zhou_….json
"""

import pathlib

from noah_jax.data.folders.classes import class_folders, split_folders
from noah_jax.data.folders.files import encoding, file_split
from noah_jax.data.folders.lists import read_lists
from noah_jax.data.folders.published import drawn, published
from noah_jax.data.loader import Source
from noah_jax.data.shots import Shots
from noah_jax.data.tasks import Task

_LISTS = {"train": "train800", "val": "val200", "trainval": "train800val200", "test": "test"}
_MAX_CLASSES = 100_000  # in one's own images; a mistyped label must not take memory


def open_folder(
    folder: pathlib.Path, task: Task | None, split_seed: int, shots: Shots | None
) -> Source:
    """Opens the folder of one task.

    A user's own images are turned upright as their EXIF says. A benchmark's are not, because the
    reference code does not do so.

    Args:
      task: the task's facts, if it is a benchmark's.
      split_seed: draws the splits of class folders.
      shots: draws that many of the folder's training images; None = all.

    Raises:
      UserError: a list cannot be read, or the folder cannot be split.
    """
    num_classes, class_names = task.num_classes if task else 0, ()
    if shots and shots.lists:
        files = published(folder, task, shots)
    elif any((folder / f"{name}.txt").is_file() for name in _LISTS.values()):
        files = read_lists({ours: folder / f"{name}.txt" for ours, name in _LISTS.items()})
    else:
        files, num_classes = split_folders(folder, split_seed), 0
        class_names = tuple(class_folders(folder))
    found = max((label for _, label in files["trainval"]), default=-1) + 1
    num_classes = num_classes or min(found, _MAX_CLASSES)
    if shots and not shots.lists:
        files |= drawn(files["trainval"], shots)
    splits = {name: file_split(folder, rows, upright=task is None) for name, rows in files.items()}
    return Source(splits, num_classes, encoding(files), class_names=class_names)
