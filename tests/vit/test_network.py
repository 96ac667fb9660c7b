"""A subnet inherits the weights of its supernet."""

import jax
import numpy as np
from flax import nnx

from noah_jax.space.genomes import max_sizes
from noah_jax.vit import ViT
from noah_jax.vit.network import inherit, trainable
from tests.helpers.models import MAX_SIZES, TINY


def test_a_subnet_that_inherits_is_the_masked_supernet(tiny_vit, random_genome):
    genome = random_genome(1)
    genome[:, 1] = np.minimum(genome[:, 1], 2)  # smaller than the supernet's
    sizes = max_sizes(genome)
    assert 0 < sizes["lora"] < MAX_SIZES["lora"] and not sizes["parallel"]
    images = np.random.default_rng(0).normal(size=(2, 16, 16, 3)).astype(np.float32)
    expected = jax.jit(tiny_vit)(images, genome)

    _, larger, frozen = nnx.split(tiny_vit, trainable("noah"), ...)
    subnet = ViT(TINY, sizes, rngs=nnx.Rngs(1))
    graphdef, params, _ = nnx.split(subnet, trainable("noah"), ...)
    heir = nnx.merge(graphdef, inherit(params, larger), frozen)
    np.testing.assert_allclose(jax.jit(heir)(images, genome), expected, atol=1e-5)
    fresh = nnx.merge(graphdef, params, frozen)
    assert np.abs(jax.jit(fresh)(images, genome) - expected).max() > 0.01
