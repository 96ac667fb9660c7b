"""The methods that find a genome."""

import numpy as np

from noah_jax.config.settings import FOUND
from noah_jax.search.methods import METHODS, uniform
from noah_jax.space.genomes import count_params


def test_every_method_that_finds_a_genome_has_a_function():
    assert set(METHODS) == set(FOUND)


def test_uniform_shares_the_budget():
    genome = uniform(152_500, 12, 384)
    assert genome.shape == (12, 3) and (genome == genome[0]).all()
    params = count_params(genome, 384)
    assert 0.95 * 152_500 <= params <= 152_500
    for column in range(3):
        alone = np.where(np.arange(3) == column, genome, 0)
        assert 0.2 < count_params(alone, 384) / params < 0.5
    assert not uniform(1000, 12, 384).any()
