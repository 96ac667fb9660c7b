"""Where a task's images come from: folders, scikit-learn's digits, TFDS.

    python -m noah_jax.data prepare cifar100 …   tasks, or vtab, fewshot, domain

downloads from TFDS and writes what training reads.
"""

import argparse
import pathlib
import re
import sys

import numpy as np
import PIL.Image

from noah_jax import tasks
from noah_jax.checks import check
from noah_jax.errors import UserError, nearest
from noah_jax.folders import open_folder
from noah_jax.imagenet import open_imagenet
from noah_jax.loader import Source, Split, fingerprint
from noah_jax.shots import Shots
from noah_jax.tfds_data import open_tfds, prepare

_BENCHMARKS = {
    "vtab": tasks.VTAB,
    "fewshot": {name: task for name, task in tasks.FEW_SHOT.items() if task.tfds},
    "domain": tasks.IMAGENET | tasks.DOMAINS,
}


def open_source(task: str, data_dir: str, split_seed: int, shots: Shots | None = None) -> Source:
    """The data of `task`: `<data_dir>/<task>` where that is a folder, else digits, else TFDS.

    Args:
      split_seed: of splits that are made here: digits, one folder per class.
      shots: few images a class to train on; None = all.

    Raises:
      UserError: no such task, files or labels; all that is wrong with a folder is listed.
    """
    folder = pathlib.Path(data_dir or ".").expanduser() / task
    facts = tasks.TASKS.get(task)
    in_folder = bool(data_dir) and folder.is_dir() and not _is_tfds(folder, facts)
    few_only = task in tasks.IMAGENET or (task in tasks.FEW_SHOT and not in_folder)
    if few_only and shots is None:
        raise UserError(f"{task} is trained on few images: set shots, e.g. shots=16")
    if in_folder:
        if task in tasks.IMAGENET:
            return check(open_imagenet(folder.parent, shots), folder)
        return check(open_folder(folder, facts, split_seed, shots), folder)
    if shots and shots.lists:
        raise UserError(f"the images of {shots.lists} are expected in the folder {folder}")
    if shots and (task in tasks.VTAB or task == "digits"):
        raise UserError(f"{task} has splits of its own, leave shots at 0")
    if task == "digits":
        return _digits(split_seed)
    if facts is None:
        known = [*tasks.TASKS, "digits", *tasks.GROUPS]
        raise UserError(
            f"unknown task {task!r}{nearest(task, known)}: expected {', '.join(known)}, "
            f"or a folder at {folder}"
        )
    return open_tfds(task, data_dir, shots)


def _digits(seed: int) -> Source:
    """scikit-learn's 1,797 handwritten digits of 8×8 pixels: 800 / 200 / 797."""
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    images = np.round(pixels.reshape(-1, 8, 8) * 255 / 16).astype(np.uint8)
    order = np.random.default_rng(seed).permutation(len(images))

    def split(rows):
        return Split(
            [f"digit {row}" for row in rows],
            lambda index: (PIL.Image.fromarray(images[rows[index]]), int(labels[rows[index]])),
        )

    parts = {"train": order[:800], "val": order[800:1000], "trainval": order[:1000]}
    splits = {name: split(rows) for name, rows in (parts | {"test": order[1000:]}).items()}
    names = {name: split.names for name, split in splits.items()}
    digest, digits = fingerprint(names), tuple("0123456789")
    return Source(splits, 10, "array", fingerprint=digest, class_names=digits)


def _is_tfds(folder: pathlib.Path, facts: tasks.Task | None) -> bool:
    """Whether this is a dataset's folder inside TFDS's data folder.

    It holds versions, or what a killed preparation leaves, incomplete.XXXXXX_<version>.
    """
    config = re.sub(r"^[^/]*/?|:.*", "", facts.tfds) if facts else ""
    versions = [*folder.glob("*"), *(folder / config).glob("*")]
    return any(re.fullmatch(r"(incomplete\.\w+_)?\d+\.\d+\.\d+", path.name) for path in versions)


def _prepare(names: list[str], data_dir: str) -> None:
    """See `prepare`; UserError also for names that are not known."""
    known = {name: {name: task} for name, task in (tasks.TASKS | tasks.DOMAINS).items()}
    known |= _BENCHMARKS
    if unknown := [name + nearest(name, known) for name in names if name not in known]:
        raise UserError(f"unknown: {', '.join(unknown)}; known are {', '.join(known)}")
    prepare(list(dict.fromkeys(task for name in names for task in known[name])), data_dir)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="python -m noah_jax.data prepare TASK …")
    parser.add_argument("command", choices=["prepare"])
    parser.add_argument("tasks", nargs="+", metavar="TASK")
    parser.add_argument("--data_dir", default="", help="TFDS's data folder")
    arguments = parser.parse_args()
    try:
        _prepare(arguments.tasks, arguments.data_dir)
    except (UserError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("\ninterrupted: the same command goes on", file=sys.stderr)
        sys.exit(130)
