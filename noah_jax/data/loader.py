"""The data of a task, images and labels, and how it becomes arrays.

A `Source` has the splits of one task. Images to train on without augmentation are loaded whole
(`load`), test images are streamed in batches (`batches`); both decode in Grain's threads, which end
with the iteration.
"""

import contextlib
import dataclasses
import functools
import hashlib
import json
import os
import pathlib
from collections.abc import Callable, Generator, Mapping, Sequence
from typing import Any

import numpy as np
import PIL.Image

from noah_jax.data.images import reason, rgb
from noah_jax.errors import UserError, listed


@dataclasses.dataclass(frozen=True)
class Split:
    """Examples that are read one by one.

    Attributes:
      names: the name of each example, for messages.
      read: index → image and class; may raise anything on a broken image.
      classes: the classes to choose among; empty = all that the task has.
      labels: the labels of all examples; empty if they are not known without reading these.
      folder: the folder that the paths `names` are in; None = the examples are not files.
      digests: the sha256 of each example's encoded image, if the examples are not files.
    """

    names: Sequence[str]
    read: Callable[[int], tuple[PIL.Image.Image, int]]
    classes: tuple[int, ...] = ()
    labels: Sequence[int] = ()
    folder: pathlib.Path | None = None
    digests: Sequence[str] = ()

    def __len__(self):
        return len(self.names)


@dataclasses.dataclass(frozen=True)
class Source:
    """One task's data.

    Attributes:
      splits: train, val, trainval and test.
      num_classes: labels are 0 … num_classes - 1.
      encoding: how the images are stored; lossy JPEG costs accuracy.
      more_tests: test sets of other domains.
      warnings: lines for the user about oddities that do not prevent training.
      fingerprint: a sha256 that changes with the examples, their order, labels or files.
      class_names: in the order of the labels; empty if the classes have no known names.
      notes: what was decided about a folder and what in it is left out, for the start line.
    """

    splits: Mapping[str, Split]
    num_classes: int
    encoding: str
    more_tests: Mapping[str, Split] = dataclasses.field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    fingerprint: str = ""
    class_names: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def fingerprint(content: Any) -> str:
    """Computes the sha256 of `content` as JSON, for `Source.fingerprint`."""
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def load(split: Split, size: int, crop: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Reads a whole split: uint8 images `[n, size, size, 3]`, int32 labels `[n]`; see `resize`.

    Raises:
      UserError: images cannot be read; the message names them.
    """
    prepare = functools.partial(resize, size=size, crop=crop)
    results = list(decode(split, range(len(split)), prepare))
    if broken := [result for result in results if isinstance(result, str)]:
        raise UserError(f"{len(broken)} images cannot be read:{listed(broken)}")
    images, labels = zip(*results, strict=True)
    return np.stack(images), np.array(labels, np.int32)


def subset(split: Split, rows: np.ndarray) -> Split:
    """Makes a split of the examples `rows`, int `[n]`, of another, in that order."""
    return dataclasses.replace(
        split,
        names=[split.names[row] for row in rows],
        read=lambda i: split.read(int(rows[i])),
        labels=[split.labels[row] for row in rows] if len(split.labels) else (),
        digests=[split.digests[row] for row in rows] if len(split.digests) else (),
    )


def batches(
    split: Split,
    size: int,
    batch: int,
    crop: bool = False,
    rows: np.ndarray | None = None,
    start: int = 0,
) -> Generator[tuple[np.ndarray, np.ndarray], None, None]:
    """Yields the split in order: uint8 `[batch, size, size, 3]`, int32 `[batch]`; see `resize`.

    The last batch is filled up with black images of label -1.

    Args:
      rows: the rows of each batch that are wanted, sorted; None = all. Only these are decoded.
      start: the first batch begins at this example.

    Raises:
      UserError: an image cannot be read; the message names it.
    """
    prepare = functools.partial(resize, size=size, crop=crop)
    rows = np.arange(batch) if rows is None else rows
    indices = (np.arange(start, len(split), batch)[:, None] + rows).ravel()
    with contextlib.closing(decode(split, indices[indices < len(split)], prepare)) as decoded:
        for first in range(start, len(split), batch):
            images = np.zeros((len(rows), size, size, 3), np.uint8)
            labels = np.full(len(rows), -1, np.int32)
            there = np.count_nonzero(first + rows < len(split))
            for i, result in zip(range(there), decoded, strict=False):
                if isinstance(result, str):
                    raise UserError(f"an image cannot be read: {result}")
                images[i], labels[i] = result
            yield images, labels


def enlarged(size: int, crop: bool) -> int:
    """The pixels to which images are resized before the middle `size` is taken, if it is."""
    return size * 8 // 7 if crop else size


def resize(image: PIL.Image.Image, size: int, crop: bool = False) -> np.ndarray:
    """Makes an image square, RGB, by bicubic interpolation (NOAH's VTAB setting).

    The aspect ratio is not kept.

    Args:
      crop: enlarges the image by 8/7 and takes the middle (NOAH's few-shot and ImageNet setting).

    Returns:
      uint8 `[size, size, 3]`

    Raises:
      ValueError: see `images.rgb`.
    """
    image, side = rgb(image), enlarged(size, crop)
    image = image.resize((side, side), PIL.Image.Resampling.BICUBIC)
    first = (side - size) // 2
    return np.asarray(image.crop((first, first, first + size, first + size)))


def decode(
    split: Split, indices: Sequence[int] | np.ndarray, prepare: Callable[[PIL.Image.Image], Any]
) -> Generator[tuple[Any, int] | str, None, None]:
    """Yields what `prepare` makes of each image, and its label, in order.

    An image that cannot be read gives a line that says so.
    """

    def read(index):
        try:
            image, label = split.read(index)
            with image:
                return prepare(image), label
        except Exception as error:  # Pillow's readers raise whatever a broken file provokes
            return f"{split.names[index]}: {reason(error)}"

    if len(indices) == 1:  # starting threads would take longer
        yield read(indices[0])
        return
    import grain  # here, because it loads JAX, which `import noah_jax.data` must not do

    threads = os.cpu_count() or 1
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=16 * threads)
    dataset = grain.MapDataset.source(indices).map(read).to_iter_dataset(options)
    with contextlib.closing(iter(dataset)) as results:
        yield from results
