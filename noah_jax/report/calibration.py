"""How far the probabilities of a test can be trusted: their calibration error, and its drawing.

The expected calibration error and the diagram are those of Guo et al., On Calibration of Modern
Neural Networks, 2017 (arXiv 1706.04599), section 2, with 15 bins of equal width.
"""

import pathlib
from typing import Any

import numpy as np

from noah_jax.report.figures import BLUE, GREY, RED, Drawing, new_figure
from noah_jax.report.page import picture
from noah_jax.training.predictions import Predictions
from noah_jax.training.result import Result

_BINS = 15


def shown(workdir: pathlib.Path, result: Result, test: Predictions) -> dict[str, Any] | None:
    """The values of the page: a line with the error, and a drawing; None without confidences."""
    if test.confidences is None:
        return None
    line = f"ECE {100 * error(test.confidences, test.right):.1f} %"
    if test.uncalibrated is not None:
        before = 100 * error(test.uncalibrated, test.right)
        line += f" with the temperature {result['temperature']:.3f}, {before:.1f} % without"
    return {"line": line, "drawing": picture(reliability(test, line), workdir)}


def by_bin(confidences: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Sorts images into bins of equal width by the confidence of their prediction.

    Args:
      confidences: float `[n]`, 0 to 1.
      right: bool `[n]`, whether the predictions are.

    Returns:
      float64 `[bins, 3]`: number of images, mean confidence, accuracy; the last two are NaN in an
      empty bin.
    """
    places = np.clip(np.ceil(confidences * _BINS).astype(int) - 1, 0, None)  # upper ends included
    count, *sums = (np.bincount(places, x, _BINS) for x in (None, confidences, right))
    with np.errstate(invalid="ignore"):
        return np.stack([count, *(each / count for each in sums)], axis=1)


def error(confidences: np.ndarray, right: np.ndarray) -> float:
    """The expected calibration error, 0 to 1: the mean gap of a bin, by its share of the images."""
    count, confidence, accuracy = by_bin(confidences, right).T
    return float(np.nansum(count * np.abs(accuracy - confidence)) / count.sum())


def reliability(test: Predictions, line: str) -> Drawing:
    """Draws accuracy by confidence; what is calibrated is on the diagonal."""
    figure, (axis,) = new_figure(2.9)
    axis.plot([0, 100], [0, 100], color=GREY, linewidth=1, linestyle="--")
    edges = np.linspace(0, 1, _BINS + 1)
    first = "confidences" if test.uncalibrated is None else "with temperature"
    kinds = {first: test.confidences, "without temperature": test.uncalibrated}
    rows: list[tuple[Any, ...]] = [("of", "from", "to", "images", "confidence", "accuracy")]
    for (kind, confidences), colour in zip(kinds.items(), (BLUE, RED), strict=True):
        if confidences is None:
            continue
        bins = by_bin(confidences, test.right)
        table = np.column_stack([edges[:-1], edges[1:], bins])[bins[:, 0] > 0]
        rows += [(kind, low, high, int(n), *shares) for low, high, n, *shares in table.tolist()]
        places, sizes = 100 * table[:, 3:].T, 5 + 120 * table[:, 2] / table[:, 2].sum()
        axis.plot(*places, color=colour, linewidth=1, label=kind)
        axis.scatter(*places, s=sizes, color=colour, clip_on=False)
    axis.set(xlabel="confidence (%)", ylabel="test accuracy (%)", xlim=(0, 101), ylim=(0, 101))
    axis.grid(axis="y", alpha=0.25)
    if test.uncalibrated is not None:
        axis.legend(loc="upper left")
    return Drawing("calibration", figure, f"Test accuracy by confidence; {line}.", rows)
