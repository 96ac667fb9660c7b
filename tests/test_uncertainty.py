"""Intervals and p values against published examples, and statsmodels 0.14 where it says so."""

import numpy as np
import pytest

from noah_jax import uncertainty

# Student's own (1908): more hours of sleep of ten patients by two medicines.
FIRST = (0.7, -1.6, -0.2, -1.2, -0.1, 3.4, 3.7, 0.8, 0.0, 2.0)
SECOND = (1.9, 0.8, 1.1, 0.1, -0.1, 4.4, 5.5, 1.6, 4.6, 3.4)


def _right(both, ours, theirs, neither):
    """Whether each image is right, from counts."""
    counts = (both, ours, theirs, neither)
    return np.repeat([True, True, False, False], counts), np.repeat([1, 0, 1, 0], counts) == 1


@pytest.mark.parametrize(
    ("right", "images", "low", "high"),
    [
        (81, 263, 0.2553, 0.3662),  # these four are in Newcombe 1998, table I
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0000, 0.1611),
        (1, 29, 0.0061, 0.1718),
        (781, 797, 0.9676, 0.9876),  # and these are statsmodels'
        (797, 797, 0.9952, 1.0000),
        (0, 1, 0.0000, 0.7935),
        (1, 1, 0.2065, 1.0000),
    ],
)
def test_interval_of_an_accuracy(right, images, low, high):
    assert uncertainty.of_share(right, images) == pytest.approx((low, high), abs=5e-5)
    assert 0 <= uncertainty.of_share(right, images).low <= right / images
    assert right / images <= uncertainty.of_share(right, images).high <= 1


def test_interval_of_a_mean_over_seeds():
    hundredths = np.array(SECOND) / 100 + 0.5
    found = uncertainty.of_mean(hundredths)  # statsmodels: 2.33 ± 1.4323, in hundredths
    assert found == pytest.approx((0.508977, 0.537623), abs=1e-6)
    assert uncertainty.of_mean([0.5, 0.6]) == (0.0, 1.0)  # -0.0853 to 1.1853, cut
    assert uncertainty.of_mean([0.5]) is None and uncertainty.of_mean([1.0, 1.0, 1.0]) is None


def test_paired_runs():
    """t = 4.0621 on 9 degrees of freedom."""
    ours, theirs = np.array(SECOND) / 100, np.array(FIRST) / 100
    found = uncertainty.by_runs(ours, theirs)
    assert found.p == pytest.approx(0.002833, abs=1e-6) and found.pairs == 10
    assert found.mean == pytest.approx(0.0158) and not found.by_image
    assert found.interval == pytest.approx((0.0070011, 0.0245989), abs=1e-6)
    assert uncertainty.by_runs(theirs, ours).p == pytest.approx(found.p)
    assert uncertainty.by_runs(ours, ours)[:3] == (0.0, None, 1.0)
    alike = uncertainty.by_runs([0.5, 0.7, 0.9], [0.4, 0.6, 0.8])
    assert alike.mean == pytest.approx(0.1) and alike[1:3] == (None, None)


@pytest.mark.parametrize(
    ("ours", "theirs", "p"),
    [
        (86, 150, 3.716e-5),  # approval of a prime minister, Agresti 1990; exact by statsmodels
        (0, 5, 0.0625),  # 2 / 2**5
        (10, 2, 0.0385742),
        (3, 3, 1.0),
        (0, 0, 1.0),
    ],
)
def test_images_that_one_of_two_has_right(ours, theirs, p):
    pair = _right(794, ours, theirs, 570)
    found = uncertainty.by_images(*pair)
    assert found.p == pytest.approx(p, rel=1e-4) and found.by_image
    assert found.mean == pytest.approx((ours - theirs) / len(pair[0]))
    assert (found.interval is None) == (ours == theirs == 0)


def test_interval_of_a_difference_on_the_same_images():
    """Agresti gives 0.040 ± 0.018 with the standard error 0.0095 for 1600 people."""
    found = uncertainty.by_images(*_right(794, 150, 86, 570))
    assert found.interval == pytest.approx((0.0213, 0.0587), abs=2e-4)
    one = uncertainty.by_images(*_right(0, 1, 0, 0))
    assert one == (1.0, None, 1.0, 1, True)


def test_correction_for_several_comparisons():
    """The first is Holm's step-down by hand: 4 × 0.005, 3 × 0.01, 2 × 0.03, and no less after."""
    assert uncertainty.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert uncertainty.holm([0.02, 0.02, 0.5]) == pytest.approx([0.06, 0.06, 0.5])
    assert uncertainty.holm([0.9, 0.8]) == [1.0, 1.0] and uncertainty.holm([]) == []
