"""Which genomes train a supernet and what they learn; how the budget is allotted without one."""

import dataclasses

import jax.numpy as jnp
import numpy as np

from noah_jax.config.settings import SupernetSchedule
from noah_jax.search import baselines
from noah_jax.search.supernet import average, genomes_of_step
from noah_jax.space import SearchSpace
from noah_jax.space.genomes import MODULES

SPACE = SearchSpace(dict.fromkeys(MODULES, (0, 1, 3)), (12,), 12, 32)
SCHEDULE = SupernetSchedule(
    epochs=1,
    batch_size=12,
    learning_rate=1e-3,
    weight_decay=0.0,
    warmup_epochs=0,
    genomes_per_step=3,
    sampling="random",
)


def test_genomes_of_a_step():
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


def test_the_budget_goes_where_scores_are_high():
    scores = np.zeros((12, 3))
    scores[2, 1], scores[7, 1], scores[7, 2] = 2.0, 1.0, 1e-9
    genome = baselines.allot(SPACE, scores, budget=3 * 4 * 32)
    assert genome[2, 1] == 2 and genome[7, 1] == 1 and genome.sum() == 3  # two to one
    genome = baselines.allot(SPACE, scores, budget=8 * 4 * 32)
    assert genome[2, 1] == genome[7, 1] == 3  # no more than the largest size
    assert SPACE.count(genome) <= 8 * 4 * 32 and genome[7, 2] > 0
