"""Prompt modules at work in the families whose ViT differs: RoPE, no class token."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from noah_jax.space.genomes import ALL_MODULES
from noah_jax.vit import ViT, ViTConfig
from noah_jax.vit import config as vit_config
from noah_jax.vit.execution import Execution
from noah_jax.vit.execution import on as execution_on
from noah_jax.vit.network import trainable

pytestmark = pytest.mark.usefixtures("strict_dtypes")
SIZES = dict.fromkeys(ALL_MODULES, 3)
GENOME = np.array([[3, 2, 0, 2], [0, 0, 1, 0], [2, 3, 2, 3]], np.int32)
FUSED = Execution(fused_attention=True, joined_lora=True)


@pytest.fixture(params=["_dinov3", "_siglip", "_siglip_mean"])
def config(request, monkeypatch):
    """A small ViT of each family; its patches are 3×3."""
    monkeypatch.setitem(vit_config._SHAPES, "ti", (32, 3, 4, 100))
    return ViTConfig.named(f"vit_ti8{request.param}", image_size=24, num_classes=5)


@pytest.fixture
def images():
    return np.random.default_rng(1).normal(size=(2, 24, 24, 3)).astype(np.float32)


def randomised(config, sizes):
    """The static part, and every parameter random, those that start at zero included."""
    graphdef, state = nnx.split(nnx.eval_shape(lambda: ViT(config, sizes, rngs=nnx.Rngs(0))))
    rng = np.random.default_rng(0)
    return graphdef, jax.tree.map(lambda x: rng.normal(0, 0.2, x.shape).astype(np.float32), state)


def test_prompts_of_the_first_block_are_more_registers(config, images):
    """Both are tokens without a position that no head sees; the blocks keep them from then on."""
    graphdef, state = randomised(config, {"vpt": 3})
    genome = np.array([[3, 0, 0], [0, 0, 0], [0, 0, 0]], np.int32)
    logits = jax.jit(nnx.merge(graphdef, state))(images, genome)

    more = dataclasses.replace(config, registers=config.registers + 3)
    model = nnx.eval_shape(lambda: ViT(more, {}, rngs=nnx.Rngs(0)))
    weights = nnx.to_pure_dict(state)
    tokens = weights["blocks"].pop("vpt")["tokens"][:1]
    if config.registers:
        tokens = np.concatenate([weights["register_tokens"], tokens], axis=1)
    nnx.update(model, weights | {"register_tokens": tokens})
    registers = jax.jit(model)
    np.testing.assert_allclose(registers(images, 0 * genome), logits, atol=1e-5)
    without = jax.jit(nnx.merge(graphdef, state))(images, 0 * genome)
    assert np.abs(logits - without).max() > 1e-2


def test_all_modules_learn_and_change_the_logits(config, images):
    graphdef, state = randomised(config, SIZES)
    model = nnx.merge(graphdef, state)
    graphdef, params, frozen = nnx.split(model, trainable("noah"), ...)
    names = {".".join(map(str, path[:2])) for path, _ in nnx.to_flat_state(params)}
    assert names == {"head.kernel", "head.bias", *(f"blocks.{name}" for name in ALL_MODULES)}

    @jax.jit
    def gradients(genome):
        def loss(params):
            model = nnx.merge(graphdef, params, frozen)
            return jnp.square(model(images, genome, train=True, key=jax.random.key(3))).sum()

        return jax.grad(loss)(params)

    blocks = nnx.to_pure_dict(gradients(GENOME))["blocks"]
    for column, name in enumerate(ALL_MODULES):
        for i, size in enumerate(GENOME[:, column]):
            parts = jax.tree.leaves(jax.tree.map(lambda x, i=i: x[i], blocks[name]))
            assert all((np.any(part != 0)) == (size > 0) for part in parts), (name, i)
    logits = jax.jit(model)
    for column in range(len(ALL_MODULES)):
        other = GENOME.copy()
        other[:, column] = 0
        assert np.abs(logits(images, GENOME) - logits(images, other)).max() > 1e-3


@pytest.mark.parametrize("execution", ["gpu", "tpu", "fused"])
def test_no_way_of_execution_changes_logits_and_gradients(config, images, execution, monkeypatch):
    """The fused kernel's place is taken by XLA's own attention, which takes the same lengths."""
    attention = functools.partial(_without_kernel, jax.nn.dot_product_attention)
    monkeypatch.setattr(jax.nn, "dot_product_attention", attention)
    how = (
        FUSED if execution == "fused" else dataclasses.replace(execution_on(execution), options=())
    )

    def computed(config):
        graphdef, state = randomised(config, SIZES)

        def loss(state):
            logits = nnx.merge(graphdef, state)(images, GENOME)
            return jnp.square(logits).sum(), logits

        return jax.tree.leaves(jax.jit(jax.grad(loss, has_aux=True))(state))

    found = computed(dataclasses.replace(config, execution=how))
    for one, other in zip(found, computed(config), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-4)


def _without_kernel(attention, *parts, implementation, **lengths):
    assert implementation == "cudnn"
    return attention(*parts, implementation="xla", **lengths)
