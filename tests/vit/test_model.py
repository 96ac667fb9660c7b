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
from noah_jax.space.genomes import ALL_MODULES, by_module
from noah_jax.vit import Block, ViT, ViTConfig
from noah_jax.vit import block as vit_block
from noah_jax.vit.execution import Execution
from noah_jax.vit.execution import on as execution_on
from noah_jax.vit.network import apart, trainable
from noah_jax.vit.prompts import Adapter, LoRA, Noise, ParallelAdapter, draw_noise, drop, joined
from tests.helpers.models import MAX_SIZES, TINY

pytestmark = pytest.mark.usefixtures("strict_dtypes")
ALL_SIZES = MAX_SIZES | {"parallel": 6}


def randomised(model):
    """Every parameter random, those that start at zero included."""
    graphdef, state = nnx.split(model)
    rng = np.random.default_rng(0)
    random = jax.tree.map(lambda x: rng.normal(0, 0.2, x.shape).astype(np.float32), state)
    return nnx.merge(graphdef, random)


def without_parallel(model):
    """The state of all but the parallel adapter."""
    state = nnx.to_flat_state(nnx.state(model))
    return nnx.from_flat_state([(path, x) for path, x in state if "parallel" not in path])


@pytest.fixture
def full_vit():
    """The tiny ViT with a parallel adapter as well."""
    return randomised(ViT(TINY, ALL_SIZES, rngs=nnx.Rngs(0)))


@pytest.fixture
def full_genome(random_genome):
    """A function seed → genome with all columns, of the full ViT."""

    def make(seed):
        rng = np.random.default_rng([seed, 1])
        parallel = rng.integers(0, ALL_SIZES["parallel"] + 1, TINY.depth)
        parallel[rng.random(TINY.depth) < 0.3] = 0
        return np.concatenate([random_genome(seed), parallel[:, None]], axis=1).astype(np.int32)

    return make


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
    for i, sizes in enumerate(zip(*by_module(genome).values(), strict=True)):
        vpt, lora, adapter, parallel = map(int, sizes)
        block = jax.tree.map(lambda leaf, i=i: leaf[i], w["blocks"])
        if vpt:
            prompts = np.repeat(block["vpt"]["tokens"][None, :vpt], b, 0)
            x = np.concatenate([x[:, :fixed], prompts], 1)
        h = _norm(x, **block["norm1"])
        qkv = h @ block["qkv"]["kernel"] + block["qkv"]["bias"]
        if lora:
            change = h @ block["lora"]["a"][:, :lora] @ block["lora"]["b"][:lora]
            qkv = qkv + change
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
            change = inner @ block["adapter"]["up"][:adapter] + block["adapter"]["up_bias"]
            h = h + change
        if parallel:
            beside = block["parallel"]
            inner = x @ beside["down"][:, :parallel] + beside["down_bias"][:parallel]
            change = np.maximum(inner, 0) @ beside["up"][:parallel] + beside["up_bias"]
            h = h + change
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


def test_all_columns_masked_equal_sliced(full_vit, full_genome):
    images = np.random.default_rng(1).normal(size=(3, 16, 16, 3)).astype(np.float32)
    graphdef, state = nnx.split(full_vit)
    weights = nnx.to_pure_dict(state)
    genomes = np.stack([full_genome(seed) for seed in range(12)])
    run = jax.jit(lambda state, genome: nnx.merge(graphdef, state)(images, genome))
    alone = [run(state, genome) for genome in genomes]
    for genome, logits in zip(genomes, alone, strict=True):
        expected = sliced_logits(weights, images, genome)
        np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-4, err_msg=f"{genome}")
    together = jax.jit(jax.vmap(lambda genome: full_vit(images, genome)))(genomes)
    np.testing.assert_allclose(together, np.stack(alone), rtol=1e-4, atol=1e-4)
    other = genomes[1].copy()
    other[:, ALL_MODULES.index("parallel")] = 0
    assert np.abs(run(state, other) - alone[1]).max() > 1e-2


def test_zeros_in_further_columns_change_nothing(full_vit, random_genome):
    """In training mode, so random numbers count: with three columns, with four, and without a
    parallel adapter. Of a block, run operation by operation, no bit changes; XLA may fuse, and so
    round, two whole models differently."""
    rng = np.random.default_rng(1)
    images = rng.normal(size=(3, 16, 16, 3)).astype(np.float32)
    tokens = jnp.asarray(rng.normal(size=(3, 9, TINY.width)), jnp.float32)
    plain = ViT(TINY, MAX_SIZES, rngs=nnx.Rngs(0))
    nnx.update(plain, without_parallel(full_vit))
    key, runs = jax.random.key(3), []
    noise = draw_noise(key, jnp.float32(0.3), len(tokens))
    for model in (full_vit, plain):
        graphdef, blocks = nnx.split(model.blocks)
        block = nnx.merge(graphdef, jax.tree.map(lambda x: x[0], blocks))
        runs += [
            lambda genome, block=block: block(tokens, jnp.int32(0), genome[0], noise)[0],
            jax.jit(lambda genome, model=model: model(images, genome, train=True, key=key)),
        ]
    run_block, run, run_plain_block, run_plain = runs
    for seed in (1, 2):
        genome = np.pad(random_genome(seed), ((0, 0), (0, 1)))
        expected, expected_block = run_plain(genome[:, :3]), run_plain_block(genome[:, :3])
        for same in (genome[:, :3], genome):
            np.testing.assert_allclose(run(same), expected, rtol=1e-5, atol=1e-5)
            np.testing.assert_array_equal(run_block(same), expected_block)
        genome[0, ALL_MODULES.index("parallel")] = 2
        assert np.abs(run_block(genome) - expected_block).max() > 1e-2
        assert np.abs(run(genome) - expected).max() > 1e-2


def test_a_module_adds_what_its_formula_says():
    """Compares with a computation by hand of two of four hidden units; size 0 adds nothing."""
    x = np.random.default_rng(0).normal(size=(2, 3, 8)).astype(np.float32)

    def keep(values):
        return values

    def change(module):
        w = {name: np.asarray(p[...], np.float64) for name, p in nnx.state(module).items()}
        if isinstance(module, LoRA):
            return x @ w["a"][:, :2] @ w["b"][:2]
        hidden = x @ w["down"][:, :2] + w["down_bias"][:2]
        sigmoid = 1 / (1 + np.exp(-1.702 * hidden))
        hidden = hidden * (sigmoid if isinstance(module, Adapter) else hidden > 0)
        return hidden @ w["up"][:2] + w["up_bias"]

    def computed(module, size):
        if not isinstance(module, LoRA):
            return module(x, size, keep)
        rest = np.zeros((8, 24)), module.b[...], np.zeros(24)
        (out,) = joined(1, x, module(x, size, keep), *map(jnp.float32, rest))
        return out

    for module in (
        LoRA(4, 8, 24, rngs=nnx.Rngs(0)),
        Adapter(4, 8, rngs=nnx.Rngs(0)),
        ParallelAdapter(4, 8, rngs=nnx.Rngs(0)),
    ):
        module = randomised(module)
        np.testing.assert_allclose(computed(module, 2), change(module), atol=1e-5)
        assert (computed(module, 0) == 0).all()


def test_a_parallel_adapter_starts_as_nothing_and_leaves_all_else_as_it_was():
    full = ViT(TINY, ALL_SIZES, rngs=nnx.Rngs(0))
    states = without_parallel(full), nnx.state(ViT(TINY, MAX_SIZES, rngs=nnx.Rngs(0)))
    for one, other in zip(*map(jax.tree.leaves, states), strict=True):
        np.testing.assert_array_equal(one, other)
    module = nnx.to_pure_dict(nnx.state(full.blocks.parallel))
    for name in ("down_bias", "up", "up_bias"):
        assert (module[name] == 0).all()
    bound = TINY.width**-0.5
    assert 0.95 * bound < np.abs(module["down"]).max() <= bound
    assert (module["down"][0] != module["down"][1]).all()


def test_dropout_of_a_parallel_adapter_is_of_its_hidden_units():
    module = ParallelAdapter(4, 8, rngs=nnx.Rngs(0))
    module.down[...] = jnp.zeros((8, 4))
    module.down_bias[...] = jnp.ones(4)
    module.up[...] = jnp.eye(4, 8)
    module.up_bias[...] = jnp.ones(8)
    out = module(jnp.ones((5, 50, 8)), 3, lambda x: drop(x, 0.5, jax.random.key(0)))
    np.testing.assert_array_equal(np.unique(out[..., :3]), [1, 3])
    assert (out[..., 3:] == 1).all()
    assert abs((out[..., :3] == 3).mean() - 0.5) < 0.05


def test_whatever_is_dropped_has_random_numbers_of_its_own(monkeypatch):
    keys = []

    def recording(x, rate, key, quick):
        keys.append(jax.random.key_data(key))
        return x

    monkeypatch.setattr(vit_block, "drop", recording)
    block = Block(TINY, dict.fromkeys(ALL_MODULES, 2), rngs=nnx.Rngs(0))
    row = np.full(len(ALL_MODULES), 2)

    @jax.jit
    def recorded(key):
        noise = draw_noise(key, jnp.float32(0.5), 64)
        block(jnp.zeros((64, TINY.first_slot + 2, TINY.width)), 0, row, noise)
        return jnp.stack(keys), noise.attention, noise.mlp

    used, attention, mlp = recorded(jax.random.key(0))
    assert len(np.unique(used, axis=0)) == len(used) == 4  # modules
    assert set(np.unique(attention)) == set(np.unique(mlp)) == {0, 2}
    assert (attention != mlp).any()


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
    together, alone = jax.jit(jax.vmap(tiny_vit, (None, 0))), jax.jit(tiny_vit)
    for genome, logits in zip(genomes, together(images, genomes), strict=True):
        np.testing.assert_allclose(logits, alone(images, genome), atol=1e-5)


@pytest.mark.parametrize("columns", [3, 4])
def test_gradients_of_unused_entries_are_exactly_zero(columns, full_vit, full_genome):
    """Every entry from index `size` on, in training mode; a used module has other gradients."""
    images = np.random.default_rng(1).normal(size=(2, 16, 16, 3)).astype(np.float32)
    graphdef, params, frozen = nnx.split(full_vit, trainable("noah"), ...)

    @jax.jit
    def gradient(genome):
        def loss(params):
            model = nnx.merge(graphdef, params, frozen)
            return jnp.square(model(images, genome, train=True, key=jax.random.key(3))).sum()

        return jax.grad(loss)(params)

    for seed in range(6):
        genome = full_genome(seed)[:, :columns]
        blocks = nnx.to_pure_dict(gradient(genome))["blocks"]
        sizes = by_module(genome)
        entries = {  # the axis that the size cuts, counted after the block's own
            ("vpt", "tokens"): 0,
            ("lora", "a"): 1,
            ("lora", "b"): 0,
            ("adapter", "down"): 1,
            ("adapter", "down_bias"): 0,
            ("adapter", "up"): 0,
            ("parallel", "down"): 1,
            ("parallel", "down_bias"): 0,
            ("parallel", "up"): 0,
        }
        for (module, name), axis in entries.items():
            for i, size in enumerate(sizes[module]):
                used, unused = np.split(np.asarray(blocks[module][name][i]), [size], axis=axis)
                assert (unused == 0).all(), (module, name, i, size)
                if size and i < TINY.depth - 1:
                    assert (used != 0).any(), (module, name, i, size)
        for module in ("adapter", "parallel"):
            absent = np.asarray(blocks[module]["up_bias"])[sizes[module] == 0]
            assert (absent == 0).all() and len(absent), module


def test_training_mode_drops_and_needs_a_key(tiny_vit, random_genome):
    images = np.random.default_rng(1).normal(size=(2, 16, 16, 3)).astype(np.float32)
    genome = random_genome(1)
    train = jax.jit(lambda key: tiny_vit(images, genome, train=True, key=key))
    first = train(jax.random.key(0))
    assert np.abs(first - train(jax.random.key(1))).max() > 1e-3
    np.testing.assert_array_equal(first, train(jax.random.key(0)))
    with pytest.raises(ValueError, match="needs a key"):
        tiny_vit(images, genome, train=True)
    for wrong in (genome[:-1], genome[:, :2], np.tile(genome, 2)[:, :5], genome[None]):
        with pytest.raises(ValueError, match=r"expected a genome \[12, 3 to 4\], got"):
            tiny_vit(images, wrong)
    with pytest.raises(ValueError, match="expected images"):
        tiny_vit(images[:, :8], genome)


def test_the_class_token_alone_is_what_it_is_among_all(tiny_vit, random_genome):
    images = np.random.default_rng(0).normal(size=(3, 16, 16, 3)).astype(np.float32)
    genome = random_genome(2)
    run = jax.jit(lambda x: [tiny_vit.features(x, genome, wanted=wanted) for wanted in (None, 1)])
    whole, alone = run(images)
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


def test_unrolled_blocks_are_those_of_the_loop(network, random_genome):
    """A GPU and a TPU have the same logits and gradients; only dropout has other numbers."""
    images = np.random.default_rng(0).normal(size=(4, 16, 16, 3)).astype(np.float32)
    genome, key = random_genome(1), jax.random.key(0)
    frozen, params = network.frozen, network.params

    def gradients(execution, frozen):
        config = dataclasses.replace(TINY, execution=execution, dropout=0.0)
        model = nnx.eval_shape(lambda: ViT(config, MAX_SIZES, rngs=nnx.Rngs(0)))
        other = dataclasses.replace(network, graphdef=nnx.split(model)[0])

        def loss(params):
            logits = other.logits(params, frozen, images, genome, key)
            return jnp.square(logits).sum(), other.logits(params, frozen, images, genome)

        return jax.jit(jax.grad(loss, has_aux=True))(params)

    expected = jax.tree.leaves(gradients(Execution(), frozen))
    for backend in ("gpu", "tpu"):
        execution = dataclasses.replace(execution_on(backend), options=())
        found = jax.tree.leaves(gradients(execution, apart(frozen, TINY.depth)))
        for one, other in zip(found, expected, strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5, err_msg=backend)


def test_quick_dropout_drops_a_share_of_256ths():
    x = jnp.ones((40, 50, 7))
    out = np.asarray(drop(x, 0.1, jax.random.key(0), quick=True))
    values, counts = np.unique(out, return_counts=True)
    np.testing.assert_allclose(values, [0, 256 / 230], rtol=1e-6)
    assert abs(counts[0] / x.size - 26 / 256) < 0.01
    assert abs(out.mean() - 1) < 0.01
    assert (np.asarray(drop(x, 0.0, jax.random.key(0), quick=True)) == 1).all()


@pytest.mark.parametrize("parts", [1, 3])
def test_one_product_has_the_gradients_of_two(parts):
    rng = np.random.default_rng(0)
    shapes = (2, 5, 8), (2, 5, 3), (8, 6), (3, 6), (6,)
    inputs = [jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in shapes]

    def two(x, inner, kernel, b, bias):
        return x @ kernel + inner @ b + bias[None, None]

    def one(*inputs):
        return jnp.concatenate(joined(parts, *inputs), axis=-1)

    np.testing.assert_allclose(one(*inputs), two(*inputs), atol=1e-5)
    slopes = [
        jax.jit(jax.grad(lambda *x, f=f: jnp.sin(f(*x)).sum(), range(5)))(*inputs)
        for f in (one, two)
    ]
    for one, other in zip(*slopes, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


def test_unknown_modules_are_refused():
    with pytest.raises(ValueError, match=r"unknown modules \['adaptor'\]"):
        ViT(TINY, {"adaptor": 5}, rngs=nnx.Rngs(0))


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
    ours = ViT(config, {}, rngs=nnx.Rngs(0))
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
    after_block, _ = block(ours.embed(images), jnp.int32(0), genome[0], Noise())
    np.testing.assert_allclose(after_block, reference.hidden_states[1].numpy(), atol=1e-4)
    np.testing.assert_allclose(jax.jit(ours)(images, genome), reference.logits.numpy(), atol=1e-4)


def test_bfloat16_logits_are_float32_and_close(tiny_vit, random_genome):
    config = dataclasses.replace(TINY, dtype="bfloat16")
    half = ViT(config, MAX_SIZES, rngs=nnx.Rngs(0))
    nnx.update(half, nnx.state(tiny_vit))
    images = np.random.default_rng(1).normal(size=(4, 16, 16, 3)).astype(np.float32)
    logits = jax.jit(half)(images, random_genome(1))
    assert logits.dtype == jnp.float32
    full = jax.jit(tiny_vit)(images, random_genome(1))
    assert 0 < np.abs(logits - full).max() < 0.05 * np.abs(full).max()
