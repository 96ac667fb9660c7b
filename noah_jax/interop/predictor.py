"""Classifies images with a found subnet, in other programs.

Images are turned as their EXIF says, then resized as in the run's test. One image has a program of
its own, and so has a batch. Each is compiled when it is first needed, so that no number of images
compiles anew.
"""

import contextlib
import dataclasses
import functools
import itertools
import os
import pathlib
import threading
import weakref
from collections.abc import Generator, Iterable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
import PIL.Image
from flax import nnx

from noah_jax.data import loader
from noah_jax.data.arrays import problem_of_all
from noah_jax.data.images import open_bytes, open_file, turned
from noah_jax.errors import UserError, listed
from noah_jax.interop import hub
from noah_jax.interop.subnet import Subnet, read
from noah_jax.vit.network import normalise

# Images in a batch. On a CPU larger ones gain nothing, and the last one is often filled up.
_ON_CPU, _ELSEWHERE = 16, 64
_EXPECTED = "expected uint8 [h, w, 3], [h, w, 4], [h, w, 1] or [h, w]"

_Path = str | os.PathLike
Image = _Path | bytes | PIL.Image.Image | np.ndarray


@dataclasses.dataclass(frozen=True)
class Answers:
    """The answers of a subnet for some images.

    Attributes:
      probabilities: float32 `[n, classes]`; NaN for an image that cannot be read.
      class_names: in the order of the columns.
      unread: why an image cannot be read, by its row.
    """

    probabilities: np.ndarray
    class_names: Sequence[str]
    unread: Mapping[int, str]

    def labels(self, top: int = 1, threshold: float = 0.0) -> list[list[tuple[str, float]]]:
        """The likeliest classes of each image with their probabilities, the best first.

        Args:
          top: how many classes.
          threshold: an image whose best class has less gets an empty list, as does one that cannot
            be read.
        """
        return [
            ranked(row, self.class_names, top) if row.max() >= threshold else []
            for row in self.probabilities
        ]


def ranked(row: np.ndarray, class_names: Sequence[str], top: int) -> list[tuple[str, float]]:
    """The `top` likeliest classes of one image and their probabilities; of equals the first."""
    return [(class_names[i], float(row[i])) for i in np.argsort(-row, kind="stable")[:top]]


class Predictor:
    """A subnet that is ready to classify images; threads may share it.

    Args:
      subnet: an export, the workdir of a finished run, `OWNER/NAME` on the Hugging Face hub, or a
        subnet that was read from one.
      weights: where the backbone's file is now, if it has moved since the run.

    Attributes:
      facts: the contents of `subnet.json`.
      class_names: the names of the classes, in the order of the probabilities.

    Raises:
      UserError: see `hub.folder_of`, `subnet.read` and `Subnet.model`.
    """

    def __init__(self, subnet: _Path | Subnet, weights: str = ""):
        if not isinstance(subnet, Subnet):
            subnet = read(hub.folder_of(os.fspath(subnet)), weights)
        facts = self.facts = subnet.facts
        self.class_names = subnet.class_names
        self._size, temperature = subnet.config.image_size, subnet.temperature
        self._prepare = functools.partial(loader.resize, size=self._size, crop=facts["center_crop"])
        self._batch = _ON_CPU if jax.default_backend() == "cpu" else _ELSEWHERE
        self._compiling, self._loading = threading.Lock(), threading.Lock()
        self._programs: dict[int, jax.stages.Compiled] = {}
        graphdef, state = nnx.split(subnet.model())
        self._weights = jax.device_put(state)

        @jax.jit
        def probabilities(weights, images):
            images = normalise(images, facts["mean"], facts["std"])
            return jax.nn.softmax(nnx.merge(graphdef, weights)(images) / temperature)

        self._probabilities = probabilities

    def predict(self, images: Image | Iterable[Image], skip_unread: bool = False) -> Answers:
        """Computes the probability of each class for each image.

        Args:
          images: paths, Pillow's images, bytes of encoded files, or arrays, uint8 `[h, w, 3]`, RGB,
            of any size; or one array of all, `[n, h, w, 3]`. A single path, image of Pillow's or
            file's bytes may stand alone.
          skip_unread: names images that cannot be read in `Answers.unread`, instead of raising.

        Raises:
          UserError: images cannot be read; the message names them.
        """
        rows = list(self.stream(images))
        unread = {i: row for i, row in enumerate(rows) if isinstance(row, str)}
        if unread and not skip_unread:
            raise UserError(f"{len(unread)} images cannot be read:{listed(unread.values())}")
        found = np.full((len(rows), len(self.class_names)), np.nan, np.float32)
        for i, row in enumerate(rows):
            if not isinstance(row, str):
                found[i] = row
        return Answers(found, self.class_names, unread)

    def stream(self, images: Image | Iterable[Image]) -> Generator[np.ndarray | str, None, None]:
        """Yields the probabilities of each image, float32 `[classes]`, or why it cannot be read.

        Only a few images are decoded at a time.

        Args:
          images: see `predict`.

        Raises:
          UserError: they are no images at all.
        """
        each = _separate(images)
        names = [str(x) if isinstance(x, _Path) else f"image {i}" for i, x in enumerate(each)]
        split, left = loader.Split(names, lambda i: (self._open(each[i]), 0)), len(each)
        with contextlib.closing(loader.decode(split, range(left), self._prepare)) as decoded:
            while left:
                size = self._batch if left >= self._batch / 2 else 1
                some = list(itertools.islice(decoded, size))
                yield from self._classify(some, size)
                left -= len(some)

    def compile(self) -> None:
        """Compiles both programs now, so that the first images need not wait for them."""
        for size in (1, self._batch):
            self._program(size)

    def _classify(self, decoded: Sequence[Any], size: int) -> Sequence[np.ndarray | str]:
        """The probabilities of at most `size` images, or why they cannot be read."""
        batch = np.zeros((size, self._size, self._size, 3), np.uint8)
        good = [place for place, result in enumerate(decoded) if not isinstance(result, str)]
        if not good:
            return decoded
        for place in good:
            batch[place] = decoded[place][0]
        rows = np.asarray(self._program(size)(self._weights, batch))
        return [rows[i] if i in good else result for i, result in enumerate(decoded)]

    def _program(self, size: int) -> jax.stages.Compiled:
        """The compiled function of the weights and uint8 images `[size, h, w, 3]`."""
        with self._compiling:  # one thread compiles, others wait for it
            if size not in self._programs:
                images = jax.ShapeDtypeStruct((size, self._size, self._size, 3), np.uint8)
                self._programs[size] = self._probabilities.lower(self._weights, images).compile()
            return self._programs[size]

    def _open(self, image: Image) -> PIL.Image.Image:
        """Opens an image, which the caller closes.

        Raises:
          Exception: whatever Pillow's readers raise on a broken one; ValueError if it is none.
        """
        if isinstance(image, bytes):
            return open_bytes(image, upright=True)
        if isinstance(image, _Path):
            return open_file(pathlib.Path(image), upright=True)
        if isinstance(image, PIL.Image.Image):
            with self._loading:  # it may be there twice, and Pillow reads it when it is copied
                return turned(image.copy())
        array = np.asarray(image)
        if array.shape[2:] == (1,):
            array = array[..., 0]
        if array.dtype != np.uint8 or array.ndim < 2 or array.shape[2:] not in ((), (3,), (4,)):
            raise ValueError(f"{array.dtype} {list(np.shape(image))}, {_EXPECTED}")
        return PIL.Image.fromarray(array)


def _separate(images: Image | Iterable[Image]) -> Sequence[Image]:
    """The images one by one; UserError if they are none at all."""
    if isinstance(images, Image) and not isinstance(images, np.ndarray):
        return [images]
    if hasattr(images, "__array__"):
        images = np.asarray(images)
        if images.dtype != object and (problem := problem_of_all(images)):
            raise UserError(f"images: {problem}; {_EXPECTED} for each")
    elif not isinstance(images, Iterable) or isinstance(images, Mapping):
        raise UserError(f"images: it is {type(images).__name__}; {_EXPECTED} for each")
    return list(images)


_PREDICTORS: "weakref.WeakKeyDictionary[Subnet, Predictor]" = weakref.WeakKeyDictionary()
_MAKING = threading.Lock()


def classify(subnet: Subnet, images: np.ndarray) -> np.ndarray:
    """Computes the probability of each class for images in memory.

    What is compiled is kept as long as the subnet.

    Args:
      images: uint8 `[n, h, w, 3]`, RGB, of any size.

    Returns:
      float32 `[n, num_classes]`

    Raises:
      UserError: the images are something else.
    """
    with _MAKING:
        if subnet not in _PREDICTORS:
            _PREDICTORS[subnet] = Predictor(subnet)  # it has no reference to the subnet
        predictor = _PREDICTORS[subnet]
    return predictor.predict(images).probabilities
