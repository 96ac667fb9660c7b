"""A subnet's prediction for each test image, `predictions.json`, and counts by class.

The test stage keeps it with a few small images, so that a report needs neither data nor weights.
"""

import base64
import collections
import dataclasses
import io
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import PIL.Image
import PIL.ImageOps

from noah_jax.data.images import rgb
from noah_jax.data.loader import Source, Split, decode
from noah_jax.errors import UserError
from noah_jax.runtime import processes
from noah_jax.runtime.workdir import read_json_here, write_json
from noah_jax.training.result import Result

NAME = "predictions.json"
# The lists that are kept of a test. Confidences are probabilities of the predictions, among the
# classes that the test shows; the last are those before a temperature, if there is one.
COLUMNS = ("labels", "predictions", "confidences", "uncalibrated_confidences")
_EXAMPLES, _PIXELS, _QUALITY = 8, 144, 80  # of the right and of the wrong each: 100 KB in all


@dataclasses.dataclass(frozen=True)
class Predictions:
    """Labels of the test images and predictions for them, int `[n]`, in the test's order.

    Attributes:
      confidences, uncalibrated: probabilities of the predictions, float `[n]`, with the temperature
        and without it; None where there are none, as in workdirs of earlier versions.
      class_names: empty where the data has none.
      examples: `index`, `name` and `jpeg` (base64) of a few images, right ones and wrong ones.
    """

    labels: np.ndarray
    predicted: np.ndarray
    class_names: tuple[str, ...]
    examples: list[dict[str, Any]]
    confidences: np.ndarray | None = None
    uncalibrated: np.ndarray | None = None

    @property
    def right(self) -> np.ndarray:
        return self.labels == self.predicted

    def name(self, label: int) -> str:
        return self.class_names[label] if label < len(self.class_names) else f"class {label}"

    def by_class(self) -> list[tuple[int, int, int]]:
        """Label, number of images and number of right ones, for each class that the test shows."""
        images = np.bincount(self.labels)
        right = np.bincount(self.labels[self.right], minlength=len(images))
        return [(int(k), int(images[k]), int(right[k])) for k in np.flatnonzero(images)]

    def confusions(self) -> list[tuple[int, int, int]]:
        """Label, wrong prediction and number of times, the most frequent first."""
        wrong = ~self.right
        pairs = zip(self.labels[wrong].tolist(), self.predicted[wrong].tolist(), strict=True)
        counts = collections.Counter(pairs)
        return [(*pair, n) for pair, n in sorted(counts.items(), key=lambda x: (-x[1], x[0]))]


def keep(workdir: pathlib.Path, source: Source, tests: Mapping[str, Sequence[list]]) -> None:
    """Writes `predictions.json`.

    Args:
      tests: the lists `COLUMNS` of each test set.
    """
    if not processes.is_main():
        return
    values = {name: dict(zip(COLUMNS, x, strict=False)) for name, x in tests.items()}
    examples = _examples(source.splits["test"], *map(np.array, tests["test"][:2]))
    names = {"class_names": list(source.class_names)}
    write_json(workdir / NAME, {"tests": values, "examples": examples} | names)


def read(workdir: pathlib.Path, result: Result) -> Predictions:
    """Reads the predictions that `result` counts.

    Raises:
      UserError: they are missing, damaged, or those of another result.
    """
    path = workdir / NAME
    again = (
        f"delete {workdir / 'result.json'} and run its command again, which repeats the test only"
    )
    try:
        values = read_json_here(path)
    except UserError as error:
        raise UserError(f"{error}: {again}") from error
    if values is None:
        raise UserError(f"{path} is not there, as in workdirs of earlier versions: {again}")
    kept = {key: np.array(x) for key, x in values["tests"]["test"].items()}
    names, examples = tuple(values["class_names"]), values["examples"]
    shares = map(kept.get, COLUMNS[2:])
    found = Predictions(kept["labels"], kept["predictions"], names, examples, *shares)
    if found.right.sum() != round(result["test_accuracy"] * result["images"]["test"]):
        raise UserError(f"{path} is of another result: {again}")
    return found


def _examples(split: Split, labels: np.ndarray, predictions: np.ndarray) -> list[dict[str, Any]]:
    """Takes a few right and a few wrong images, evenly spaced so that none is hand-picked."""
    rows: list[int] = []
    for found in (np.flatnonzero(labels == predictions), np.flatnonzero(labels != predictions)):
        places = np.linspace(0, len(found) - 1, min(_EXAMPLES, len(found)))
        rows += found[places.round().astype(int)].tolist()
    return [
        {"index": row, "name": split.names[row], "jpeg": read[0]}
        for row, read in zip(rows, decode(split, rows, _thumbnail), strict=True)
        if not isinstance(read, str)  # it was there a moment ago
    ]


def _thumbnail(image: PIL.Image.Image) -> str:
    """A small JPEG in base64."""
    data = io.BytesIO()
    small = PIL.ImageOps.contain(rgb(image), (_PIXELS, _PIXELS))
    small.save(data, "JPEG", quality=_QUALITY, optimize=True)
    return base64.b64encode(data.getvalue()).decode()
