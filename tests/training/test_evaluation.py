"""Evaluation against the plain model: a population, and a streamed test set."""

import dataclasses

import jax
import numpy as np
import pytest

from noah_jax.runtime import sharding
from noah_jax.training import evaluation
from noah_jax.vit.execution import Execution
from tests.helpers.models import TINY, make_network
from tests.helpers.search import SETTINGS


@pytest.mark.usefixtures("nothing_compiled")
def test_population_equals_one_by_one_in_one_compilation(tiny_vit, random_genome, monkeypatch):
    """Any population, any genomes: one compilation; images that fill no batch do not count."""
    compiled = []
    make = evaluation.make_evaluator
    monkeypatch.setattr(
        evaluation, "make_evaluator", lambda *args: compiled.append(make(*args)) or compiled[-1]
    )
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (13, 16, 16, 3)).astype(np.uint8)
    network = make_network(tiny_vit)
    genomes = np.stack([random_genome(seed) for seed in range(20)])
    run, normalised = jax.jit(tiny_vit), (images / 127.5 - 1).astype(np.float32)
    logits = np.stack([run(normalised, genome) for genome in genomes])
    labels = logits[3].argmax(-1).astype(np.int32)
    labels[:4] = (labels[:4] + 1) % TINY.num_classes
    filled = np.pad(images, ((0, 2), (0, 0), (0, 0), (0, 0))).reshape(3, 5, 16, 16, 3)
    batches = zip(filled, np.pad(labels, (0, 2), constant_values=-1).reshape(3, 5), strict=True)
    evaluate = evaluation.population_evaluator(
        network, network.params, batches, SETTINGS, sharding.make_mesh()
    )
    accuracy, loss = map(np.concatenate, zip(*evaluate(genomes), strict=True))
    np.testing.assert_allclose(accuracy, (logits.argmax(-1) == labels).mean(-1), atol=1e-6)
    assert accuracy[3] == 9 / 13
    log_probability = jax.nn.log_softmax(logits)[:, np.arange(13), labels]
    np.testing.assert_allclose(loss, -log_probability.mean(-1), rtol=1e-4)
    few = np.concatenate([accuracy for accuracy, _ in evaluate(genomes[8:11])])
    assert few.tolist() == accuracy[8:11].tolist()  # as where a search goes on, bit for bit
    assert len(compiled) == 1 and compiled[0]._cache_size() == 1


def test_genomes_in_turn_are_those_side_by_side(tiny_vit, random_genome):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (2, 5, 16, 16, 3)).astype(np.uint8)
    labels = rng.integers(0, TINY.num_classes, (2, 5)).astype(np.int32)
    genomes = np.stack([random_genome(seed) for seed in range(4)])
    network, mesh = make_network(tiny_vit), sharding.make_mesh()
    assert len(genomes) == 2 * mesh.size  # two turns
    in_turn = dataclasses.replace(network, execution=Execution(genomes_in_turn=True))
    results = [
        evaluation.make_evaluator(one, mesh, with_logits=True)(
            *(network.params, network.frozen, images, labels, genomes),
            np.ones(TINY.num_classes, bool),
        )
        for one in (network, in_turn)
    ]
    for one, other in zip(*results, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)
    assert len(set(np.asarray(results[0][2]).tolist())) == 4  # each genome has a loss of its own


@pytest.mark.usefixtures("nothing_compiled")
def test_a_stream_is_scored_among_the_classes_it_shows(tiny_vit, random_genome):
    """Like ImageNet-A: images of classes 1 and 3 only, told apart among these, and among all."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (40, 16, 16, 3)).astype(np.uint8)
    labels = np.tile(np.array([1, 3], np.int32), 20)
    genome, network = random_genome(1), make_network(tiny_vit)
    logits = np.asarray(jax.jit(tiny_vit)((images / 127.5 - 1).astype(np.float32), genome))
    mesh = sharding.make_mesh()
    evaluate = evaluation.make_evaluator(network, mesh, with_logits=True)
    batches = [(images[i : i + 10], labels[i : i + 10]) for i in range(0, 40, 10)]
    batches[-1][1][-1] = -1  # what fills up a last batch

    def score(classes, after=0, **so_far):
        rest = evaluation.Remaining(batches[after:], 10, 39, classes, **so_far)
        args = network, network.params, genome, rest, evaluate, mesh
        return list(evaluation.score_stream(*args))

    scores = score((1, 3))
    among, among_all, loss = scores[-1][1]
    np.testing.assert_allclose(np.concatenate([x for *_, x in scores]), logits[:39], atol=1e-5)
    pairs = np.array([1, 3])[logits[:39][:, [1, 3]].argmax(-1)]
    assert among == (pairs == labels[:39]).sum() > 0
    assert among_all == (logits[:39].argmax(-1) == labels[:39]).sum() < among
    expected = -np.asarray(jax.nn.log_softmax(logits))[np.arange(39), labels[:39]].sum()
    np.testing.assert_allclose(loss, expected, rtol=1e-4)
    answers = np.concatenate([batch for *_, batch, _ in scores], axis=1)
    assert answers.tolist() == [labels[:39].tolist(), pairs.tolist()]
    assert [done for done, *_ in scores] == [10, 20, 30, 39]
    assert score(())[-1][1].tolist() == [among_all, among_all, loss]
    done, sums, *_ = scores[1]
    resumed = score((1, 3), after=2, done=done, sums=sums)[-1]
    assert resumed[1].tolist() == [among, among_all, loss]  # bit for bit
    assert evaluate._cache_size() == 1
