"""Checkpoints: what comes back, what is kept, what is broken."""

import numpy as np
import pytest

from noah_jax.checkpoint import Checkpoints
from noah_jax.errors import UserError

STATE = {"params": {"a": np.arange(3, dtype=np.float32)}, "optimizer": {"000": np.int32(5)}}


def test_the_newest_comes_back_and_the_oldest_go(tmp_path):
    checkpoints = Checkpoints(tmp_path / "run")
    assert checkpoints.latest is None
    for step in (9, 10, 100):
        checkpoints.save(step, STATE | {"optimizer": {"000": np.int32(step)}})
    (tmp_path / "run" / "200.orbax-checkpoint-tmp-1").mkdir()  # a save that was interrupted
    checkpoints = Checkpoints(tmp_path / "run")
    assert checkpoints.latest == 100
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == ["10", "100"]
    loaded = checkpoints.load(STATE)
    assert loaded["optimizer"]["000"] == 100
    np.testing.assert_array_equal(loaded["params"]["a"], STATE["params"]["a"])


def test_a_broken_one_is_named(tmp_path):
    checkpoints = Checkpoints(tmp_path / "run")
    (tmp_path / "run" / "7").mkdir()
    with pytest.raises(UserError, match="the checkpoint .*/run/7 cannot be read: delete it"):
        checkpoints.load(STATE)
