"""Images and labels in memory: which are taken, and how they become a source."""

import dataclasses
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import PIL.Image

from noah_jax.data.folders import LEAST, split_classes
from noah_jax.data.images import rgb, turned
from noah_jax.data.loader import Source, Split, fingerprint
from noah_jax.errors import UserError, joined

_EXPECTED = (
    "expected an array [n, h, w, 3], [n, h, w, 4], [n, h, w, 1] or [n, h, w], or a sequence of "
    "such images of any size, with whole numbers 0 to 255 or floats 0 to 1"
)


def from_arrays(images: Any, labels: Any, class_names: Any, seed: int) -> Source:
    """Makes a source of images in memory; `api.find_subnet` describes the arrays and the splits.

    Args:
      seed: draws the splits.

    Raises:
      UserError: the arrays are wrong; the message lists everything.
    """
    problems: list[str] = []
    pictures = _pictures(images, problems)
    numbers, names, unseen = _numbered(labels, class_names, problems)
    if not problems and len(pictures) != len(numbers):
        problems.append(f"there are {len(pictures)} images, but {len(numbers)} labels")
    counts = np.bincount(numbers, minlength=len(names))
    if few := [name for name, count in zip(names, counts, strict=True) if count < LEAST]:
        problems.append(f"labels: fewer than {LEAST} images of the classes {joined(few)}")
    if not problems and len(names) < 2:
        problems.append(f"labels: all images are of the class {names[0]}, expected at least two")
    if problems:
        raise UserError("\n".join(problems))
    each = [np.flatnonzero(numbers == label) for label in range(len(names))]
    digest = hashlib.sha256()
    for picture in pictures:
        digest.update(str(picture.shape).encode() + picture.tobytes())
    digest.update(numbers.astype(np.int64).tobytes())
    warnings = (f"no image of {len(unseen)} of the classes: {joined(unseen)}",) if unseen else ()
    known = () if names == [str(k) for k in range(len(names))] else tuple(names)
    source = in_memory(pictures, numbers, split_classes(each, seed), "image", known)
    return dataclasses.replace(source, fingerprint=digest.hexdigest(), warnings=warnings)


def in_memory(
    images: Sequence[np.ndarray] | np.ndarray,
    labels: np.ndarray,
    parts: Mapping[str, Sequence[int] | np.ndarray],
    noun: str,
    class_names: tuple[str, ...],
) -> Source:
    """Makes the source whose splits are the rows `parts` of the arrays.

    Args:
      images: uint8 `[h, w, 3]` or `[h, w]` each.
      labels: int `[n]`, counted from 0.
      noun: names an image, in messages.
    """

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


# --- Images --------------------------------------------------------------------------------------


def _pictures(images: Any, problems: list[str]) -> np.ndarray | list[np.ndarray]:
    """Makes each image uint8 `[h, w, 3]` or `[h, w]`; says what is wrong with the first that is."""
    if hasattr(images, "__array__") and not isinstance(images, PIL.Image.Image):
        try:
            images = np.asarray(images)
        except Exception as error:  # PyTorch's, if they have a gradient
            problems.append(f"images: {error}")
            return []
    if isinstance(images, np.ndarray) and images.dtype != object and images.ndim > 0:
        problem = problem_of_all(images)
    elif isinstance(images, Iterable) and not isinstance(images, str | bytes | Mapping):
        images, problem = list(images), ""
    else:
        problem = f"it is {type(images).__name__}"
    if not problem and not len(images):
        problem = "there are none"
    if problem:
        problems.append(f"images: {problem}; {_EXPECTED}")
        return []
    if isinstance(images, np.ndarray) and images.dtype == np.uint8 and images.shape[3:] == (3,):
        return images
    found = []
    for number, image in enumerate(images):
        try:
            found.append(_picture(image))
        except Exception as error:  # Pillow's readers raise whatever a broken file provokes
            problems.append(f"images: image {number} {error}; {_EXPECTED}")
            return []
    return found


def problem_of_all(images: np.ndarray) -> str:
    """Says what is wrong with the shape of an array of images; empty if nothing is."""
    shape = list(images.shape)
    if images.ndim == 3 and shape[-1] in (3, 4):
        return f"{shape} is a single image, which images[None] would make the first of one"
    if images.ndim == 4 and shape[-1] not in (1, 3, 4) and shape[1] in (1, 3):
        return f"{shape} has the colours first: give NumPy's images.transpose(0, 2, 3, 1)"
    if images.ndim > 1 and not images.size and len(images):
        return f"{shape} has no pixels"
    if images.ndim not in (3, 4) or (images.ndim == 4 and shape[-1] not in (1, 3, 4)):
        return f"it is {images.dtype} {shape}"
    return ""


def _picture(image: Any) -> np.ndarray:
    """Makes an image uint8 `[h, w, 3]` or `[h, w]`, on white where it is transparent.

    Raises:
      ValueError: it is none; the message goes on after its number.
    """
    if isinstance(image, PIL.Image.Image):
        return np.asarray(rgb(turned(image.copy())))
    array = np.asarray(image)
    if array.ndim == 3 and array.shape[-1] == 1:
        array = array[..., 0]
    sized = array.ndim in (2, 3) and array.shape[2:] in ((), (3,), (4,)) and array.size > 0
    if not sized or array.dtype.kind not in "uif":
        raise ValueError(f"is {array.dtype} {list(array.shape)}")
    low, high = array.min(), array.max()
    most = 1 if array.dtype.kind == "f" else 255
    if not (low >= 0 and high <= most):  # NaN is not
        raise ValueError(f"has {array.dtype} values from {low} to {high}")
    scaled = np.round(array * 255.0) if array.dtype.kind == "f" else array
    pixels = scaled.astype(np.uint8)
    return np.asarray(rgb(PIL.Image.fromarray(pixels))) if pixels.shape[2:] == (4,) else pixels


# --- Labels --------------------------------------------------------------------------------------


def _numbered(
    labels: Any, class_names: Any, problems: list[str]
) -> tuple[np.ndarray, list[str], list[str]]:
    """Numbers the classes that occur.

    For labels that are numbers, the names are theirs in order, or by value if there are more names
    than labels. For labels that are names, they say the order.

    Returns:
      The number of each image's class; the names of the classes; and names of classes that do not
      occur.
    """
    distinct, numbers = np.unique(_labels(labels, problems), return_inverse=True)
    values, given = distinct.tolist(), _given(class_names, problems)
    own = [str(value) for value in values]
    if not given:
        return numbers, own, []
    if distinct.dtype.kind in "iu" and not isinstance(given, dict):
        if len(given) == len(values):
            return numbers, given, []
        given = {str(place): name for place, name in enumerate(given)}
    if not isinstance(given, dict):
        given = {name: name for name in given}
    if lost := [label for label in own if label not in given]:
        problems.append(f"class_names: {len(given)} are given, but none for {joined(lost)}")
        return numbers, own, []
    unseen = [name for label, name in given.items() if label not in {*own}]
    if distinct.dtype.kind == "U":  # the names say the order
        ranks = {label: rank for rank, label in enumerate(given)}
        order = sorted(range(len(own)), key=lambda place: ranks[own[place]])
        numbers, own = np.argsort(order)[numbers], [own[place] for place in order]
    return numbers, [given[label] for label in own], unseen


def _labels(labels: Any, problems: list[str]) -> np.ndarray:
    """The labels as an array of whole numbers or of names; empty if something is wrong."""
    missing = 0
    try:
        found = np.asarray([] if labels is None else labels)
        if found.dtype == object:
            found = np.array(found.tolist())  # of what is in it
        if found.dtype.kind in "UO" and found.ndim == 1:  # NumPy makes a name of what is missing
            missing = sum(x is None or bool(x != x) for x in np.asarray(labels, object))
    except (TypeError, ValueError) as error:  # rows of unequal length, values of pandas
        problems.append(f"labels: {error}; expected whole numbers or names [n]")
        return np.zeros(0, int)
    if found.ndim != 1 or found.dtype.kind not in "iuU" or not len(found) or missing:
        lost = f", {missing} of which are missing" if missing else ""
        problems.append(
            f"labels: expected whole numbers or names [n], got {found.dtype} {list(found.shape)}"
            f"{lost}"
        )
        return np.zeros(0, int)
    return found


def _given(class_names: Any, problems: list[str]) -> list[str] | dict[str, str]:
    """The names that are given: in order, or by label."""
    if class_names is None:
        return []
    if isinstance(class_names, Mapping):
        return {str(label): str(name) for label, name in class_names.items()}
    if isinstance(class_names, str | bytes | set | frozenset):
        kind = type(class_names).__name__
        problems.append(f"class_names: expected a sequence, or a dict by label, got {kind}")
        return []
    if not isinstance(class_names, Iterable):
        problems.append(f"class_names: expected a sequence, got {class_names!r}")
        return []
    names = [str(name) for name in class_names]
    if len({*names}) < len(names):
        problems.append("class_names: expected names that differ from each other")
    return names
