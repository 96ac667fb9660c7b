"""Kendall's tau with its interval; the command itself is in test_end_to_end.py."""

import numpy as np
import pytest

from noah_jax.search import ranking
from noah_jax.search.ranking import summary


def _points(validation, test):
    return [
        {"val_accuracy": v, "val_loss": 1 - v, "test_accuracy": t}
        for v, t in zip(validation, test, strict=True)
    ]


def test_tau_by_hand_and_its_interval():
    found = summary(_points([0.1, 0.2, 0.3, 0.4], [0.5, 0.7, 0.6, 0.8]))
    assert found["tau"]["tau"] == pytest.approx((5 - 1) / 6)  # one of six pairs in the wrong order
    assert found["tau_loss"]["tau"] == found["tau"]["tau"]
    rng = np.random.default_rng(0)
    order = np.arange(30) / 30
    close = summary(_points(order, order + 0.1 * rng.normal(size=30)))["tau"]
    alone = summary(_points(order, rng.normal(size=30)))["tau"]
    assert 0.5 < close["low"] < close["tau"] < close["high"] < 1
    assert alone["low"] < 0 < alone["high"]


def test_what_was_retrained_for_another_spread_is_kept():
    points = [{"genome": [[size]], "test_accuracy": size / 10} for size in (1, 2)]
    written = ranking._results(points, {"[[1]]": 0.1, "[[2]]": 0.2, "[[7]]": 0.7})
    assert written == {"points": points, "others": {"[[7]]": 0.7}}
    assert "others" not in ranking._results(points, {"[[1]]": 0.1})


def test_without_an_order_there_is_no_tau():
    found = summary(_points([0.1, 0.2, 0.3], [1.0, 1.0, 1.0]))
    assert found["tau"] == {"tau": None, "low": None, "high": None}
