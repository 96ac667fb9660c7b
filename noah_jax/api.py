"""The whole method as a function of arrays, for use in other programs."""

import pathlib
from collections.abc import Sequence

import numpy as np
from ml_collections import ConfigDict

from noah_jax import config as config_lib
from noah_jax import pipeline
from noah_jax.data.sources import from_arrays
from noah_jax.errors import UserError
from noah_jax.training.result import Result


def find_subnet(
    images: np.ndarray,
    labels: np.ndarray,
    workdir: str | pathlib.Path,
    config: ConfigDict | None = None,
    class_names: Sequence[str] = (),
) -> Result | None:
    """Finds, retrains and tests a subnet for images in memory, as `python -m noah_jax.main` does.

    A fifth of the images of each class is for the test, and a fifth of the rest for validation.
    Called again with the same arguments, it goes on where it was stopped.

    Args:
      images: uint8 `[n, h, w, 3]`, RGB, of any size.
      labels: int `[n]`, counted from 0; at least 3 images of each class.
      workdir: the folder for everything that is written; see pipeline.py.
      config: the settings, `defaults()` with changes.
      class_names: in the order of the labels; empty = the classes are numbers.

    Returns:
      The contents of `result.json`, with `test_accuracy` and `genome`; None if `config.stage` is an
      earlier stage.

    Raises:
      UserError: the arrays or the settings are wrong, the training diverges, or something cannot be
        written.
    """
    values = ConfigDict((config or config_lib.defaults()).to_dict())
    values.task = values.task or "arrays"
    runs = config_lib.expand(values)
    if len(runs) > 1 or runs[0].shots:
        raise UserError("find_subnet is one run, on all images: one method, seeds=1, shots=0")
    source = from_arrays(images, labels, class_names, runs[0].split_seed)
    return pipeline.run(runs[0], pathlib.Path(workdir), source)
