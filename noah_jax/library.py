"""The method as a function of arrays; what `from noah_jax import …` offers besides its parts."""

import hashlib
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import PIL.Image
from ml_collections import ConfigDict

from noah_jax import config as config_lib
from noah_jax import pipeline
from noah_jax.errors import UserError
from noah_jax.folders import split_classes
from noah_jax.loader import Source, Split


def find_subnet(
    images: np.ndarray,
    labels: np.ndarray,
    workdir: str | pathlib.Path,
    config: ConfigDict | None = None,
    class_names: Sequence[str] = (),
) -> dict[str, Any] | None:
    """What `python -m noah_jax.main` does, for images in memory: of each class a fifth is for the
    test, and of the rest a fifth for validation.

    Called again with the same arguments it goes on where it was stopped.

    Args:
      images: uint8 `[n, h, w, 3]`, RGB, of any size.
      labels: int `[n]`, from 0 on; of each at least 3.
      workdir: for all that is written; see `pipeline.py`.
      config: the settings, `defaults()` with changes.
      class_names: in the order of the labels.

    Returns:
      What `result.json` holds, with `test_accuracy` and `genome`; None if `config.stage` is an
      earlier one.

    Raises:
      UserError: something is wrong with the arrays or the settings, or the training diverges.
    """
    values = ConfigDict((config or config_lib.defaults()).to_dict())
    values.task = values.task or "arrays"
    runs = config_lib.expand(values)
    if len(runs) > 1 or runs[0].shots:
        raise UserError("find_subnet is one run, on all images: one method, seeds=1, shots=0")
    source = _source(images, labels, class_names, runs[0].split_seed)
    return pipeline.run(runs[0], pathlib.Path(workdir), source)


def _source(images, labels, class_names, seed: int) -> Source:
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
    digest = hashlib.sha256(images.tobytes())
    digest.update(labels.astype(np.int64).tobytes())

    def split(rows):
        return Split(
            [f"image {row}" for row in rows],
            lambda index: (PIL.Image.fromarray(images[rows[index]]), int(labels[rows[index]])),
            labels=[int(labels[row]) for row in rows],
        )

    classes = [np.flatnonzero(labels == label) for label in range(labels.max() + 1)]
    return Source(
        {name: split(rows) for name, rows in split_classes(classes, seed).items()},
        len(classes),
        "array",
        fingerprint=digest.hexdigest(),
        class_names=tuple(class_names),
    )
