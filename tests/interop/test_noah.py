"""NOAH's state dict against a plain sliced model in PyTorch."""

import re

import jax
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from flax import nnx

from noah_jax.errors import UserError
from noah_jax.interop import load_noah
from noah_jax.vit import ViT, ViTConfig

CONFIG = ViTConfig(width=32, depth=3, heads=4, patch_size=8, image_size=16, num_classes=5)
SIZES = {"vpt": 4, "lora": 3, "adapter": 5}
SUPERNET_SIZE = 6  # of every module in NOAH's checkpoint


def _noah_tensors():
    """A random state dict, named and shaped as the original's."""
    d, r, p = CONFIG.width, SUPERNET_SIZE, CONFIG.patch_size
    shapes = {
        "cls_token": (1, 1, d),
        "pos_embed": (1, 1 + CONFIG.grid**2, d),
        "visual_prompt_token": (1, r, d),
        "visual_prompt_token_pos_embed": (1, r, d),
    }
    layers = {"patch_embed.proj": (d, 3, p, p), "norm": (d,), "head": (CONFIG.num_classes, d)}
    for i in range(CONFIG.depth):
        block = f"blocks.{i}."
        shapes |= {
            block + "visual_prompt_token": (1, r, d),
            block + "attn.prefix_tokens_key": (1, r, d),
            block + "attn.prefix_tokens_value": (1, r, d),
            block + "attn.LoRA_a.weight": (r, d),
            block + "attn.LoRA_b.weight": (3 * d, r),
            block + "adapter.sampled_bias_1": (d,),
        }
        layers |= {
            block + "norm1": (d,),
            block + "attn.qkv": (3 * d, d),
            block + "attn.proj": (d, d),
            block + "norm2": (d,),
            block + "mlp.fc1": (4 * d, d),
            block + "mlp.fc2": (d, 4 * d),
            block + "adapter.ln1": (r, d),
            block + "adapter.ln2": (d, r),
        }
    for name, shape in layers.items():
        shapes |= {f"{name}.weight": shape, f"{name}.bias": shape[:1]}
    rng = np.random.default_rng(0)
    return {name: rng.normal(0, 0.2, shape).astype(np.float32) for name, shape in shapes.items()}


def _sliced_logits(tensors, images, genome):
    """NOAH's subnet: the first rows of each module, and no masks. `images` `[b, 3, h, w]`."""
    w = {name: torch.tensor(x) for name, x in tensors.items()}
    b, d, last = len(images), CONFIG.width, 0

    def linear(x, name):
        return F.linear(x, w[f"{name}.weight"], w[f"{name}.bias"])

    def norm(x, name):
        return F.layer_norm(x, (d,), w[f"{name}.weight"], w[f"{name}.bias"], 1e-6)

    x = F.conv2d(
        images, w["patch_embed.proj.weight"], w["patch_embed.proj.bias"], stride=CONFIG.patch_size
    )
    x = x.flatten(2).transpose(1, 2)
    x = torch.cat([w["cls_token"].expand(b, -1, -1), x], 1) + w["pos_embed"]
    for i, (vpt, lora, adapter) in enumerate(genome):
        block = f"blocks.{i}."
        if vpt:
            prompts = w[block + "visual_prompt_token"][:, :vpt].expand(b, -1, -1)
            x, last = torch.cat([x[:, : x.shape[1] - last], prompts], 1), vpt
        h = norm(x, block + "norm1")
        qkv = linear(h, block + "attn.qkv")
        if lora:
            inner = F.linear(h, w[block + "attn.LoRA_a.weight"][:lora])
            qkv = qkv + F.linear(inner, w[block + "attn.LoRA_b.weight"][:, :lora])
        q, k, v = qkv.reshape(b, -1, 3, CONFIG.heads, d // CONFIG.heads).permute(2, 0, 3, 1, 4)
        h = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, -1, d)
        x = x + linear(h, block + "attn.proj")
        h = linear(F.gelu(linear(norm(x, block + "norm2"), block + "mlp.fc1")), block + "mlp.fc2")
        if adapter:
            inner = F.linear(
                h,
                w[block + "adapter.ln1.weight"][:adapter],
                w[block + "adapter.ln1.bias"][:adapter],
            )
            inner = inner * torch.sigmoid(1.702 * inner)
            h = h + F.linear(
                inner, w[block + "adapter.ln2.weight"][:, :adapter], w[block + "adapter.ln2.bias"]
            )
        x = x + h
    return linear(norm(x[:, 0], "norm"), "head").numpy()


GENOMES = (
    [[4, 3, 5], [4, 3, 5], [4, 3, 5]],  # all at the model's maximum
    [[2, 1, 3], [4, 3, 1], [1, 2, 5]],
    [[3, 0, 4], [0, 2, 0], [0, 0, 0]],  # depths under the ViT's: prompts of block 0 go on
    [[0, 3, 0], [2, 0, 5], [3, 1, 0]],
    [[0, 0, 0], [0, 0, 0], [0, 0, 0]],
)


def test_filled_from_noah_equals_the_sliced_subnet():
    tensors = _noah_tensors()
    images = np.random.default_rng(1).normal(size=(2, 16, 16, 3)).astype(np.float32)
    model = ViT(CONFIG, SIZES, rngs=nnx.Rngs(0))
    load_noah(model, tensors)
    graphdef, state = nnx.split(model)
    run = jax.jit(lambda state, genome: nnx.merge(graphdef, state)(images, genome))
    expected = [
        _sliced_logits(tensors, torch.tensor(images).permute(0, 3, 1, 2), genome)
        for genome in GENOMES
    ]
    for genome, logits in zip(GENOMES, expected, strict=True):
        ours = run(state, np.array(genome, np.int32))
        np.testing.assert_allclose(ours, logits, atol=1e-4, err_msg=f"{genome}")
    np.testing.assert_allclose(
        run(state, np.pad(GENOMES[1], ((0, 0), (0, 1)))), expected[1], atol=1e-4
    )
    apart = [
        np.abs(a - b).max() for i, a in enumerate(expected) for j, b in enumerate(expected) if i < j
    ]
    assert min(apart) > 1e-2  # each genome is a model of its own


def test_all_that_does_not_fit_in_one_message():
    tensors = _noah_tensors()
    for i in range(CONFIG.depth):
        name = f"blocks.{i}.attn.LoRA_a.weight"
        tensors[name] = tensors[name][:2]
    del tensors["blocks.1.adapter.ln2.bias"], tensors["blocks.2.mlp.fc1.bias"]
    tensors["blocks.0.visual_prompt_token"] = np.zeros((6, 32), np.float32)
    tensors["blocks.0.attn.rel_pos"] = np.zeros(7, np.float32)
    tensors["head.weight"] = np.zeros((9, 32), np.float32)
    model = ViT(CONFIG, SIZES, rngs=nnx.Rngs(0))
    before = np.asarray(model.pos_embed[...])
    with pytest.raises(UserError) as error:
        load_noah(model, tensors)
    np.testing.assert_array_equal(before, model.pos_embed[...])
    lines = str(error.value).splitlines()
    assert "NOAH's state dict" in lines[0] and "9 problems" in lines[0]
    assert [line.strip() for line in lines[1:]] == [
        "blocks.0.lora.a is [32, 2], expected [32, 3]",
        "blocks.1.lora.a is [32, 2], expected [32, 3]",
        "blocks.2.lora.a is [32, 2], expected [32, 3]",
        "head.kernel is [32, 9], expected [32, 5]",
        "missing blocks.0.vpt.tokens [4, 32]",
        "missing blocks.1.adapter.up_bias [32]",
        "missing blocks.2.mlp.fc1.bias [128]",
        "unexpected blocks.0.attn.rel_pos [7]",
        "unexpected blocks.0.visual_prompt_token [6, 32]",
    ]


def test_modules_that_the_model_lacks_are_left_out():
    """An Adapter-8 of NOAH's has no other module; an adapter-only model takes any checkpoint."""
    tensors = _noah_tensors()
    few = {name: x for name, x in tensors.items() if not re.search("prompt|LoRA|prefix", name)}
    models = [
        ViT(CONFIG, {"vpt": 0, "lora": 0, "adapter": 5}, rngs=nnx.Rngs(seed)) for seed in (0, 1)
    ]
    load_noah(models[0], tensors)
    load_noah(models[1], few)
    states = [jax.tree.leaves(nnx.state(model)) for model in models]
    for one, other in zip(*states, strict=True):
        np.testing.assert_array_equal(one, other)
    with pytest.raises(UserError, match="missing blocks.2.lora.b"):
        load_noah(ViT(CONFIG, SIZES, rngs=nnx.Rngs(0)), few)
    with pytest.raises(UserError, match="12 problems") as error:  # NOAH has no parallel adapter
        load_noah(ViT(CONFIG, SIZES | {"parallel": 2}, rngs=nnx.Rngs(0)), tensors)
    assert "missing blocks.2.parallel.up [2, 32]" in str(error.value)
