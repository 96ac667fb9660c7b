"""The forecast of a run's time: what it counts, and flags that shorten the run."""

import types

import numpy as np
import pytest

from noah_jax import config as config_lib
from noah_jax.config import derived
from noah_jax.data.arrays import from_arrays
from noah_jax.training import forecast as forecast_lib
from noah_jax.vit import flops

IMAGES = np.zeros((375, 4, 4, 3), np.uint8)  # 240 train, 60 val, 75 test


def _run(**values):
    """As much of a run as its forecast reads."""
    settings = config_lib.defaults()
    settings.update_from_flattened_dict({"task": "arrays", "image_size": 32} | values)
    (config,) = config_lib.expand(settings)
    return types.SimpleNamespace(
        config=config,
        source=from_arrays(IMAGES, np.arange(375) % 3, (), 0),
        space=derived.search_space(config),
        vit=derived.vit(config, 3, "float32"),
        mesh=types.SimpleNamespace(size=1),
    )


def test_what_is_counted():
    """Steps and evaluated images of each stage, times the operations of one."""
    noah, counts = _run(), {"vpt": 10, "lora": 10, "adapter": 10, "parallel": 0}
    step, forward = flops.training_step(noah.vit, counts), flops.forward(noah.vit, counts)
    steps = 500 * (240 // 64) + 100 * (300 // 64)
    assert forecast_lib._operations(noah.config, noah) == (
        64 * steps * step,
        (50 * 16 * 60 + 75) * forward,
    )
    linear = _run(method="linear")
    alone = flops.forward(linear.vit, dict.fromkeys(counts, 0))
    images = 100 * 256 + 75
    assert forecast_lib._operations(linear.config, linear) == (0, images * alone)
    tuned = _run(method="tuned", **{"baseline.tuned": (1, 2)})
    training, evaluation = forecast_lib._operations(tuned.config, tuned)
    assert 2 * alone < training / (100 * (6 * 192 + 256)) < step  # six sizes are tried
    assert alone < evaluation / (6 * 60 + 75) < forward
    full = _run(method="full")
    assert forecast_lib._operations(full.config, full)[0] == 3 * 100 * 256 * alone


@pytest.mark.parametrize("method", ["noah", "lora"])
def test_the_flags_of_a_long_run_shorten_it(method, monkeypatch):
    monkeypatch.setattr(forecast_lib, "_rate", lambda dtype: 2e11)
    run = _run(method=method, image_size=224)
    whole, short = forecast_lib.forecast(run)
    assert " h " in whole and " h " not in short and short.startswith("for a first look, about ")
    words = [word.split("=") for word in short.split(" --config.")[1:]]
    flags = dict(words)
    assert flags.keys() >= {"image_size", "retrain.epochs", "retrain.warmup_epochs"}
    assert ("search.population" in flags) == (method == "noah")
    values = {key: float(x) if key.endswith("rate") else int(x) for key, x in flags.items()}
    shorter = _run(method=method, **values)
    assert len(forecast_lib.forecast(shorter)) == 1


def test_a_short_run_gets_no_advice():
    """The rate of this machine is measured, and nothing else happens."""
    assert len(forecast_lib.forecast(_run(method="linear"))) == 1
    assert forecast_lib._rate("float32") > 1e8
