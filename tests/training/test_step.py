"""Training: what moves and what does not, one compilation, going on after a stop."""

import dataclasses
import json
import re
import signal

import jax
import numpy as np
import optax
import PIL.Image
import pytest
from flax import nnx

from noah_jax.config.settings import Schedule
from noah_jax.data import Split, augment
from noah_jax.data.augment import Augmented
from noah_jax.errors import UserError
from noah_jax.runtime import preemption, sharding
from noah_jax.runtime.checkpoint import Checkpoints
from noah_jax.runtime.writer import Writer
from noah_jax.space import SearchSpace
from noah_jax.space.genomes import MODULES
from noah_jax.training import evaluation, loop
from noah_jax.training import step as step_lib
from noah_jax.vit import ViT
from noah_jax.vit.network import Network, trainable
from tests.conftest import MAX_SIZES, TINY

SCHEDULE = Schedule(epochs=4, batch_size=8, learning_rate=1e-2, weight_decay=1e-4, warmup_epochs=1)
SIZES = {name: (1, MAX_SIZES[name]) for name in MODULES}
SPACE = SearchSpace(SIZES, (6, 12), TINY.depth, TINY.width)


@pytest.fixture
def network(tiny_vit):
    mesh = sharding.make_mesh()
    graphdef, params, frozen = nnx.split(tiny_vit, trainable("noah"), ...)
    params, frozen = sharding.replicate(mesh, (params, frozen))
    return Network(graphdef, params, frozen, (0.5,) * 3, (0.5,) * 3)


@pytest.fixture
def data():
    """Images whose class shows in their colour: 20 of 16×16."""
    rng = np.random.default_rng(0)
    labels = np.arange(20, dtype=np.int32) % TINY.num_classes
    images = rng.integers(0, 40, (20, 16, 16, 3)) + 45 * labels[:, None, None, None]
    return images.astype(np.uint8), labels


@pytest.fixture
def augmented():
    """As `data`, but each class has a colour that augmentation leaves recognisable."""
    rng = np.random.default_rng(0)
    labels = np.arange(20, dtype=np.int32) % TINY.num_classes
    colours = np.array([(9, 1, 1), (1, 9, 1), (1, 1, 9), (9, 9, 1), (9, 1, 9)]) * 22
    pixels = rng.integers(0, 40, (20, 16, 16, 3)) + colours[labels][:, None, None]
    images = [PIL.Image.fromarray(image.astype(np.uint8)) for image in pixels]
    split = Split([f"image {i}" for i in range(20)], lambda i: (images[i].copy(), labels[i]))
    return Augmented(split, TINY.image_size, TINY.num_classes)


def genomes(step):
    return SPACE.sample(np.random.default_rng(step), 2)


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


def test_supernet_learns_in_one_compilation_and_the_backbone_stays(
    network, data, tmp_path, monkeypatch
):
    compiled = []
    make = step_lib.make_epoch
    monkeypatch.setattr(
        step_lib, "make_epoch", lambda *args: compiled.append(make(*args)) or compiled[-1]
    )
    frozen = jax.tree.map(np.array, network.frozen)
    start = jax.tree.map(np.array, network.params)
    long = Schedule(60, 8, 1e-2, 1e-4, 1)
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


def test_genomes_share_a_batch_in_equal_parts(tiny_vit):
    """Loss and step against those of each genome on its own images."""
    still = dataclasses.replace(TINY, drop_path=0.0, dropout=0.0)
    _, state = nnx.split(tiny_vit)
    graphdef, _ = nnx.split(nnx.eval_shape(lambda: ViT(still, MAX_SIZES, rngs=nnx.Rngs(0))))
    vit = nnx.merge(graphdef, state)
    network = Network(*nnx.split(vit, trainable("noah"), ...), (0.5,) * 3, (0.5,) * 3)
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (6, 16, 16, 3), np.uint8)
    labels = rng.integers(0, TINY.num_classes, 6).astype(np.int32)
    genomes = np.stack([np.full((TINY.depth, 3), size, np.int32) for size in (3, 0, 1)])
    rest = network.frozen, images, labels, genomes
    plain = optax.sgd(1.0)

    @jax.jit
    def learn(params):
        update = step_lib._make_update(network, plain, sharding.make_mesh())
        state = step_lib.TrainState(params, plain.init(params))
        return update(state, *rest, jax.random.key(0))

    @jax.jit
    def by_hand(params):
        parts = [slice(0, 2), slice(2, 4), slice(4, 6)]
        logits = [
            network.logits(params, network.frozen, images[part], genome)
            for part, genome in zip(parts, genomes, strict=True)
        ]
        targets = jax.nn.one_hot(labels, TINY.num_classes)
        return optax.softmax_cross_entropy(jax.numpy.concatenate(logits), targets).mean()

    learnt, loss = learn(network.params)
    expected, gradient = jax.value_and_grad(by_hand)(network.params)
    np.testing.assert_allclose(loss, expected, rtol=1e-5)
    for new, old, slope in zip(
        *map(jax.tree.leaves, (learnt.params, network.params, gradient)), strict=True
    ):
        np.testing.assert_allclose(new, old - slope, rtol=1e-4, atol=1e-5)


def test_frozen_part_has_no_optimiser_state(network):
    optimizer = step_lib.make_optimizer(SCHEDULE, 2)
    sizes = [leaf.size for leaf in jax.tree.leaves(optimizer.init(network.params)) if leaf.size > 1]
    trained = sum(leaf.size for leaf in jax.tree.leaves(network.params))
    assert sum(sizes) == 2 * trained
    assert trained < sum(leaf.size for leaf in jax.tree.leaves(network.frozen))


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


def test_augmented_training_learns_in_one_compilation(network, augmented, tmp_path, monkeypatch):
    """The loss falls, slowly since its targets are mixed; the images as they are become clear."""
    compiled = []
    make = step_lib.make_augmented_step
    monkeypatch.setattr(
        step_lib, "make_augmented_step", lambda *args: compiled.append(make(*args)) or compiled[-1]
    )
    params = _fit(network, augmented, tmp_path, Schedule(100, 8, 1e-2, 1e-4, 1))
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
    monkeypatch.setattr(preemption, "_first", signal.SIGTERM)
    with pytest.raises(preemption.Preempted) as stopped:
        _fit(network, data, parts, schedule)
    assert stopped.value.saved == "supernet is saved after step 5 of 6"
    monkeypatch.setattr(preemption, "_first", None)
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


def test_every_image_once_an_epoch(data):
    """Nothing dropped and nothing learnt, an epoch's mean loss is that of the whole set."""
    config = dataclasses.replace(TINY, drop_path=0.0, dropout=0.0)
    graphdef, params, frozen = nnx.split(
        ViT(config, MAX_SIZES, rngs=nnx.Rngs(0)), trainable("noah"), ...
    )
    network = Network(graphdef, params, frozen, (0.5,) * 3, (0.5,) * 3)
    genome = np.ones((TINY.depth, 3), np.int32)
    log_probability = jax.nn.log_softmax(network.logits(params, frozen, data[0], genome))
    expected = -log_probability[np.arange(20), data[1]].mean()
    still = optax.sgd(0.0)
    epoch = step_lib.make_epoch(network, still, 4, sharding.make_mesh())
    genomes = np.broadcast_to(genome, (5, 1, *genome.shape))
    state = step_lib.TrainState(jax.tree.map(jax.numpy.copy, params), still.init(params))
    span = step_lib.Span.of(first_step=5, start=0, stop=5, seed=0)
    _, losses = epoch(state, np.zeros(5, np.float32), frozen, data, genomes, span)
    assert losses.shape == (5,) and losses.std() > 1e-3
    np.testing.assert_allclose(losses.mean(), expected, rtol=1e-5)


def test_fewer_images_than_a_batch(network, data, tmp_path):
    with pytest.raises(UserError, match="--config.supernet.batch_size=5"):
        _fit(network, (data[0][:5], data[1][:5]), tmp_path)
    assert step_lib.steps_per_epoch("retrain", Schedule(1, 64, 1e-3, 0.0, 0), 1000) == 15


def test_learning_rate_follows_the_recipe():
    """Warm-up from 1e-6 over 10 epochs, then cosine to 1e-5, as seen in AdamW's first update."""
    schedule = Schedule(100, 64, 1e-3, 0.0, 10)
    optimizer = step_lib.make_optimizer(schedule, steps_per_epoch=15)
    params = {"kernel": np.ones(1, np.float32)}
    state = optimizer.init(params)
    rates = []
    update = jax.jit(optimizer.update)
    for _ in range(1500):
        step, state = update({"kernel": np.ones(1, np.float32)}, state, params)
        rates.append(-float(step["kernel"][0]))  # AdamW's step is the rate for a constant gradient
    np.testing.assert_allclose(rates[0], 1e-6, rtol=1e-3)
    np.testing.assert_allclose(rates[150], 1e-3, rtol=1e-3)
    np.testing.assert_allclose(rates[75], 5e-4, rtol=1e-2)
    np.testing.assert_allclose(rates[825], (1e-3 + 1e-5) / 2, rtol=1e-2)
    np.testing.assert_allclose(rates[-1], 1e-5, rtol=1e-2)


def test_biases_are_not_decayed():
    optimizer = step_lib.make_optimizer(Schedule(2, 64, 1e-3, 0.1, 0), steps_per_epoch=1)
    params = {"head": {"kernel": np.ones(2, np.float32), "bias": np.ones(2, np.float32)}}
    nothing = jax.tree.map(np.zeros_like, params)
    step, _ = optimizer.update(nothing, optimizer.init(params), params)
    assert (np.asarray(step["head"]["kernel"]) < 0).all()
    assert (np.asarray(step["head"]["bias"]) == 0).all()


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


def test_two_devices_stream_what_one_streams(augmented):
    """Decoded for each device apart; augmentation, mixing and losses are those of one device."""
    two = sharding.make_mesh()
    one = jax.sharding.Mesh(two.devices[:1], two.axis_names, axis_types=two.axis_types)
    model = ViT(TINY, dict.fromkeys(MODULES, 0), rngs=nnx.Rngs(0))
    graphdef, params, frozen = nnx.split(model, trainable("linear"), ...)
    params, frozen = jax.tree.map(np.array, (params, frozen))
    network = Network(graphdef, params, frozen, (0.5,) * 3, (0.5,) * 3)
    no_prompts, losses = np.zeros((1, TINY.depth, 3), np.int32), []
    for mesh in (one, two):
        optimizer = step_lib.make_optimizer(SCHEDULE, 2)
        step = step_lib.make_augmented_step(network, optimizer, TINY.num_classes, mesh)
        state = step_lib.TrainState(params, optimizer.init(params))
        state = sharding.replicate(mesh, state)
        placed = sharding.replicate(mesh, frozen)
        rows = sharding.local_rows(mesh, 8)
        batches = augment.stream(augmented.split, augmented.size, 8, 0, 0, rows)
        values = sharding.replicate(mesh, np.zeros(4, np.float32))
        for number in range(4):
            batch = tuple(sharding.from_local_rows(mesh, part, 8) for part in next(batches))
            assert batch[0].addressable_shards[0].data.shape[0] == 8 // mesh.size
            span = step_lib.Span.of(first_step=0, start=number, stop=number + 1, seed=0)
            state, values = step(state, values, placed, batch, no_prompts, span)
        losses.append(np.asarray(values))
    assert losses[0].min() > 0
    np.testing.assert_allclose(*losses, rtol=1e-4)


def test_divergence_is_said_and_not_saved(network, data, tmp_path):
    """At its step, with what it is of; what was saved before is kept."""
    schedule = Schedule(1000, 8, 1e-2, 1e-4, 1)
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
