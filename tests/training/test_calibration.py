"""The temperature of logits whose true temperature is known."""

import numpy as np
import pytest
import scipy.special

from noah_jax.training import calibration


@pytest.mark.parametrize("true", [0.4, 1.0, 3.0])
def test_the_temperature_that_made_the_labels_is_found(true):
    """Labels are drawn from what the logits say at that temperature."""
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 3, (4000, 5)).astype(np.float32)
    chances = scipy.special.softmax(logits / true, axis=1)
    labels = (chances.cumsum(axis=1) > rng.random((4000, 1))).argmax(axis=1)
    found = calibration.fit(logits, labels)
    assert found == pytest.approx(true, rel=0.1)
    least = calibration.cross_entropy(logits, labels, found)
    for other in (0.9 * found, 1.1 * found):
        assert calibration.cross_entropy(logits, labels, other) > least
    mean = -np.log(chances[np.arange(4000), labels]).mean()
    assert calibration.cross_entropy(logits, labels, true) == pytest.approx(mean, rel=1e-6)
