"""The places of batches' rows and of cut weights, and what the devices then tell each other."""

import dataclasses

import jax
import numpy as np
import pytest

from bench.scaling import collectives, compile_step
from noah_jax.errors import UserError
from noah_jax.runtime import sharding
from tests.helpers.models import TINY


@pytest.mark.parametrize("n", [6, 5])
@pytest.mark.parametrize("shards", [1, 2])
def test_rows_of_a_batch_come_back(n, shards):
    """Two devices hold half of six rows each; five they cannot share, and hold them all."""
    mesh = sharding.make_mesh(shards)
    rows = sharding.local_rows(mesh, n)
    assert rows.tolist() == list(range(n))  # one process holds them all
    local = np.arange(4.0 * n, dtype=np.float32).reshape(2, n, 2)
    x = sharding.from_local_rows(mesh, local[:, rows], n, axis=1)
    np.testing.assert_array_equal(x, local)
    held = [shard.data.shape for shard in x.addressable_shards]
    assert held == [(2, 3, 2) if n == 6 else (2, 5, 2)] * 2


def test_weight_shards_that_do_not_divide_the_devices():
    with pytest.raises(UserError, match="weight_shards=3: expected a divisor of the 2 devices"):
        sharding.make_mesh(3)


def test_several_slices_make_the_same_mesh(monkeypatch):
    """GPUs of several hosts are slices, for which JAX makes no mesh."""
    one = sharding.make_mesh(2)
    monkeypatch.setattr(sharding, "_slices", lambda: 2)
    monkeypatch.delattr(jax, "make_mesh")
    assert sharding.make_mesh(2) == one


def test_cut_weights_are_gathered_block_by_block():
    """Never all blocks of a matrix at once; what is summed are the gradients and the loss."""
    compiled = compile_step(dataclasses.replace(TINY, width=64), sharding.make_mesh(2))
    found = collectives(compiled.as_text())
    gathered = [row["shapes"] for row in found if row["operation"] == "all-gather"]
    assert set(gathered) == {"f32[1,64,192]", "f32[1,64,64]", "f32[1,64,256]", "f32[1,256,64]"}
    summed = [row for row in found if row["operation"] == "all-reduce"]
    assert len(gathered) + len(summed) == len(found)
    prompts = 10 * 64 + (64 + 192) * 10 + 10 * 64 + 10 + 64 * 10 + 64  # of a block, at size 10
    trainables = TINY.depth * prompts + 65 * TINY.num_classes
    assert sum(row["bytes"] * row["times_a_step"] for row in summed) == 4 * (trainables + 1)


def test_placed_weights_are_cut():
    frozen = {"blocks": {"fc1": {"kernel": np.ones((3, 4, 16)), "bias": np.ones((3, 16))}}}
    placed = sharding.place_frozen(sharding.make_mesh(2), frozen)["blocks"]["fc1"]
    assert [shard.data.shape for shard in placed["kernel"].addressable_shards] == [(3, 4, 8)] * 2
    assert placed["bias"].is_fully_replicated
    jax.tree.map(np.testing.assert_array_equal, placed, frozen["blocks"]["fc1"])
