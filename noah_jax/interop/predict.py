"""Classifies images with an exported subnet: `python -m noah_jax.interop predict FOLDER IMAGE …`"""

import pathlib
import time
from collections.abc import Iterator, Sequence

import jax
import numpy as np
import PIL.Image
from flax import nnx

from noah_jax.data import loader
from noah_jax.data.folders import image_files
from noah_jax.data.images import open_file
from noah_jax.errors import UserError
from noah_jax.interop.subnet import Subnet, read

_BATCH = 64


def predict(folder: pathlib.Path, paths: Sequence[pathlib.Path], top: int) -> Iterator[str]:
    """Yields a line for each image: its path, and its `top` classes with their probabilities.

    If there are several batches, a last line gives the speed in images/s.

    Args:
      folder: an export, or the workdir of a finished run.
      paths: files, and folders of images.

    Raises:
      UserError: the folder holds no subnet, there are no images, or one cannot be read.
    """
    subnet = read(folder)
    files = [file for path in paths for file in (image_files(path) if path.is_dir() else [path])]
    if not files:
        raise UserError(f"no images in {', '.join(map(str, paths))}")
    names, start, done = subnet.class_names, time.perf_counter(), 0
    split = loader.Split([str(path) for path in files], lambda i: (open_file(files[i], True), 0))
    for found in _probabilities(subnet, split):
        for path, row in zip(files[done : done + len(found)], found, strict=True):
            best = np.argsort(-row, kind="stable")[:top]
            yield f"{path}  " + "  ".join(f"{names[i]} {100 * row[i]:.1f} %" for i in best)
        done += len(found)
        if done == len(found):
            first, start = done, time.perf_counter()  # without the first batch, which compiles
    if done > first:
        seconds = time.perf_counter() - start
        yield f"{(done - first) / seconds:.1f} images/s after the first {first}"


def classify(subnet: Subnet, images: np.ndarray) -> np.ndarray:
    """Computes the probability of each class for images in memory.

    Args:
      images: uint8 `[n, h, w, 3]`, RGB, of any size.

    Returns:
      float32 `[n, num_classes]`
    """
    split = loader.Split(
        [f"image {i}" for i in range(len(images))],
        lambda i: (PIL.Image.fromarray(images[i]), 0),
    )
    return np.concatenate([*_probabilities(subnet, split)])


def _probabilities(subnet: Subnet, split: loader.Split) -> Iterator[np.ndarray]:
    """Yields probabilities, float32 `[b, num_classes]`, batch by batch, in the images' order."""
    graphdef, weights = nnx.split(subnet.model())
    weights = jax.device_put(weights)

    @jax.jit
    def evaluate(weights, images):
        return jax.nn.softmax(nnx.merge(graphdef, weights)(subnet.normalise(images)))

    size, crop = subnet.config.image_size, subnet.facts["center_crop"]
    batch = min(_BATCH, len(split))
    for images, labels in loader.batches(split, size, batch, crop):
        yield np.asarray(evaluate(weights, images))[labels >= 0]
