"""A task's images are opened: from folders, arrays, scikit-learn's digits, TFDS."""

import contextlib
import contextvars
import dataclasses
import hashlib
import pathlib
import re
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import PIL.Image

from noah_jax.data import tasks
from noah_jax.data.folders import HUB, open_folder, open_imagenet, split_classes
from noah_jax.data.inspection import inspect_images
from noah_jax.data.loader import Source, Split, fingerprint
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
      split_seed: draws the splits that are made here, of digits and of one folder per class.
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
    if shots and (task in tasks.VTAB or task == "digits"):
        raise UserError(f"{task} has splits of its own, leave shots at 0")
    if task == "digits":
        return _digits(split_seed)
    if facts is None:
        known = [*tasks.TASKS, "digits", *tasks.GROUPS]
        raise UserError(
            f"unknown task {task!r}{nearest(task, known)}: expected {', '.join(known)}, "
            f"or a folder, a CSV or a parquet file at {folder}"
        )
    return open_tfds(task, data_dir, shots)


def _digits(seed: int) -> Source:
    """Splits scikit-learn's 1,797 handwritten digits of 8×8 pixels: 800 / 200 / 797."""
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    images = np.round(pixels.reshape(-1, 8, 8) * 255 / 16).astype(np.uint8)
    order = np.random.default_rng(seed).permutation(len(images))
    parts = {"train": order[:800], "val": order[800:1000], "trainval": order[:1000]}
    parts["test"] = order[1000:]
    return _in_memory(images, labels, parts, "digit", tuple("0123456789"))


def _is_tfds(folder: pathlib.Path, facts: tasks.Task | None) -> bool:
    """Tells a dataset's folder inside TFDS's data folder from a folder of images.

    TFDS's folder holds versions, or incomplete.XXXXXX_<version>, left by a killed preparation.
    """
    config = re.sub(r"^[^/]*/?|:.*", "", facts.tfds) if facts else ""
    versions = [*folder.glob("*"), *(folder / config).glob("*")]
    return any(re.fullmatch(r"(incomplete\.\w+_)?\d+\.\d+\.\d+", path.name) for path in versions)


def from_arrays(
    images: np.ndarray, labels: np.ndarray, class_names: Sequence[str], seed: int
) -> Source:
    """Makes a source of images in memory; `api.find_subnet` describes the arrays and the splits.

    Args:
      seed: draws the splits.

    Raises:
      UserError: the arrays are wrong; the message lists everything.
    """
    images, labels = np.asarray(images), np.asarray(labels)
    problems = []
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[-1] != 3:
        problems.append(f"images: expected uint8 [n, h, w, 3], got {images.dtype} {images.shape}")
    if not np.issubdtype(labels.dtype, np.integer) or labels.shape != images.shape[:1]:
        problems.append(
            f"labels: expected whole numbers [{len(images)}], got {labels.dtype} {labels.shape}"
        )
    elif not len(labels) or labels.min() < 0:
        problems.append("labels: expected numbers from 0 on")
    elif few := np.flatnonzero(np.bincount(labels) < 3).tolist():
        problems.append(f"labels: fewer than 3 images of the classes {few}")
    elif len(class_names) not in (0, labels.max() + 1):
        problems.append(f"class_names: expected {labels.max() + 1}, got {len(class_names)}")
    if problems:
        raise UserError("\n".join(problems))
    classes = [np.flatnonzero(labels == label) for label in range(labels.max() + 1)]
    digest = hashlib.sha256(images.tobytes())
    digest.update(labels.astype(np.int64).tobytes())
    source = _in_memory(images, labels, split_classes(classes, seed), "image", tuple(class_names))
    return dataclasses.replace(source, fingerprint=digest.hexdigest())


def _in_memory(
    images: np.ndarray,
    labels: np.ndarray,
    parts: Mapping[str, Sequence[int] | np.ndarray],
    noun: str,
    class_names: tuple[str, ...],
) -> Source:
    """Makes the source whose splits are the rows `parts` of the arrays; `noun` names an image."""

    def split(rows):
        return Split(
            [f"{noun} {row}" for row in rows],
            lambda index: (PIL.Image.fromarray(images[rows[index]]), int(labels[rows[index]])),
            labels=[int(labels[row]) for row in rows],
        )

    splits = {name: split(rows) for name, rows in parts.items()}
    digest = fingerprint({name: split.names for name, split in splits.items()})
    num_classes = int(labels.max()) + 1
    return Source(splits, num_classes, "array", fingerprint=digest, class_names=class_names)
