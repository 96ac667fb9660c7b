"""How sure a figure is: 95 % intervals, and tests of the difference between two methods.

All values are shares, 0 to 1. The formulas are those of scipy.stats; only Holm's correction, which
it lacks, is here.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats

LEVEL = 0.05  # p values below it tell two methods apart
_EQUAL = 1e-9  # shares that are nearer than this are equal


class Interval(NamedTuple):
    """The ends of a 95 % interval."""

    low: float
    high: float


class Difference(NamedTuple):
    """One method less another: the mean over pairs, its interval, and the p value of no difference.

    The interval is None for a single pair, and if all pairs differ by the same.
    """

    mean: float
    interval: Interval | None
    p: float | None
    pairs: int
    by_image: bool  # whether the pairs are the test images, else they are runs


def of_share(right: int, images: int) -> Interval:
    """Wilson's score interval of the accuracy of a network that has `right` of `images` right."""
    found = stats.binomtest(right, images).proportion_ci(1 - LEVEL, "wilson")
    return Interval(float(found.low), min(float(found.high), 1.0))


def of_accuracies(accuracies: Sequence[float], images: int) -> Interval | None:
    """The interval of one method's accuracy: Wilson's of a single run, Student's t of several.

    The former says how far chance in the test images goes, the latter what other seeds would
    change.

    Args:
      images: those of the test; 0 = a mean of several tests, whose interval needs several runs.
    """
    if len(accuracies) > 1:
        return of_mean(accuracies)
    return of_share(round(accuracies[0] * images), images) if images else None


def of_mean(accuracies: Sequence[float]) -> Interval | None:
    """Student's t interval of a mean over seeds, cut to 0 and 1.

    None for a single seed, and for equal ones, which do not show how seeds differ.
    """
    return _t_interval(accuracies, 0.0)


def by_images(ours: np.ndarray, theirs: np.ndarray) -> Difference:
    """Compares two networks on the same images.

    `p` is that of the exact McNemar test, which asks whether the images that only one of them has
    right are shared as by tosses of a coin. The interval is Student's over the images.

    Args:
      ours, theirs: whether each image is right, bool `[n]`.
    """
    differences = ours.astype(float) - theirs
    won, lost = int((differences > 0).sum()), int((differences < 0).sum())
    p = float(stats.binomtest(won, won + lost).pvalue) if won + lost else 1.0
    interval = _t_interval(differences, -1.0)
    return Difference(float(differences.mean()), interval, min(p, 1.0), len(ours), True)


def by_runs(ours: Sequence[float], theirs: Sequence[float]) -> Difference:
    """Compares the accuracies of paired runs by the paired t test.

    `p` is 1 if no pair differs. It is None for a single pair, and if all pairs differ by the same,
    as the test is not defined then.
    """
    differences = np.array(ours) - np.array(theirs)
    interval, pairs = _t_interval(differences, -1.0), len(differences)
    p = None
    if interval:
        p = float(stats.ttest_1samp(differences, 0.0).pvalue)
    elif pairs > 1 and np.abs(differences).max() < _EQUAL:
        p = 1.0
    return Difference(float(differences.mean()), interval, p, pairs, False)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's correction: p values that hold for all comparisons together, in the given order."""
    order = np.argsort(p_values, kind="stable")
    left = np.arange(len(order), 0, -1)  # comparisons that are not decided yet
    corrected = np.empty(len(order))
    corrected[order] = np.maximum.accumulate(left * np.array(p_values, float)[order])
    return np.minimum(corrected, 1.0).tolist()


def _t_interval(values: Sequence[float] | np.ndarray, least: float) -> Interval | None:
    """Student's interval of a mean, cut to `least` and 1; None for a single value or equal ones."""
    if len(values) < 2 or np.ptp(values) < _EQUAL:
        return None
    found = stats.ttest_1samp(values, 0.0).confidence_interval(1 - LEVEL)
    return Interval(max(float(found.low), least), min(float(found.high), 1.0))
