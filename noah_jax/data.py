"""Images and labels: where they come from, how they become arrays.

A `Source` has the splits train, val, trainval and test of one task. What is trained on is loaded
whole (`load`); test images are streamed in batches (`batches`). Both decode in Grain's threads.
"""

import dataclasses
import difflib
import io
import os
import pathlib
import re
import sys
from collections.abc import Callable, Iterator, Sequence

import grain
import numpy as np
import PIL.Image

from noah_jax.errors import UserError
from noah_jax.tasks import VTAB, Task

SPLITS = {  # ours → the file names and notation of VTAB-1k
    "train": "train800",
    "val": "val200",
    "trainval": "train800val200",
    "test": "test",
}
_SPLIT_NAMES = {"train", "training", "val", "valid", "validation", "test", "testing"}
_IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".gif", ".ppm", ".tif", ".tiff", ".webp"}


@dataclasses.dataclass(frozen=True)
class Split:
    """Examples that are read one by one.

    Attributes:
      labels: int32 `[n]`.
      names: for messages, one a example.
      open: index → PIL image; may raise anything on a broken one.
    """

    labels: np.ndarray
    names: Sequence[str]
    open: Callable[[int], PIL.Image.Image]

    def __len__(self):
        return len(self.labels)


@dataclasses.dataclass(frozen=True)
class Source:
    """One task's data.

    Attributes:
      splits: the keys of `SPLITS`.
      num_classes: labels are 0 … num_classes - 1.
      encoding: how the images are stored; lossy JPEG costs accuracy.
    """

    splits: dict[str, Split]
    num_classes: int
    encoding: str


def open_source(task: str, data_dir: str, split_seed: int) -> Source:
    """The data of `task`: `<data_dir>/<task>` where that is a folder, else digits, else TFDS.

    Raises:
      UserError: no such task, files or labels; all that is wrong with a folder is listed.
    """
    folder = pathlib.Path(data_dir or ".").expanduser() / task
    if data_dir and folder.is_dir() and not _is_tfds(folder):
        return _check(_folder(folder, VTAB.get(task), split_seed), folder)
    if task == "digits" and not data_dir:
        return _digits(split_seed)
    if task in VTAB:
        return _check(_tfds(task, data_dir), task)
    near = difflib.get_close_matches(task, [*VTAB, "digits"])
    raise UserError(
        f"unknown task {task!r}"
        + (f" (did you mean {' or '.join(near)}?)" if near else "")
        + f": expected {', '.join(VTAB)}, digits, or a folder at {folder}"
    )


def load(split: Split, size: int) -> tuple[np.ndarray, np.ndarray]:
    """All of a split: uint8 images `[n, size, size, 3]` and int32 labels `[n]`.

    Raises:
      UserError: images cannot be read; all of them are named.
    """
    results = list(_decode(split, range(len(split)), size))
    broken = [result for result in results if isinstance(result, str)]
    if broken:
        raise UserError(f"{len(broken)} images cannot be read:\n  " + "\n  ".join(broken))
    return np.stack(results), split.labels


def batches(split: Split, size: int, batch: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The split in order: uint8 `[batch, size, size, 3]`, int32 `[batch]`.

    The last batch is filled up with black images of label -1.
    """
    decoded = iter(_decode(split, range(len(split)), size))
    for start in range(0, len(split), batch):
        images = np.zeros((batch, size, size, 3), np.uint8)
        labels = np.full(batch, -1, np.int32)
        for i, image in zip(range(min(batch, len(split) - start)), decoded, strict=False):
            if isinstance(image, str):
                raise UserError(f"an image cannot be read: {image}")
            images[i], labels[i] = image, split.labels[start + i]
        yield images, labels


def resize(image: PIL.Image.Image, size: int) -> np.ndarray:
    """uint8 `[size, size, 3]`: RGB, bicubic, the aspect ratio given up (NOAH's VTAB setting).

    Raises:
      ValueError: more than 8 bits a channel, which Pillow would clip to white.
    """
    if image.mode.startswith(("I", "F")):
        raise ValueError(f"mode {image.mode} has more than 8 bits a channel, convert it to 8")
    return np.asarray(image.convert("RGB").resize((size, size), PIL.Image.Resampling.BICUBIC))


def _decode(split: Split, indices: Sequence[int], size: int) -> grain.IterDataset:
    """Resized images in order, or, for one that cannot be read, a line that says so."""

    def read(index):
        try:
            with split.open(index) as image:
                return resize(image, size)
        except Exception as error:  # Pillow's readers raise whatever a broken file provokes
            return f"{split.names[index]}: {error}"

    threads = os.cpu_count() or 1
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=16 * threads)
    return grain.MapDataset.source(indices).map(read).to_iter_dataset(options)


def _check(source: Source, origin: pathlib.Path | str) -> Source:
    """The source, if every split has examples, all images open and all labels are in range."""
    problems = [f"{name} has no images" for name, split in source.splits.items() if not len(split)]
    seen: set[str] = set()
    for split in source.splits.values():
        for index in np.flatnonzero((split.labels < 0) | (split.labels >= source.num_classes)):
            problems.append(
                f"{split.names[index]} has label {split.labels[index]}, "
                f"expected 0 … {source.num_classes - 1}"
            )
        new = [index for index, name in enumerate(split.names) if name not in seen]
        seen.update(split.names)  # trainval repeats what train and val have
        if new:
            decoded = _decode(split, new, size=8)
            problems += [line for line in decoded if isinstance(line, str)]
    problems = list(dict.fromkeys(problems))
    if problems:
        raise UserError(f"the data in {origin} cannot be used:\n  " + "\n  ".join(problems))
    return source


# --- A folder of images --------------------------------------------------------------------------


def _folder(folder: pathlib.Path, task: Task | None, split_seed: int) -> Source:
    """VTAB-1k lists where there is one, else one folder per class."""
    if any((folder / f"{name}.txt").is_file() for name in SPLITS.values()):
        files = {name: _read_list(folder, f"{list_name}.txt") for name, list_name in SPLITS.items()}
    else:
        files, task = _split_classes(folder, split_seed), None
    seen = [label for _, label in files["trainval"]]
    suffixes = {path.suffix.lower().lstrip(".") for rows in files.values() for path, _ in rows}
    return Source(
        {name: _file_split(folder, rows) for name, rows in files.items()},
        task.num_classes if task else max(seen, default=-1) + 1,
        "+".join(sorted({"jpg": "jpeg"}.get(suffix, suffix) for suffix in suffixes)),
    )


def _file_split(folder: pathlib.Path, rows: list[tuple[pathlib.Path, int]]) -> Split:
    return Split(
        np.array([label for _, label in rows], np.int32),
        [str(path) for path, _ in rows],
        lambda index: PIL.Image.open(folder / rows[index][0]),
    )


def _read_list(folder: pathlib.Path, name: str) -> list[tuple[pathlib.Path, int]]:
    """Lines `images/… label`; the path may hold spaces."""
    path, rows, problems = folder / name, [], []
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read the list {path}: {error}") from error
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        match = re.fullmatch(r"(.+?)\s+(-?\d{1,9})", line.strip())
        if match:
            rows.append((pathlib.Path(match[1]), int(match[2])))
        else:
            problems.append(f"line {number}: expected `path label`, got {line.strip()!r}")
    if problems:
        raise UserError(f"cannot read the list {path}:\n  " + "\n  ".join(problems))
    return rows


def _split_classes(folder: pathlib.Path, seed: int) -> dict[str, list[tuple[pathlib.Path, int]]]:
    """Of every class a fifth for the test, and of the rest a fifth for validation."""
    classes = sorted(
        path.name for path in folder.iterdir() if path.is_dir() and path.name[0] != "."
    )
    images = {
        name: sorted(
            path.relative_to(folder)
            for path in (folder / name).rglob("*")
            if path.suffix.lower() in _IMAGE_SUFFIXES and path.name[0] != "."
        )
        for name in classes
    }
    problems = [f"class {name} has {len(x)} images" for name, x in images.items() if len(x) < 3]
    if split_names := _SPLIT_NAMES & {name.lower() for name in classes}:
        problems.append(f"{', '.join(sorted(split_names))} is a split, not a class: write lists")
    if len(classes) < 2:
        problems.append(f"{len(classes)} class folders")
    if problems:
        raise UserError(
            f"{folder} cannot be split into train, val and test:\n  "
            + "\n  ".join(problems)
            + "\nExpected train800.txt, val200.txt, train800val200.txt and test.txt with lines "
            "`images/… label`, or at least two folders, one a class, with at least 3 images each."
        )
    rng = np.random.default_rng(seed)
    splits = {name: [] for name in SPLITS}
    for label, name in enumerate(classes):
        paths = [images[name][i] for i in rng.permutation(len(images[name]))]
        test = max(1, len(paths) // 5)
        val = max(1, (len(paths) - test) // 5)
        parts = {
            "test": paths[:test],
            "val": paths[test : test + val],
            "train": paths[test + val :],
        }
        for split, part in parts.items():
            splits[split] += [(path, label) for path in part]
    return splits | {"trainval": splits["train"] + splits["val"]}


# --- Arrays that a package carries, and TFDS -----------------------------------------------------


def _digits(seed: int) -> Source:
    """scikit-learn's 1,797 handwritten digits of 8×8 pixels: 800 / 200 / 797."""
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    images = np.round(pixels.reshape(-1, 8, 8) * 255 / 16).astype(np.uint8)
    order = np.random.default_rng(seed).permutation(len(images))

    def split(rows):
        return Split(
            labels[rows].astype(np.int32),
            [f"digit {row}" for row in rows],
            lambda index: PIL.Image.fromarray(images[rows[index]]),
        )

    parts = {"train": order[:800], "val": order[800:1000], "trainval": order[:1000]}
    splits = {name: split(rows) for name, rows in (parts | {"test": order[1000:]}).items()}
    return Source(splits, 10, "array")


def _is_tfds(folder: pathlib.Path) -> bool:
    """Whether this is a dataset's folder inside TFDS's data folder: it holds versions."""
    return any(re.fullmatch(r"\d+\.\d+\.\d+.*", path.name) for path in folder.iterdir())


def _builder(task: str, data_dir: str):
    import tensorflow_datasets as tfds

    return tfds.builder(VTAB[task].tfds, data_dir=data_dir or None, file_format="array_record")


def _tfds(task: str, data_dir: str) -> Source:
    """A prepared TFDS dataset, read without TensorFlow."""
    import tensorflow_datasets as tfds

    builder = _builder(task, data_dir)
    if not builder.is_prepared():
        raise UserError(
            f"{task} is not prepared in {builder.data_path}: run "
            f"`python -m noah_jax.data prepare {task}"
            + (f" --data_dir={data_dir}`" if data_dir else "`")
            + ", or give a folder with --config.data_dir"
        )
    undecoded = {"image": tfds.decode.SkipDecoding()}

    def split(instruction):
        parts = [
            builder.as_data_source(split=part, decoders=undecoded)
            for part in instruction.split("+")
        ]
        rows = [(part, row) for part in parts for row in range(len(part))]
        labels = [example["label"] for part in parts for example in part]
        return Split(
            np.array(labels, np.int32),
            [f"{task} {instruction} example {index}" for index in range(len(rows))],
            lambda index: PIL.Image.open(io.BytesIO(rows[index][0][rows[index][1]]["image"])),
        )

    task_splits = VTAB[task].splits(builder.info.splits["train"].num_examples)
    splits = {ours: split(task_splits[name]) for ours, name in SPLITS.items()}
    with splits["train"].open(0) as image:
        encoding = image.format.lower()
    return Source(splits, VTAB[task].num_classes, encoding)


def prepare(tasks: Sequence[str], data_dir: str) -> None:
    """Downloads datasets and writes them as array_record, once; the only use of TensorFlow."""
    for task in tasks:
        builder = _builder(task, data_dir)
        print(f"preparing {task} in {builder.data_path}", flush=True)
        builder.download_and_prepare()


if __name__ == "__main__":
    import argparse

    parser = argparse.ArgumentParser(description="python -m noah_jax.data prepare TASK …")
    parser.add_argument("command", choices=["prepare"])
    parser.add_argument("tasks", nargs="+", choices=sorted(VTAB), metavar="TASK")
    parser.add_argument("--data_dir", default="", help="TFDS's data folder")
    arguments = parser.parse_args()
    try:
        prepare(arguments.tasks, arguments.data_dir)
    except Exception as error:  # TFDS and the network raise many kinds
        sys.exit(f"cannot prepare: {error}")
