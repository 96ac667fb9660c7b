"""Which genomes train a supernet and what they learn; how the budget is allotted without one."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from noah_jax.config.settings import SupernetSchedule
from noah_jax.runtime import sharding
from noah_jax.search import baselines
from noah_jax.search.supernet import average, genomes_of_step
from noah_jax.space import SearchSpace
from noah_jax.space.genomes import MODULES
from noah_jax.training import step as step_lib
from noah_jax.vit import ViT
from noah_jax.vit.network import Network, trainable
from tests.helpers.models import MAX_SIZES, TINY

SPACE = SearchSpace(dict.fromkeys(MODULES, (0, 1, 3)), (12,), 12, 32)
SCHEDULE = SupernetSchedule(1, 12, 1e-3, 0.0, 0, 3, "random", False, 0.0)


def test_genomes_of_a_step():
    changes = {"sandwich": True, "sampling": "fair", "genomes_per_step": 5}
    make = genomes_of_step(SPACE, dataclasses.replace(SCHEDULE, **changes), 0)
    steps = np.stack([make(step) for step in range(4)])
    assert steps.shape == (4, 5, 12, 3)
    assert (steps[:, 0] == SPACE.largest()).all() and (steps[:, 1] == SPACE.smallest()).all()
    others = steps[:, 2:].reshape(12, 12, 3)  # three a step: one round of each size
    for size in (0, 1, 3):
        assert ((others == size).sum(axis=0) == 4).all()
        assert ((steps[:, 2:] == size).sum(axis=1) == 1).all()
    np.testing.assert_array_equal(make(2), steps[2])  # in any order

    shares = {}
    for sampling in ("random", "broad"):
        make = genomes_of_step(SPACE, dataclasses.replace(SCHEDULE, sampling=sampling), 0)
        assert make(0).shape == (3, 12, 3) and (make(0) != make(1)).any()
        np.testing.assert_array_equal(make(1), make(1))
        genomes = np.concatenate([make(step) for step in range(40)])
        shares[sampling] = (genomes.any(axis=1).sum(axis=1) == 1).mean()  # of single modules
    assert shares["random"] == 0 and shares["broad"] > 0.2


def test_the_mean_of_the_folds():
    folds = [(None, {"a": jnp.array([1.0, 2.0]), "b": jnp.array(value)}) for value in (0.0, 3.0)]
    mean = average(folds)
    assert mean["b"] == 1.5 and mean["a"].tolist() == [1.0, 2.0]
    assert average(folds[1:])["b"] == 3.0


def test_the_others_learn_from_the_largest(tiny_vit, share=0.75):
    """Loss and step against targets made by hand, through which no gradient goes."""
    still = dataclasses.replace(TINY, drop_path=0.0, dropout=0.0)
    _, state = nnx.split(tiny_vit)
    graphdef, _ = nnx.split(nnx.eval_shape(lambda: ViT(still, MAX_SIZES, rngs=nnx.Rngs(0))))
    vit = nnx.merge(graphdef, state)
    network = Network(*nnx.split(vit, trainable("noah"), ...), (0.5,) * 3, (0.5,) * 3)
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (6, 16, 16, 3), np.uint8)
    labels = rng.integers(0, TINY.num_classes, 6).astype(np.int32)
    genomes = np.stack([np.full((12, 3), size, np.int32) for size in (3, 0, 1)])
    rest = network.frozen, images, labels, genomes
    step = optax.sgd(1.0)

    @jax.jit
    def learn(params):
        update = step_lib._make_update(network, step, sharding.make_mesh(), share)
        return update((params, step.init(params)), *rest, jax.random.key(0))

    (learnt, _), loss = learn(network.params)

    def logits(params, part, genome):
        return network.logits(params, network.frozen, images[part], genome)

    @jax.jit
    def by_hand(params):
        targets = jax.nn.one_hot(labels, TINY.num_classes)
        said = jax.nn.softmax(logits(network.params, slice(2, 6), genomes[0]))
        targets = targets.at[2:].set((1 - share) * targets[2:] + share * said)
        parts = [slice(0, 2), slice(2, 4), slice(4, 6)]
        all_logits = [logits(params, *pair) for pair in zip(parts, genomes, strict=True)]
        return optax.softmax_cross_entropy(jnp.concatenate(all_logits), targets).mean()

    expected, gradient = jax.value_and_grad(by_hand)(network.params)
    np.testing.assert_allclose(loss, expected, rtol=1e-5)
    for new, old, slope in zip(
        *map(jax.tree.leaves, (learnt, network.params, gradient)), strict=True
    ):
        np.testing.assert_allclose(new, old - slope, rtol=1e-4, atol=1e-5)


def test_the_budget_goes_where_scores_are_high():
    scores = np.zeros((12, 3))
    scores[2, 1], scores[7, 1], scores[7, 2] = 2.0, 1.0, 1e-9
    genome = baselines.allot(SPACE, scores, budget=3 * 4 * 32)
    assert genome[2, 1] == 2 and genome[7, 1] == 1 and genome.sum() == 3  # two to one
    genome = baselines.allot(SPACE, scores, budget=8 * 4 * 32)
    assert genome[2, 1] == genome[7, 1] == 3  # no more than the largest size
    assert SPACE.count(genome) <= 8 * 4 * 32 and genome[7, 2] > 0
