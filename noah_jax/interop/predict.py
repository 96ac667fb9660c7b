"""Classifies images with an exported subnet: `python -m noah_jax.interop predict FOLDER IMAGE …`"""

import contextlib
import functools
import itertools
import pathlib
import sys
import time
from collections.abc import Iterator, Sequence

import jax
import numpy as np
import PIL.Image
from flax import nnx

from noah_jax.data import loader
from noah_jax.data.folders import described, walk
from noah_jax.data.images import open_file
from noah_jax.errors import UserError, listed, printable
from noah_jax.interop.subnet import Subnet, read

_BATCH = 64


class Unread(Exception):
    """Some of the images could not be read; the message names them. All others are classified."""


def predict(
    folder: pathlib.Path, paths: Sequence[pathlib.Path], top: int, weights: str = ""
) -> Iterator[str]:
    """Yields a line for each image that can be read: its path, `top` classes, their probabilities.

    If there are several batches, a further line gives the speed in images/s. A line on stderr says
    what else folders hold.

    Args:
      folder: an export, or the workdir of a finished run.
      paths: files, and folders of images.
      weights: where the backbone's file is now, if it has moved since the run.

    Raises:
      UserError: the folder holds no subnet, there are no images, or `top` is no number of classes.
      Unread: at the end, if images cannot be read.
    """
    subnet = read(folder, weights)
    names = subnet.class_names
    if not 1 <= top <= len(names):
        raise UserError(f"--top={top}: expected 1 to {len(names)}, the number of classes")
    files, left_out = _files(paths)
    if not files:
        raise UserError(f"no images in {', '.join(map(str, paths))}{listed(left_out)}")
    for line in left_out:
        print(line, file=sys.stderr)
    split = loader.Split([str(path) for path in files], lambda i: (open_file(files[i], True), 0))
    start, first, unread = time.perf_counter(), len(files), []
    for done, (path, row) in enumerate(zip(files, _probabilities(subnet, split), strict=True), 1):
        if isinstance(row, str):
            unread.append(row)
        else:
            best = np.argsort(-row, kind="stable")[:top]
            classes = (f"{printable(names[i])} {100 * row[i]:.1f} %" for i in best)
            yield f"{printable(str(path))}  " + "  ".join(classes)
        if done == _BATCH:
            first, start = done, time.perf_counter()  # without the first batch, which compiles
    if len(files) > first:
        seconds = time.perf_counter() - start
        yield f"{(len(files) - first) / seconds:.1f} images/s after the first {first}"
    if unread:
        raise Unread(f"{len(unread)} of {len(files)} images cannot be read:{listed(unread)}")


def _files(paths: Sequence[pathlib.Path]) -> tuple[list[pathlib.Path], list[str]]:
    """The images at `paths`, and a line about the other files of folders, if there are any."""
    files, left = [], []
    for path in paths:
        if path.is_dir():
            images, others = walk(path)
            files += [path / image for image in images]
            left += [(why, str(path / other)) for why, other in others]
        else:
            files.append(path)
    return files, described(left)


def classify(subnet: Subnet, images: np.ndarray) -> np.ndarray:
    """Computes the probability of each class for images in memory.

    Args:
      images: uint8 `[n, h, w, 3]`, RGB, of any size.

    Returns:
      float32 `[n, num_classes]`

    Raises:
      UserError: the images are something else.
    """
    split = loader.Split(
        [f"image {i}" for i in range(len(images))],
        lambda i: (PIL.Image.fromarray(images[i]), 0),
    )
    rows = [*_probabilities(subnet, split)]
    if wrong := [row for row in rows if isinstance(row, str)]:
        raise UserError(f"{len(wrong)} images cannot be read:{listed(wrong)}")
    return np.stack([row for row in rows if not isinstance(row, str)])


def _probabilities(subnet: Subnet, split: loader.Split) -> Iterator[np.ndarray | str]:
    """Yields the probabilities of each image, float32 `[num_classes]`, or why it cannot be read."""
    graphdef, weights = nnx.split(subnet.model())
    weights = jax.device_put(weights)

    @jax.jit
    def evaluate(weights, images):
        return jax.nn.softmax(nnx.merge(graphdef, weights)(subnet.normalise(images)))

    size, crop = subnet.config.image_size, subnet.facts["center_crop"]
    batch = np.zeros((min(_BATCH, len(split)), size, size, 3), np.uint8)
    prepare = functools.partial(loader.resize, size=size, crop=crop)
    with contextlib.closing(loader.decode(split, range(len(split)), prepare)) as decoded:
        while some := list(itertools.islice(decoded, len(batch))):
            for place, result in enumerate(some):
                batch[place] = 0 if isinstance(result, str) else result[0]
            rows = np.asarray(evaluate(weights, batch))
            for result, row in zip(some, rows, strict=False):
                yield result if isinstance(result, str) else row
