"""Training: what moves and what does not, one compilation, going on after a stop."""

import dataclasses
import json
import re
import signal

import jax
import numpy as np
import pytest
from flax import nnx

from noah_jax.config.settings import Schedule
from noah_jax.errors import UserError
from noah_jax.runtime import preemption, sharding
from noah_jax.runtime.checkpoint import Checkpoints
from noah_jax.runtime.writer import Writer
from noah_jax.training import evaluation, loop
from noah_jax.training import step as step_lib
from noah_jax.vit.network import Network, trainable
from tests.helpers.models import SPACE, TINY, genomes

SCHEDULE = Schedule(epochs=4, batch_size=8, learning_rate=1e-2, weight_decay=1e-4, warmup_epochs=1)


class Killed(BaseException):
    pass


class KilledAfterSaving(Checkpoints):
    def save(self, step, state):
        super().save(step, state)
        raise Killed


def _fit(network, data, folder, schedule=SCHEDULE, seed=0, every=1e6, checkpoints=Checkpoints):
    writer = Writer(folder)
    recipe = loop.Recipe("supernet", schedule, genomes, seed=seed, checkpoint_seconds=every)
    saved = checkpoints(folder / "supernet", writer.say)
    return loop.fit(recipe, network, data, saved, sharding.make_mesh(), writer)


def _losses(folder):
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines]


def _equal(one, other):
    return all(
        np.array_equal(a, b)
        for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
    )


@pytest.mark.usefixtures("nothing_compiled")
def test_supernet_learns_in_one_compilation_and_the_backbone_stays(
    network, data, tmp_path, monkeypatch
):
    compiled = []
    make = step_lib.make_step
    monkeypatch.setattr(
        step_lib, "make_step", lambda *args: compiled.append(make(*args)) or compiled[-1]
    )
    frozen = jax.tree.map(np.array, network.frozen)
    start = jax.tree.map(np.array, network.params)
    long = dataclasses.replace(SCHEDULE, epochs=60)
    params = _fit(network, data, tmp_path, long)
    assert compiled[0]._cache_size() == 1
    assert _equal(frozen, network.frozen)  # bit for bit
    trained = {".".join(path) for path, _ in nnx.to_flat_state(params)}
    assert trained == {
        "head.kernel",
        "head.bias",
        "blocks.vpt.tokens",
        "blocks.lora.a",
        "blocks.lora.b",
        "blocks.adapter.down",
        "blocks.adapter.down_bias",
        "blocks.adapter.up",
        "blocks.adapter.up_bias",
    }
    moved = jax.tree.map(lambda a, b: not np.array_equal(a, b), start, params)
    assert all(jax.tree.leaves(moved))
    losses = _losses(tmp_path)
    assert len(losses) == 60 and np.mean(losses[-5:]) < 0.6 * losses[0]


@pytest.mark.parametrize(("method", "moves"), [("noah", False), ("full", True)])
def test_only_full_fine_tuning_moves_the_backbone(tiny_vit, data, tmp_path, method, moves):
    """The trained model's backbone against the one it was made of, bit for bit."""
    parts = nnx.PathContains("blocks"), nnx.PathContains("patch_embed"), ...
    before, patch_before, _ = jax.tree.map(np.array, nnx.split(tiny_vit, *parts)[1:])
    graphdef, params, frozen = nnx.split(tiny_vit, trainable(method), ...)
    network = Network(graphdef, params, frozen, (0.5,) * 3, (0.5,) * 3)
    trained = nnx.merge(graphdef, _fit(network, data, tmp_path), frozen)
    after, patch_after, _ = nnx.split(trained, *parts)[1:]
    assert _equal(patch_before, patch_after) != moves
    for layer in ("norm1", "qkv", "proj", "norm2", "fc1", "fc2"):
        assert _equal(before["blocks"][layer], after["blocks"][layer]) != moves, layer
    assert not _equal(before["blocks"]["adapter"], after["blocks"]["adapter"])


@pytest.mark.usefixtures("nothing_compiled")
def test_augmented_training_learns_in_one_compilation(network, augmented, tmp_path, monkeypatch):
    """The loss falls, slowly since its targets are mixed; the images as they are become clear."""
    compiled = []
    make = step_lib.make_augmented_step
    monkeypatch.setattr(
        step_lib, "make_augmented_step", lambda *args: compiled.append(make(*args)) or compiled[-1]
    )
    params = _fit(network, augmented, tmp_path, dataclasses.replace(SCHEDULE, epochs=100))
    assert compiled[0]._cache_size() == 1
    losses = _losses(tmp_path)
    assert len(losses) == 100 and np.mean(losses[-20:]) < np.mean(losses[:5]) - 0.1
    images, labels = zip(*map(augmented.split.read, range(20)), strict=True)
    logits = jax.jit(network.logits)(params, network.frozen, np.stack(images), genomes(0)[0])
    assert (logits.argmax(axis=1) == np.array(labels)).mean() > 0.8


@pytest.mark.parametrize("kind", ["data", "augmented"])
def test_interrupted_equals_uninterrupted(network, kind, tmp_path, request, monkeypatch):
    """Stopped after each step, in the middle of epochs too; then in spans of many."""
    data = request.getfixturevalue(kind)
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    whole.mkdir(), parts.mkdir()
    schedule = dataclasses.replace(SCHEDULE, epochs=2, batch_size=6)  # 3 steps an epoch
    expected = _fit(network, data, whole, schedule)
    assert {path.name for path in (whole / "supernet").iterdir()} == {"6"}

    for _ in range(5):
        with pytest.raises(Killed):
            _fit(network, data, parts, schedule, every=0.0, checkpoints=KilledAfterSaving)
    assert {path.name for path in (parts / "supernet").iterdir()} == {"4", "5"}
    monkeypatch.setattr(preemption._signals, "first", signal.SIGTERM)
    with pytest.raises(preemption.Preempted) as stopped:
        _fit(network, data, parts, schedule)
    assert stopped.value.saved == "supernet is saved after step 5 of 6"
    monkeypatch.setattr(preemption._signals, "first", None)
    resumed = _fit(network, data, parts, schedule, every=0.0)
    assert _equal(expected, resumed)
    assert _equal(expected, _fit(network, data, parts, schedule))  # finished: loaded, not trained
    assert _losses(parts) == _losses(whole) and len(_losses(parts)) == 2


def test_seeds_matter(network, data, tmp_path):
    runs = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        (tmp_path / name).mkdir()
        runs.append(_fit(network, data, tmp_path / name, seed=seed))
    assert _equal(runs[0], runs[1]) and not _equal(runs[0], runs[2])


def test_fewer_images_than_a_batch(network, data, tmp_path):
    with pytest.raises(UserError, match="--config.supernet.batch_size=5"):
        _fit(network, (data[0][:5], data[1][:5]), tmp_path)
    schedule = dataclasses.replace(SCHEDULE, batch_size=64)
    assert step_lib.steps_per_epoch("retrain", schedule, 1000) == 15


def test_any_number_of_devices_gives_the_same_losses_and_predictions(network, data, tmp_path):
    """One device, two, and two that share the weights: float32's rounding (1e-4 after 8 steps)."""
    losses, predictions = [], []
    two = sharding.make_mesh()
    assert two.size == 2
    one = jax.sharding.Mesh(two.devices[:1], two.axis_names, axis_types=two.axis_types)
    genome = SPACE.sample(np.random.default_rng(0), 4)
    for name, mesh in (("one", one), ("two", two), ("cut", sharding.make_mesh(2))):
        host = jax.tree.map(np.asarray, (network.params, network.frozen))
        params, frozen = sharding.replicate(mesh, host[0]), sharding.place_frozen(mesh, host[1])
        placed = dataclasses.replace(network, params=params, frozen=frozen, mesh=mesh)
        (tmp_path / name).mkdir()
        writer = Writer(tmp_path / name)
        checkpoints = Checkpoints(tmp_path / name / "supernet", writer.say)
        recipe = loop.Recipe("supernet", SCHEDULE, genomes, seed=0, checkpoint_seconds=1e6)
        params = loop.fit(recipe, placed, data, checkpoints, mesh, writer)
        losses.append(_losses(tmp_path / name))
        evaluate = evaluation.make_evaluator(placed, mesh)
        shown = np.ones(TINY.num_classes, bool)
        chunks = data[0].reshape(2, 10, 16, 16, 3), data[1].reshape(2, 10)
        for calls in (2, 4):  # genomes spread over the devices, and images
            results = [
                evaluate(params, frozen, *chunks, few, shown)[2] for few in np.split(genome, calls)
            ]
            predictions.append(np.concatenate(results))
    for other in losses[1:]:
        np.testing.assert_allclose(losses[0], other, rtol=1e-4)
    for other in predictions[1:]:
        np.testing.assert_allclose(predictions[0], other, rtol=1e-3)


def test_divergence_is_said_and_not_saved(network, data, tmp_path):
    """The message names the step and what diverged; earlier checkpoints are kept."""
    schedule = dataclasses.replace(SCHEDULE, epochs=1000)
    with pytest.raises(Killed):
        _fit(network, data, tmp_path, schedule, every=0.0, checkpoints=KilledAfterSaving)
    kept = {path.name for path in (tmp_path / "supernet").iterdir()}
    wild = dataclasses.replace(schedule, learning_rate=1e30)
    with pytest.raises(UserError) as error:
        _fit(network, data, tmp_path, wild)
    step = int(re.search(r"supernet: the loss is nan at step (\d+),", str(error.value))[1])
    rate = float(step_lib.learning_rate(wild, 2)(step - 1))
    assert f"at learning rate {rate:.3g} with the genome {genomes(step - 1).tolist()}" in str(
        error.value
    )
    assert f"What was saved after step {max(map(int, kept))} is kept" in str(error.value)
    assert {path.name for path in (tmp_path / "supernet").iterdir()} == kept
    assert step < 20  # it did not go on to the end
