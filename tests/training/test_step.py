"""A training step: its optimiser, its images, its devices."""

import dataclasses
import re

import jax
import numpy as np
import optax
from flax import nnx

from noah_jax.config.settings import Schedule
from noah_jax.data import augment
from noah_jax.runtime import sharding
from noah_jax.space.genomes import MODULES
from noah_jax.training import evaluation
from noah_jax.training import step as step_lib
from noah_jax.vit import ViT
from noah_jax.vit.network import Network, trainable
from tests.helpers.models import MAX_SIZES, TINY, coloured

SCHEDULE = Schedule(epochs=4, batch_size=8, learning_rate=1e-2, weight_decay=1e-4, warmup_epochs=1)


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


def test_every_image_once_an_epoch(data):
    """Nothing dropped and nothing learnt, an epoch's mean loss is that of the whole set."""
    config = dataclasses.replace(TINY, drop_path=0.0, dropout=0.0)
    graphdef, params, frozen = nnx.split(
        ViT(config, MAX_SIZES, rngs=nnx.Rngs(0)), trainable("noah"), ...
    )
    network = Network(graphdef, params, frozen, (0.5,) * 3, (0.5,) * 3)
    genome = np.ones((TINY.depth, 3), np.int32)
    log_probability = jax.nn.log_softmax(jax.jit(network.logits)(params, frozen, data[0], genome))
    expected = -log_probability[np.arange(20), data[1]].mean()
    still = optax.sgd(0.0)
    mesh = sharding.make_mesh()
    step, order = step_lib.make_step(network, still, 16, mesh), step_lib.make_order(20, 4, mesh)
    genomes = np.broadcast_to(genome, (5, 1, *genome.shape))
    state = step_lib.TrainState(jax.tree.map(jax.numpy.copy, params), still.init(params))
    losses, seed = np.zeros(5, np.float32), np.uint32(0)
    batch = step_lib.as_lines(data[0]), data[1], order(seed, np.int32(1))
    for number in range(5, 10):
        state, losses = step(state, losses, frozen, batch, genomes, (np.int32(number), seed))
    assert losses.shape == (5,) and losses.std() > 1e-3
    np.testing.assert_allclose(losses.mean(), expected, rtol=1e-5)


def test_reductions_have_few_axes(network):
    """On a CPU, jaxlib 0.10.2 and 0.11.0 crash in some reductions over arrays of seven axes."""
    mesh, optimizer = sharding.make_mesh(), step_lib.make_optimizer(SCHEDULE, 5)
    images, labels = coloured()
    genomes = np.ones((5, 2, TINY.depth, 3), np.int32)
    begin = step_lib.initial_state(network, optimizer, mesh), np.zeros(5, np.float32)
    rest = genomes, (np.int32(0), np.uint32(0))
    streamed = images[:4], labels[:4]
    resident = step_lib.as_lines(images), labels, np.zeros((5, 4), np.int32)
    programs = [
        step_lib.make_step(network, optimizer, 16, mesh).lower(
            *begin, network.frozen, resident, *rest
        ),
        step_lib.make_augmented_step(network, optimizer, TINY.num_classes, mesh).lower(
            *begin, network.frozen, streamed, *rest
        ),
        evaluation.make_evaluator(network, mesh).lower(
            *(network.params, network.frozen, images[None], labels[None]),
            *(genomes[0], np.ones(TINY.num_classes, bool)),
        ),
    ]
    for program in programs:
        reduced = re.findall(r"stablehlo\.reduce\(.*?: \(tensor<([^>]*)>", program.as_text())
        assert 4 <= max(shape.count("x") for shape in reduced) < 7  # 2x4x9x32xf32 has four axes


def test_learning_rate_follows_the_recipe():
    """Warm-up from 1e-6 over 10 epochs, then cosine to 1e-5, as seen in AdamW's first update."""
    schedule = Schedule(
        epochs=100, batch_size=64, learning_rate=1e-3, weight_decay=0.0, warmup_epochs=10
    )
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
    optimizer = step_lib.make_optimizer(
        Schedule(epochs=2, batch_size=64, learning_rate=1e-3, weight_decay=0.1, warmup_epochs=0),
        steps_per_epoch=1,
    )
    params = {"head": {"kernel": np.ones(2, np.float32), "bias": np.ones(2, np.float32)}}
    nothing = jax.tree.map(np.zeros_like, params)
    step, _ = optimizer.update(nothing, optimizer.init(params), params)
    assert (np.asarray(step["head"]["kernel"]) < 0).all()
    assert (np.asarray(step["head"]["bias"]) == 0).all()


def test_two_devices_stream_what_one_streams(augmented):
    """Decoded for each device apart; augmentation, mixing and losses are those of one device."""
    two = sharding.make_mesh()
    one = jax.sharding.Mesh(two.devices[:1], two.axis_names, axis_types=two.axis_types)
    model = ViT(TINY, dict.fromkeys(MODULES, 0), rngs=nnx.Rngs(0))
    graphdef, params, frozen = nnx.split(model, trainable("linear"), ...)
    params, frozen = jax.tree.map(np.array, (params, frozen))
    network = Network(graphdef, params, frozen, (0.5,) * 3, (0.5,) * 3)
    no_prompts, losses = np.zeros((4, 1, TINY.depth, 3), np.int32), []
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
            moment = np.int32(number), np.uint32(0)
            state, values = step(state, values, placed, batch, no_prompts, moment)
        losses.append(np.asarray(values))
    assert losses[0].min() > 0
    np.testing.assert_allclose(*losses, rtol=1e-4)
