"""The whole method as a function of arrays, for use in other programs."""

import pathlib
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import PIL.Image
from flax.traverse_util import flatten_dict, unflatten_dict
from ml_collections import ConfigDict

from noah_jax import config as config_lib
from noah_jax import pipeline
from noah_jax.data.arrays import from_arrays
from noah_jax.errors import UserError, joined
from noah_jax.training.result import Result


def find_subnet(
    images: np.ndarray | Sequence[np.ndarray | PIL.Image.Image],
    labels: np.ndarray | Sequence[int] | Sequence[str],
    workdir: str | pathlib.Path,
    config: ConfigDict | Mapping[str, Any] | None = None,
    class_names: Sequence[Any] | Mapping[Any, Any] = (),
) -> Result | None:
    """Finds, retrains and tests a subnet for images in memory, as `python -m noah_jax.main` does.

    A fifth of the images of each class is for the test, and a fifth of the rest for validation.
    Called again with the same arguments, it goes on where it was stopped.

    Args:
      images: `[n, h, w, 3]`, RGB, of any size: uint8, other whole numbers 0 to 255, or floats 0 to
        1. Or grey ones, `[n, h, w]` or `[n, h, w, 1]`; or with transparency, `[n, h, w, 4]`, which
        comes out on white. Or a sequence of such images of unequal size, or of Pillow's.
      labels: `[n]`, any whole numbers or names; at least 3 images of each class.
      workdir: the folder for everything that is written; see pipeline.py.
      config: the settings: `defaults()` with changes, or a dict with the changes alone, as
        `{"method": "lora", "retrain.epochs": 20}`.
      class_names: of labels that are numbers, in their order, or if there are more names than
        labels, by number; of labels that are names, all of these in the order wanted; or a dict
        with the name of each label. Empty = the labels.

    Returns:
      The contents of `result.json`, with `test_accuracy` and `genome`; None if `config.stage` is an
      earlier stage.

    Raises:
      UserError: the arrays or the settings are wrong, the training diverges, or something cannot be
        written.
    """
    given = config.to_dict() if isinstance(config, ConfigDict) else dict(config or {})
    settings = flatten_dict(config_lib.defaults().to_dict(), sep=".")
    groups = {key.partition(".")[0] for key in settings if "." in key}
    if wrong := [key for key in given if key in groups and not isinstance(given[key], Mapping)]:
        raise UserError(f"{joined(wrong)}: expected a dict with the settings of this group")
    flat = settings | {key: _plain(value) for key, value in flatten_dict(given, sep=".").items()}
    values = ConfigDict(unflatten_dict(flat, sep="."))
    values.task = values.task or "arrays"
    changed = () if isinstance(config, ConfigDict) else flatten_dict(given, sep=".")
    runs = config_lib.expand(values, changed)
    if len(runs) > 1 or runs[0].shots:
        raise UserError("find_subnet is one run, on all images: one method, seeds=1, shots=0")
    source = from_arrays(images, labels, class_names, runs[0].split_seed)
    if unread := config_lib.unread(runs, changed):
        print(f"warning: {unread}", file=sys.stderr)
    return pipeline.run(runs[0], pathlib.Path(workdir), source)


def _plain(value: Any) -> Any:
    """Makes a plain number of NumPy's."""
    return value.item() if isinstance(value, np.generic) else value
