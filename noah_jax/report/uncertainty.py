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

    The interval is None if nothing can be said of it, and so is `p`.
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


def of_mean(accuracies: Sequence[float]) -> Interval | None:
    """Student's t interval of a mean over seeds, cut to 0 and 1.

    None for a single seed, and for equal ones, which do not show how seeds differ.
    """
    if len(accuracies) < 2 or np.ptp(accuracies) < _EQUAL:
        return None
    low, high = _t_interval(np.array(accuracies))
    return Interval(max(low, 0.0), min(high, 1.0))


def by_images(ours: np.ndarray, theirs: np.ndarray) -> Difference:
    """Compares two networks on the same images by the exact test of McNemar.

    The test asks whether the images that only one of them has right are shared as by a coin. The
    interval is that of Clopper and Pearson for this share, so it is without 0 if p < 0.05.

    Args:
      ours, theirs: whether each image is right, bool `[n]`.
    """
    won, lost = int((ours & ~theirs).sum()), int((theirs & ~ours).sum())
    images, differ = len(ours), won + lost
    if not differ:
        return Difference(0.0, None, 1.0, images, True)
    test = stats.binomtest(won, differ)
    share = test.proportion_ci(1 - LEVEL, "exact")
    low, high = (float(2 * end - 1) * differ / images for end in (share.low, share.high))
    mean, p = (won - lost) / images, min(float(test.pvalue), 1.0)
    return Difference(mean, Interval(low, high), p, images, True)


def by_runs(ours: Sequence[float], theirs: Sequence[float]) -> Difference:
    """Compares the accuracies of paired runs by the paired t test.

    `p` is 1 if no pair differs. It is None for a single pair, and if all pairs differ by the same,
    as the test is not defined then.
    """
    differences = np.array(ours) - np.array(theirs)
    mean, pairs = float(differences.mean()), len(differences)
    if pairs < 2 or np.ptp(differences) < _EQUAL:
        none_differ = pairs > 1 and abs(mean) < _EQUAL
        return Difference(mean, None, 1.0 if none_differ else None, pairs, False)
    p = float(stats.ttest_1samp(differences, 0.0).pvalue)
    low, high = _t_interval(differences)
    return Difference(mean, Interval(max(low, -1.0), min(high, 1.0)), p, pairs, False)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's correction: p values that hold for all comparisons together, in the given order."""
    order = np.argsort(p_values, kind="stable")
    left = np.arange(len(order), 0, -1)  # comparisons that are not decided yet
    corrected = np.empty(len(order))
    corrected[order] = np.maximum.accumulate(left * np.array(p_values, float)[order])
    return np.minimum(corrected, 1.0).tolist()


def _t_interval(values: np.ndarray) -> Interval:
    found = stats.ttest_1samp(values, 0.0).confidence_interval(1 - LEVEL)
    return Interval(float(found.low), float(found.high))
