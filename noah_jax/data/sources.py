"""Opens a task's images: a folder or file, the hub, scikit-learn's digits, TFDS."""

import contextlib
import contextvars
import pathlib
import re
from collections.abc import Iterator

import numpy as np

from noah_jax.data import tasks
from noah_jax.data.arrays import in_memory
from noah_jax.data.folders import HUB, open_folder, open_imagenet
from noah_jax.data.inspection import inspect_images
from noah_jax.data.loader import Source
from noah_jax.data.shots import Shots
from noah_jax.data.tfds import open_tfds
from noah_jax.errors import UserError, nearest

_Key = tuple[str, str, int, Shots | None, str]

# The sources that `opened_once` shares; they are dropped at its end.
_OPENED: contextvars.ContextVar[dict[_Key, Source] | None] = contextvars.ContextVar(
    "opened", default=None
)


@contextlib.contextmanager
def opened_once() -> Iterator[None]:
    """Makes `open_source` open each source once and share it between the runs within.

    A folder that changes within is not read again.
    """
    token = _OPENED.set({})
    try:
        yield
    finally:
        _OPENED.reset(token)


def open_source(
    task: str,
    data_dir: str,
    split_seed: int,
    shots: Shots | None = None,
    label_column: str = "",
) -> Source:
    """Opens the data of `task`: what is at `<data_dir>/<task>`, if anything, or digits, or TFDS.

    Args:
      data_dir: a folder, or `hf://owner` for datasets of the Hugging Face hub.
      split_seed: draws the splits that are not there, and those of digits.
      shots: draws a few images of each class to train on; None = all.
      label_column: the name of the column of labels in a CSV or parquet file.

    Raises:
      UserError: there is no such task, or its files or labels are wrong; everything that is wrong
        with a folder is listed.
    """
    opened, key = _OPENED.get(), (task, data_dir, split_seed, shots, label_column)
    if opened is None:
        return _open(*key)
    if key not in opened:
        opened[key] = _open(*key)
    return opened[key]


def _open(
    task: str, data_dir: str, split_seed: int, shots: Shots | None, label_column: str
) -> Source:
    """Opens what `open_source` shares."""
    if data_dir.startswith(HUB):
        name = HUB + f"{data_dir.removeprefix(HUB)}/{task}".strip("/")
        return inspect_images(open_folder(name, None, split_seed, shots, label_column), name)
    try:
        return _open_here(task, data_dir, split_seed, shots, label_column)
    except PermissionError as error:
        raise UserError(f"cannot read {error.filename}: {error.strerror}") from error


def _open_here(
    task: str, data_dir: str, split_seed: int, shots: Shots | None, label_column: str
) -> Source:
    """Opens a folder or file here, digits, or TFDS."""
    folder = pathlib.Path(data_dir or ".").expanduser() / task
    facts = tasks.TASKS.get(task)
    in_folder = bool(data_dir) and folder.exists() and not _is_tfds(folder, facts)
    few_only = task in tasks.IMAGENET or (task in tasks.FEW_SHOT and not in_folder)
    if few_only and shots is None:
        raise UserError(f"{task} is trained on few images: set shots, e.g. shots=16")
    if in_folder:
        if task in tasks.IMAGENET and shots:
            return inspect_images(open_imagenet(folder.parent, shots), folder)
        return inspect_images(open_folder(folder, facts, split_seed, shots, label_column), folder)
    if shots and shots.lists:
        raise UserError(f"the images of {shots.lists} are expected in the folder {folder}")
    if task == "digits":
        return _digits(split_seed, shots)
    if shots and task in tasks.VTAB:
        raise UserError(f"{task} has splits of its own, leave shots at 0")
    if facts is None:
        known = [*tasks.TASKS, "digits", *tasks.GROUPS]
        raise UserError(
            f"unknown task {task!r}{nearest(task, known)}: expected {', '.join(known)}, "
            f"or a folder, a CSV or a parquet file at {folder}"
        )
    return open_tfds(task, data_dir, shots)


def _digits(seed: int, shots: Shots | None) -> Source:
    """Splits scikit-learn's 1,797 handwritten digits of 8×8 pixels: 800 / 200 / 797.

    A few shots are drawn from the first 1,000.
    """
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    images = np.round(pixels.reshape(-1, 8, 8) * 255 / 16).astype(np.uint8)
    order = np.random.default_rng(seed).permutation(len(images))
    parts = {"train": order[:800], "val": order[800:1000], "trainval": order[:1000]}
    parts["test"], names = order[1000:], tuple("0123456789")
    if shots:
        train, val = shots.split(lambda place: int(labels[order[place]]), 1000, names)
        parts |= {"train": order[train], "val": order[val], "trainval": order[train]}
    return in_memory(images, labels, parts, "digit", names)


def _is_tfds(folder: pathlib.Path, facts: tasks.Task | None) -> bool:
    """Tells a dataset's folder inside TFDS's data folder from a folder of images.

    TFDS's folder holds versions, or incomplete.XXXXXX_<version>, left by a killed preparation.
    """
    if facts is None:
        return False
    config = re.sub(r"^[^/]*/?|:.*", "", facts.tfds)
    versions = [*folder.glob("*"), *(folder / config).glob("*")]
    return any(re.fullmatch(r"(incomplete\.\w+_)?\d+\.\d+\.\d+", path.name) for path in versions)
