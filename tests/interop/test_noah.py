"""NOAH's own files: subnet YAMLs, and its state dict against a plain sliced model in PyTorch."""

import json
import re

import jax
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from flax import nnx

from noah_jax.errors import UserError
from noah_jax.interop import load_noah, read_genome, read_noah_yaml
from noah_jax.vit import ViT, ViTConfig

CONFIG = ViTConfig(width=32, depth=3, heads=4, patch_size=8, image_size=16, num_classes=5)
SIZES = {"vpt": 4, "lora": 3, "adapter": 5}
SUPERNET_SIZE = 6  # of every module in NOAH's checkpoint

UNIX = """\
MODEL_NAME: vit_base_patch16_224_in21k
SUPERNET:
  DEPTH: 3
  PREFIX_DIM: 100
RETRAIN:
  PREFIX_DIM:
    - 0
    - 0
    - 0
  VISUAL_PROMPT_DIM:
    - 10
    - 5
    - 0
  LORA_DIM:
    - 1
    - 10
    - 5
  ADAPTER_DIM:
    - 0
    - 0
    - 50
"""
DOS = (
    "RETRAIN: \n  LORA_DIM: \n    - 8\n    - 0\n  ADAPTER_DIM: [0, 1]\n  VISUAL_PROMPT_DIM: [2, 3]"
)


# --- Genomes -------------------------------------------------------------------------------------


def test_reads_subnet_yamls(tmp_path):
    (tmp_path / "unix.yaml").write_text(UNIX)
    genome = read_noah_yaml(tmp_path / "unix.yaml")
    assert genome.dtype == np.int32
    assert genome.tolist() == [[10, 1, 0], [5, 10, 0], [0, 5, 50]]
    (tmp_path / "dos.yml").write_bytes(DOS.replace("\n", "\r\n").encode())
    assert read_noah_yaml(str(tmp_path / "dos.yml")).tolist() == [[2, 8, 0], [3, 0, 1]]


@pytest.mark.parametrize(
    ("old", "new", "messages"),
    [
        ("RETRAIN:", "SEARCH_SPACE:", ["no section RETRAIN"]),
        ("- 50", "- -1", ["RETRAIN.ADAPTER_DIM: expected a list of sizes"]),
        ("- 50", "- 5.0", ["RETRAIN.ADAPTER_DIM"]),
        ("- 50", "- true", ["RETRAIN.ADAPTER_DIM"]),
        ("- 50", "- 10001", ["RETRAIN.ADAPTER_DIM: expected a list of sizes 0 … 10000"]),
        ("    - 50\n", "", ["RETRAIN.ADAPTER_DIM 2", "RETRAIN.LORA_DIM 3"]),
        ("- 0\n  VISUAL", "- 7\n  VISUAL", ["RETRAIN.PREFIX_DIM", "prefix tuning"]),
        ("LORA_DIM:\n    - 1\n", "LORA: 1\n  L:\n", ["RETRAIN.LORA_DIM: expected a list"]),
        ("vit_base", "!!python/object/apply:os.getcwd [] #", ["cannot read a genome"]),
        ("MODEL_NAME:", "M: !!timestamp 2001-01-01 #", ["it has a tag 'tag:yaml.org,2002:timest"]),
        ("- 50", "- !!int 50", ["it has a tag 'tag:yaml.org,2002:int'"]),
        ("- 50", "- ! 50", ["it has a tag '!'"]),
        ("- 50", "- !%1b[2J 50", [r"it has a tag '!\x1b[2J'"]),
        ("- 50", "- &a 50", ["it has an anchor or alias a"]),
        ("RETRAIN:", "RETRAIN: &a", ["it has an anchor or alias a"]),
        ("- 50", "- *a", ["it has an anchor or alias a"]),
        ("MODEL_NAME:", "<<: {A: 1}\nM:", ["it has a merge key <<"]),
        ("MODEL_NAME:", "M: " + "[" * 11 + "]" * 11 + " #", ["nested more than 10 deep"]),
        ("MODEL_NAME:", "M: " + "[" * 5000, ["nested more than 10 deep"]),
        ("MODEL_NAME:", "- " * 5000, ["nested more than 10 deep"]),
        ("MODEL_NAME:", "? " * 5000, ["nested more than 10 deep"]),
        ("MODEL_NAME:", "M: 1" + ":1" * 1000 + ".5 #", ["cannot read a genome"]),
        ("MODEL_NAME:", "M: 2001-99-99 #", ["cannot read a genome"]),
        ("MODEL_NAME:", "M: " + "9" * 5000 + " #", ["cannot read a genome"]),
        ("MODEL_NAME:", "M: = #", ["cannot read a genome"]),
        ("MODEL_NAME:", "#" * (1 << 16) + "\nM:", ["more than 65536 bytes"]),
        ("MODEL_NAME", "\x00", ["cannot read a genome"]),
    ],
)
def test_refuses_other_yamls(tmp_path, old, new, messages):
    assert UNIX.count(old) >= 1
    path = tmp_path / "odd.yaml"
    path.write_text(UNIX.replace(old, new))
    with pytest.raises(UserError) as error:
        read_noah_yaml(path)
    assert all(message in str(error.value) for message in [str(path), *messages])


def test_all_complaints_about_a_yaml_in_one_message(tmp_path):
    path = tmp_path / "empty.yaml"
    path.write_text("RETRAIN: {LORA_DIM: 8, ADAPTER_DIM: [], PREFIX_DIM: [1]}")
    with pytest.raises(UserError) as error:
        read_noah_yaml(path)
    named = re.findall(r"RETRAIN\.(\w+)", str(error.value))
    assert named == ["VISUAL_PROMPT_DIM", "LORA_DIM", "ADAPTER_DIM", "PREFIX_DIM"]
    with pytest.raises(UserError, match="no_such.yaml"):
        read_noah_yaml(tmp_path / "no_such.yaml")


def test_a_genome_comes_from_json_or_yaml(tmp_path):
    """That a run takes one is tested with the real command."""
    lists = {"VISUAL_PROMPT_DIM": [5] * 12, "LORA_DIM": [0] * 12, "ADAPTER_DIM": [1] * 12}
    yaml = "RETRAIN:\n" + "".join(f"  {key}: {row}\n" for key, row in lists.items())
    rows = [[5, 0, 1]] * 12
    for name, text in {
        "subnet.yaml": yaml,
        "best.json": json.dumps({"genome": rows, "params": 7}),
        "bare.json": json.dumps(rows),
    }.items():
        (tmp_path / name).write_text(text)
        assert read_genome(tmp_path / name, 12).tolist() == rows
        with pytest.raises(UserError, match=rf"{name} .*\[12, 3\].*24 rows"):
            read_genome(tmp_path / name, 24)


def test_a_genome_may_have_a_parallel_adapter(tmp_path):
    rows = [[5, 0, 1, 8], [0, 10000, 0, 10000]]
    (tmp_path / "g.json").write_text(json.dumps({"genome": rows}))
    genome = read_genome(tmp_path / "g.json", 2)
    assert genome.tolist() == rows and genome.dtype == np.int32
    with pytest.raises(UserError, match=r"\[2, 4\].*3 rows.* or 4 .*'parallel'"):
        read_genome(tmp_path / "g.json", 3)


@pytest.mark.parametrize(
    "text",
    [
        "[[5, 0, 1.0], [5, 0, 1]]",
        "[[5, 0, true], [5, 0, 1]]",
        "[[5, 0, NaN], [5, 0, 1]]",
        "[[5, 0, -1], [5, 0, 1]]",
        "[[5, 0, 10001], [5, 0, 1]]",
        "[[5, 0, 4294967296], [5, 0, 1]]",  # would be 0 in 32 bits
        f"[[5, 0, 1{'0' * 5000}], [5, 0, 1]]",
        '[[5, 0, "1"], [5, 0, 1]]',
        "[[5, 0, [1]], [5, 0, 1]]",
        "[[5, 0], [5, 0]]",
        "[[5, 0, 1], [5, 0]]",
        "[[5, 0, 1, 8, 0], [5, 0, 1, 8, 0]]",
        "[[5, 0, 1, 8], [5, 0, 1]]",
        "[[5, 0, 1, -1], [5, 0, 1, 8]]",
        "[[5, 0, 1, 8.0], [5, 0, 1, 8]]",
        "[[5, 0, 1, true], [5, 0, 1, 8]]",
        "[[5, 0, 1, null], [5, 0, 1, 8]]",
        "[[5, 0, 1]]",
        "[5, 0, 1]",
        "[]",
        "7",
        "Infinity",
        '{"genome": {"genome": 1}}',
        '{"Genome": [[5, 0, 1], [5, 0, 1]]}',
        '{"genome": [[5, 0, 1], [5, 0, 1]]',
        "",
        "\x00",
    ],
)
def test_refuses_other_json(tmp_path, text):
    path = tmp_path / "odd.json"
    path.write_text(text)
    with pytest.raises(UserError, match="no genome in .*odd.json") as error:
        read_genome(path, 2)
    assert len(str(error.value)) < 600


def test_json_with_more_in_it_is_read(tmp_path):
    """Not-a-numbers elsewhere, of two equal keys the last, a byte-order mark."""
    text = '{"loss": NaN, "genome": 7, "genome": [[5, 0, 1], [0, 10000, 0]]}'
    (tmp_path / "g.json").write_text(text, encoding="utf-8-sig")
    assert read_genome(tmp_path / "g.json", 2).tolist() == [[5, 0, 1], [0, 10000, 0]]


# --- Weights -------------------------------------------------------------------------------------


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
        "missing blocks.2.fc1.bias [128]",
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
