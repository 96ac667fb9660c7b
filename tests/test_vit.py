"""The masked model against a plain sliced one, and against Hugging Face's ViT."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers
from flax import nnx

from noah_jax import pretrained
from noah_jax.network import trainable
from noah_jax.vit import ViT, ViTConfig
from tests.conftest import MAX_SIZES, TINY

pytestmark = pytest.mark.usefixtures("strict_dtypes")
NO_PROMPTS = {"vpt": 0, "lora": 0, "adapter": 0}


def _norm(x, scale, bias):
    mean = x.mean(-1, keepdims=True)
    return (x - mean) / np.sqrt(((x - mean) ** 2).mean(-1, keepdims=True) + 1e-6) * scale + bias


_erf = np.vectorize(math.erf)


def sliced_logits(weights, images, genome):
    """The subnet as anyone would write it: loops, slices, concatenation, no masks (float64)."""
    w = jax.tree.map(lambda x: np.asarray(x, np.float64), weights)
    b, side, p = len(images), TINY.image_size, TINY.patch_size
    patches = [
        images[:, y : y + p, x : x + p].reshape(b, -1)
        for y in range(0, side, p)
        for x in range(0, side, p)
    ]
    x = np.stack(patches, 1) @ w["patch_embed"]["kernel"] + w["patch_embed"]["bias"]
    x = np.concatenate([np.repeat(w["cls_token"], b, 0), x], 1) + w["pos_embed"]
    if "register_tokens" in w:
        x = np.concatenate([x[:, :1], np.repeat(w["register_tokens"], b, 0), x[:, 1:]], 1)
    fixed = x.shape[1]
    for i, (vpt, lora, adapter) in enumerate(genome):
        block = jax.tree.map(lambda leaf, i=i: leaf[i], w["blocks"])
        if vpt:
            prompts = np.repeat(block["vpt"]["tokens"][None, :vpt], b, 0)
            x = np.concatenate([x[:, :fixed], prompts], 1)
        h = _norm(x, **block["norm1"])
        qkv = h @ block["qkv"]["kernel"] + block["qkv"]["bias"]
        if lora:
            qkv = qkv + h @ block["lora"]["a"][:, :lora] @ block["lora"]["b"][:lora]
        q, k, v = (
            part.reshape(b, -1, TINY.heads, TINY.width // TINY.heads).swapaxes(1, 2)
            for part in np.split(qkv, 3, -1)
        )
        scores = q @ k.swapaxes(2, 3) / math.sqrt(q.shape[-1])
        scores = np.exp(scores - scores.max(-1, keepdims=True))
        out = (scores / scores.sum(-1, keepdims=True)) @ v
        out = out.swapaxes(1, 2).reshape(b, -1, TINY.width)
        x = x + out @ block["proj"]["kernel"] + block["proj"]["bias"]
        h = _norm(x, **block["norm2"]) @ block["fc1"]["kernel"] + block["fc1"]["bias"]
        h = h * (1 + _erf(h / math.sqrt(2))) / 2
        h = h @ block["fc2"]["kernel"] + block["fc2"]["bias"]
        if adapter:
            inner = (
                h @ block["adapter"]["down"][:, :adapter] + block["adapter"]["down_bias"][:adapter]
            )
            inner = inner / (1 + np.exp(-1.702 * inner))
            h = h + inner @ block["adapter"]["up"][:adapter] + block["adapter"]["up_bias"]
        x = x + h
    x = _norm(x[:, 0], **w["norm"])
    return x @ w["head"]["kernel"] + w["head"]["bias"]


def test_masked_equals_sliced(tiny_vit, random_genome):
    """20 genomes with gaps, depths under the ViT's and all-zero columns; one compilation."""
    images = np.random.default_rng(1).normal(size=(3, 16, 16, 3)).astype(np.float32)
    graphdef, state = nnx.split(tiny_vit)
    weights = nnx.to_pure_dict(state)
    run = jax.jit(lambda state, genome: nnx.merge(graphdef, state)(images, genome))
    for seed in range(20):
        genome = random_genome(seed)
        expected = sliced_logits(weights, images, genome)
        np.testing.assert_allclose(run(state, genome), expected, atol=1e-4, err_msg=f"{genome}")
    assert run._cache_size() == 1
    zeros = np.zeros((TINY.depth, 3), np.int32)
    assert np.abs(run(state, zeros) - run(state, random_genome(1))).max() > 1e-2


def test_registers_leave_the_prompts_at_the_end(random_genome):
    model = ViT(dataclasses.replace(TINY, registers=3), MAX_SIZES, rngs=nnx.Rngs(0))
    graphdef, state = nnx.split(model)
    rng = np.random.default_rng(0)
    state = jax.tree.map(lambda x: rng.normal(0, 0.2, x.shape).astype(np.float32), state)
    images = rng.normal(size=(3, 16, 16, 3)).astype(np.float32)
    run = jax.jit(lambda state, genome: nnx.merge(graphdef, state)(images, genome))
    for seed in range(4):
        genome = random_genome(seed)
        expected = sliced_logits(nnx.to_pure_dict(state), images, genome)
        np.testing.assert_allclose(run(state, genome), expected, atol=1e-4, err_msg=f"{genome}")


def test_population_is_one_more_axis(tiny_vit, random_genome):
    images = np.random.default_rng(1).normal(size=(2, 16, 16, 3)).astype(np.float32)
    genomes = np.stack([random_genome(seed) for seed in range(1, 5)])
    together = jax.vmap(tiny_vit, (None, 0))(images, genomes)
    for genome, logits in zip(genomes, together, strict=True):
        np.testing.assert_allclose(logits, tiny_vit(images, genome), atol=1e-5)


def test_gradients_of_unused_entries_are_exactly_zero(tiny_vit, random_genome):
    """In training mode, every entry from index `size` on; a used module's gradient is not zero."""
    images = np.random.default_rng(1).normal(size=(2, 16, 16, 3)).astype(np.float32)
    graphdef, params, frozen = nnx.split(tiny_vit, trainable("noah"), ...)

    @jax.jit
    def gradient(genome):
        def loss(params):
            model = nnx.merge(graphdef, params, frozen)
            return jnp.square(model(images, genome, train=True, key=jax.random.key(3))).sum()

        return jax.grad(loss)(params)

    for seed in range(6):
        genome = random_genome(seed)
        blocks = nnx.to_pure_dict(gradient(genome))["blocks"]
        entries = {  # the axis that the size cuts, counted after the block's own
            ("vpt", "tokens"): 0,
            ("lora", "a"): 1,
            ("lora", "b"): 0,
            ("adapter", "down"): 1,
            ("adapter", "down_bias"): 0,
            ("adapter", "up"): 0,
        }
        for (module, name), axis in entries.items():
            column = ("vpt", "lora", "adapter").index(module)
            for i, size in enumerate(genome[:, column]):
                used, unused = np.split(np.asarray(blocks[module][name][i]), [size], axis=axis)
                assert (unused == 0).all(), (module, name, i, size)
                if size and i < TINY.depth - 1:
                    assert (used != 0).any(), (module, name, i, size)
        absent = genome[:, 2] == 0
        assert (np.asarray(blocks["adapter"]["up_bias"])[absent] == 0).all()


def test_training_mode_drops_and_needs_a_key(tiny_vit, random_genome):
    images = np.random.default_rng(1).normal(size=(2, 16, 16, 3)).astype(np.float32)
    genome = random_genome(1)
    train = jax.jit(lambda key: tiny_vit(images, genome, train=True, key=key))
    first = train(jax.random.key(0))
    assert np.abs(first - train(jax.random.key(1))).max() > 1e-3
    np.testing.assert_array_equal(first, train(jax.random.key(0)))
    with pytest.raises(ValueError, match="needs a key"):
        tiny_vit(images, genome, train=True)
    with pytest.raises(ValueError, match="genome of shape"):
        tiny_vit(images, genome[:-1])
    with pytest.raises(ValueError, match="expected images"):
        tiny_vit(images[:, :8], genome)


def test_the_class_token_alone_is_what_it_is_among_all(tiny_vit, random_genome):
    images = np.random.default_rng(0).normal(size=(3, 16, 16, 3)).astype(np.float32)
    whole = tiny_vit.features(images, random_genome(2))
    alone = tiny_vit.features(images, random_genome(2), wanted=1)
    assert alone.shape == (3, 1, TINY.width)
    np.testing.assert_allclose(alone[:, 0], whole[:, 0], atol=1e-5)


def test_rematerialisation_changes_memory_not_gradients(tiny_vit, random_genome):
    images = np.random.default_rng(0).normal(size=(16, 16, 16, 3)).astype(np.float32)
    graphdef, state = nnx.split(tiny_vit)
    genome, key = random_genome(1), jax.random.key(0)

    def compiled(rematerialise):
        config = dataclasses.replace(TINY, rematerialise=rematerialise)

        def loss(state):
            model = nnx.merge(graphdef, state)
            model.config = config
            return jnp.square(model(images, genome, train=True, key=key)).sum()

        return jax.jit(jax.grad(loss)).lower(state).compile()

    plain, again = compiled(False), compiled(True)
    memory = [x.memory_analysis().temp_size_in_bytes for x in (plain, again)]
    assert memory[1] < 0.8 * memory[0]
    for one, other in zip(*map(jax.tree.leaves, (plain(state), again(state))), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


def test_named_configs():
    config = ViTConfig.named("vit_b16", image_size=224, num_classes=100)
    assert (config.width, config.depth, config.heads, config.grid) == (768, 12, 12, 14)
    config = ViTConfig.named("vit_l14_clip")
    assert config.pre_norm and config.quick_gelu and config.epsilon == 1e-5
    assert ViTConfig.named("vit_s14_reg4").registers == 4
    assert ViTConfig.named("vit_b16_dist").registers == 1
    for name in ("vit_b15", "vit_x16", "vit_b16_reg5", "clip_vit_b16"):
        with pytest.raises(ValueError, match="unknown ViT"):
            ViTConfig.named(name)
    with pytest.raises(ValueError, match="use 210 or 224"):
        ViTConfig.named("vit_s14", image_size=215)
    with pytest.raises(ValueError, match="use 14$"):
        ViTConfig.named("vit_s14", image_size=5)


@pytest.mark.parametrize("image_size", [32, 48])  # the size of the weights, and another
def test_equals_hugging_face(tmp_path, image_size):
    """From the inside out: embedding, first block, whole, in float32, from a saved checkpoint."""
    torch.manual_seed(0)
    shape = dict(
        hidden_size=32,
        num_hidden_layers=3,
        num_attention_heads=4,
        intermediate_size=128,
        patch_size=8,
        image_size=32,
        num_labels=7,
        layer_norm_eps=1e-6,
    )
    theirs = transformers.ViTForImageClassification(transformers.ViTConfig(**shape)).eval()
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.normal_(0, 0.2)
    theirs.save_pretrained(tmp_path)

    config = ViTConfig(32, 3, 4, 8, image_size=image_size, num_classes=7)
    ours = ViT(config, NO_PROMPTS, rngs=nnx.Rngs(0))
    pretrained.load(ours, tmp_path / "model.safetensors")
    classifier = theirs.classifier
    ours.head.kernel[...] = jnp.asarray(classifier.weight.detach().numpy().T)
    ours.head.bias[...] = jnp.asarray(classifier.bias.detach().numpy())

    images = np.random.default_rng(0).normal(size=(2, image_size, image_size, 3))
    images = images.astype(np.float32)
    with torch.no_grad():
        reference = theirs(
            torch.tensor(images.transpose(0, 3, 1, 2)),
            output_hidden_states=True,
            interpolate_pos_encoding=True,
        )
    genome = np.zeros((3, 3), np.int32)
    np.testing.assert_allclose(ours.embed(images), reference.hidden_states[0].numpy(), atol=1e-4)
    graphdef, blocks = nnx.split(ours.blocks)
    block = nnx.merge(graphdef, jax.tree.map(lambda x: x[0], blocks))
    after_block, _ = block(ours.embed(images), jnp.int32(0), genome[0], 0.0, None)
    np.testing.assert_allclose(after_block, reference.hidden_states[1].numpy(), atol=1e-4)
    np.testing.assert_allclose(ours(images, genome), reference.logits.numpy(), atol=1e-4)


def test_bfloat16_logits_are_float32_and_close(tiny_vit, random_genome):
    config = dataclasses.replace(TINY, dtype="bfloat16")
    half = ViT(config, MAX_SIZES, rngs=nnx.Rngs(0))
    nnx.update(half, nnx.state(tiny_vit))
    images = np.random.default_rng(1).normal(size=(4, 16, 16, 3)).astype(np.float32)
    logits = half(images, random_genome(1))
    assert logits.dtype == jnp.float32
    full = tiny_vit(images, random_genome(1))
    assert 0 < np.abs(logits - full).max() < 0.05 * np.abs(full).max()
