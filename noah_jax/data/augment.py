"""The augmentation of NOAH's few-shot and ImageNet runs, as timm 0.5.4 does it.

This part runs on the host, image by image (`stream`): random resized crop, flip, RandAugment
`rand-m9-mstd0.5-inc1`. The rest runs on the device; see training/mixing.py. All values are the
defaults of NOAH's supernet_train_prompt.py.
"""

import contextlib
import dataclasses
import math
import os
from collections.abc import Generator

import numpy as np
import PIL.Image
from PIL import ImageEnhance, ImageOps
from PIL.Image import Resampling, Transform, Transpose

from noah_jax.data.images import reason, rgb
from noah_jax.data.loader import Split
from noah_jax.errors import UserError

_ATTEMPTS = 10  # at a box that fits, for the crop
_CROP_AREA, _CROP_RATIO = (0.08, 1.0), (3 / 4, 4 / 3)
_LAYERS, _OPERATION_PROBABILITY = 2, 0.5
_MAGNITUDE, _MAGNITUDE_STD, _MAGNITUDE_MAX = 9.0, 0.5, 10.0
_FILL = (124, 116, 104)  # ImageNet's mean
_BATCHES_AHEAD = 4


@dataclasses.dataclass(frozen=True)
class Augmented:
    """Training data that is read and augmented anew in every epoch.

    Attributes:
      size: of the augmented images, in pixels.
      num_classes: of the targets.
    """

    split: Split
    size: int
    num_classes: int


def stream(
    split: Split,
    size: int,
    batch_size: int,
    seed: int,
    first_step: int,
    rows: np.ndarray | None = None,
) -> Generator[tuple[np.ndarray, np.ndarray], None, None]:
    """Yields batches without end: uint8 `[batch_size, size, size, 3]`, int32 `[batch_size]`.

    Every epoch has another order and leaves out the images that do not fill a batch. A batch is a
    pure function of its step and the seed. `close()` ends the threads that read ahead.

    Args:
      rows: the rows of each batch that are wanted; None = all. Only these are read.

    Raises:
      UserError: an image cannot be read; the message names it.
    """

    import grain  # here, because it loads JAX, which `import noah_jax.data` must not do

    def read(index, rng):
        try:
            image, label = split.read(index)
            with image:
                return augment(image, size, rng), np.int32(label)
        except Exception as error:  # Pillow's readers raise whatever a broken file provokes
            line = f"{split.names[index]}: {reason(error)}"
            raise UserError(f"an image cannot be read: {line}") from error

    whole_batches = len(split) // batch_size * batch_size
    order = grain.MapDataset.range(len(split)).seed(seed).shuffle()[:whole_batches].repeat()
    images = order.random_map(read)  # seeded by position, whichever rows are read
    rows = np.arange(batch_size) if rows is None else rows

    def wanted(position, row):
        return images[(first_step + position // len(rows)) * batch_size + int(row)]

    options = grain.ReadOptions(
        num_threads=os.cpu_count() or 1, prefetch_buffer_size=_BATCHES_AHEAD * len(rows)
    )
    positions = grain.MapDataset.source(rows).repeat().map_with_index(wanted)
    dataset = positions.to_iter_dataset(options).batch(len(rows))
    with contextlib.closing(iter(dataset)) as results:
        yield from results


def augment(image: PIL.Image.Image, size: int, rng: np.random.Generator) -> np.ndarray:
    """Augments an image: random resized crop, flip, RandAugment.

    Returns:
      uint8 `[size, size, 3]`

    Raises:
      ValueError: see `images.rgb`.
    """
    image = rgb(image)
    image = image.crop(crop_box(*image.size, rng)).resize((size, size), Resampling.BICUBIC)
    if rng.random() < 0.5:
        image = image.transpose(Transpose.FLIP_LEFT_RIGHT)
    for name in rng.choice(list(OPERATIONS), _LAYERS):
        if rng.random() < _OPERATION_PROBABILITY:
            magnitude = np.clip(rng.normal(_MAGNITUDE, _MAGNITUDE_STD), 0.0, _MAGNITUDE_MAX)
            image = OPERATIONS[name](image, float(magnitude) / 10, int(rng.choice((-1, 1))))
    return np.asarray(image)


def crop_box(width: int, height: int, rng: np.random.Generator) -> tuple[int, int, int, int]:
    """Draws a box (left, top, right, bottom) until it fits the image; if none does, the centre."""
    for _ in range(_ATTEMPTS):
        area = rng.uniform(*_CROP_AREA) * width * height
        ratio = math.exp(rng.uniform(*np.log(_CROP_RATIO)))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            left = int(rng.integers(width - w, endpoint=True))
            top = int(rng.integers(height - h, endpoint=True))
            return left, top, left + w, top + h
    w = min(width, round(height * _CROP_RATIO[1]))
    h = min(height, round(width / _CROP_RATIO[0]))
    left, top = (width - w) // 2, (height - h) // 2
    return left, top, left + w, top + h


# --- RandAugment: timm's "increasing" operations -------------------------------------------------
# Each takes an RGB image, the level (magnitude / 10) and, for those with two directions, the sign.


def _affine(image, *matrix):
    return image.transform(
        image.size, Transform.AFFINE, matrix, Resampling.BICUBIC, fillcolor=_FILL
    )


def _enhance(kind):
    return lambda image, level, sign: kind(image).enhance(max(0.1, 1 + sign * level * 0.9))


def _posterize(image, level, _):
    """Keeps 4 … 0 bits; Pillow's own function refuses 0 (a black image) in recent versions."""
    mask = 256 - 2 ** (4 + int(level * 4))
    return image.point([value & mask for value in range(256)] * 3)


def _solarize_add(image, level, _):
    add = int(level * 110)
    return image.point([min(255, v + add) if v < 128 else v for v in range(256)] * 3)


OPERATIONS = {
    "auto_contrast": lambda image, level, sign: ImageOps.autocontrast(image),
    "equalize": lambda image, level, sign: ImageOps.equalize(image),
    "invert": lambda image, level, sign: ImageOps.invert(image),
    "rotate": lambda image, level, sign: image.rotate(
        sign * level * 30, Resampling.BICUBIC, fillcolor=_FILL
    ),
    "posterize": _posterize,
    "solarize": lambda image, level, sign: ImageOps.solarize(image, 256 - int(level * 256)),
    "solarize_add": _solarize_add,
    "color": _enhance(ImageEnhance.Color),
    "contrast": _enhance(ImageEnhance.Contrast),
    "brightness": _enhance(ImageEnhance.Brightness),
    "sharpness": _enhance(ImageEnhance.Sharpness),
    "shear_x": lambda image, level, sign: _affine(image, 1, sign * level * 0.3, 0, 0, 1, 0),
    "shear_y": lambda image, level, sign: _affine(image, 1, 0, 0, sign * level * 0.3, 1, 0),
    "translate_x": lambda image, level, sign: _affine(
        image, 1, 0, sign * level * 0.45 * image.width, 0, 1, 0
    ),
    "translate_y": lambda image, level, sign: _affine(
        image, 1, 0, 0, 0, 1, sign * level * 0.45 * image.height
    ),
}
