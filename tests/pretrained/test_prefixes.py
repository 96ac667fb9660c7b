"""Prefixes of wrappers, copies that training makes of a model, heads: what is read and said."""

import re

import numpy as np
import pytest
import safetensors.numpy
from flax import nnx

from noah_jax import pretrained
from noah_jax.errors import UserError
from noah_jax.vit import ViT
from tests.helpers import damage

NPZ, TIMM = damage.tensors("npz stored"), damage.tensors("safetensors")


def _prefixed(prefix, tensors, factor=1.0):
    return {prefix + name: factor * x for name, x in tensors.items()}


def _read(tensors, folder):
    """The backbone in a file of these tensors, by name, and the notes."""
    path = folder / "w.safetensors"
    safetensors.numpy.save_file({name: np.asarray(x) for name, x in tensors.items()}, path)
    state, notes = pretrained.backbone_and_notes(damage.VIT, str(path))
    return {".".join(map(str, name)): x for name, x in nnx.to_flat_state(state)}, " ".join(notes)


def _equal(one, other):
    return all(np.array_equal(one[name].get_value(), other[name].get_value()) for name in one)


@pytest.mark.parametrize("tensors", [TIMM, NPZ], ids=["timm", "google"])
@pytest.mark.parametrize(
    "prefix",
    ["module.", "model.", "backbone.", "encoder.", "teacher.backbone.", "model.encoder.vit."]
    + ["state_dict.module.net_0.", "module._orig_mod.", "params/", "a.b/c."],
)
def test_a_prefix_is_left_out_and_said(prefix, tensors, tmp_path):
    plain, silence = _read(tensors, tmp_path)
    found, notes = _read(_prefixed(prefix, tensors), tmp_path)
    assert silence == "" and _equal(plain, found)
    assert f"{prefix.replace('_orig_mod.', '')} before the names of the tensors" in notes


def test_a_wrapper_of_pytorch_may_be_anywhere_in_a_name(tmp_path):
    plain, _ = _read(TIMM, tmp_path)
    wrapped = {
        re.sub(r"^blocks\.(\d)", r"blocks.\1._checkpoint_wrapped_module", name): x
        for name, x in _prefixed("_fsdp_wrapped_module.", TIMM).items()
    }
    wrapped = {
        re.sub(r"blocks\.(\d)", r"blocks.\1._orig_mod", name): x for name, x in wrapped.items()
    }
    found, notes = _read(wrapped, tmp_path)
    assert _equal(plain, found) and notes == ""


@pytest.mark.parametrize(
    ("used", "other"),
    [
        ("teacher.backbone.", "student.backbone."),
        ("module.momentum_encoder.", "module.base_encoder."),
        ("state_dict_ema.", "state_dict."),
        ("ema.", ""),
        ("target_encoder.module.", "encoder.module."),
        ("backbone_momentum.", "backbone."),
    ],
)
def test_of_two_copies_the_average_is_read_in_any_order(used, other, tmp_path):
    beside = {"queue": np.ones(3), "optimizer.state.0.exp_avg": np.ones(3)}
    plain, _ = _read(TIMM, tmp_path)
    both = [_prefixed(used, TIMM), _prefixed(other, TIMM, 2.0)]
    for first, second in (both, both[::-1]):
        found, notes = _read(first | second | beside, tmp_path)
        assert _equal(plain, found)
        assert "holds 2 backbones" in notes and f"{used} is used, the moving average" in notes
        assert "queue" in notes and "optimizer" in notes


def test_copies_that_nothing_tells_apart_are_refused_with_a_command(tmp_path):
    with pytest.raises(UserError) as error:
        _read(_prefixed("left.", TIMM) | _prefixed("right.", TIMM), tmp_path)
    assert "holds 2 backbones" in str(error.value)
    assert "begin with left., right.: keep one" in str(error.value)
    assert f"convert {tmp_path}/w.safetensors NEW.safetensors --keep=right.`" in str(error.value)


HEADS = [
    "fc",
    "classifier",
    "mlp_head.1",
    "projector.0",
    "predictor.layers.2",
    "linear_head_norm",
    "my_output",
    "final_layer",
    "logits",
    "decoder_embed",
    "decoder_blocks.0.norm1",
    "last_layer",
]


@pytest.mark.parametrize("prefix", ["", "module.base_encoder."])
def test_heads_of_any_name_are_ignored_and_said(prefix, tmp_path):
    plain, _ = _read(TIMM, tmp_path)
    heads = {f"{prefix}{name}.weight": np.ones((3, 8), np.float32) for name in HEADS}
    found, notes = _read(_prefixed(prefix, TIMM) | heads, tmp_path)
    assert _equal(plain, found) and "not read, as no part of the backbone: " in notes
    for name in ("fc", "classifier", "decoder_embed", "mlp_head"):
        assert prefix + name.split(".")[0] in notes


@pytest.mark.parametrize(
    "name",
    [
        "blocks.0.attn.rel_pos",
        "rel_pos_bias.table",
        "rope.freqs",
        "prompt_embeddings",
        "stem.weight",
    ]
    + [
        "blocks.1.adapter.weight",
        "patch_embed.norm.weight",
        "pos_embed_2",
        "my_tokens",
        "norm_post",
    ],
)
def test_what_could_change_the_features_is_no_head(name, tmp_path):
    with pytest.raises(UserError, match=f"1 problems.*\n  unexpected {re.escape(name)}"):
        _read(TIMM | {name: np.ones(3)}, tmp_path)


def test_fc_norm_instead_of_norm_is_said(tmp_path):
    tensors = {re.sub("^norm", "fc_norm", name): x for name, x in TIMM.items()}
    with pytest.raises(UserError) as error:
        _read(_prefixed("model.", tensors), tmp_path)
    assert "it has model.fc_norm instead of model.norm: its model averages" in str(error.value)
    assert "\n  missing model.norm.bias [8]\n  missing model.norm.weight [8]" in str(error.value)
    _read(TIMM | {"fc_norm.weight": np.ones(8)}, tmp_path)  # beside norm it changes nothing


@pytest.mark.parametrize("prefix", ["", "module.encoder."])
def test_mismatches_have_the_names_and_shapes_of_the_file(prefix, tmp_path):
    tensors = _prefixed(prefix, TIMM)
    tensors[f"{prefix}blocks.0.mlp.fc1.weight"] = np.ones((31, 8), np.float32)
    del tensors[f"{prefix}blocks.1.attn.qkv.bias"]
    with pytest.raises(UserError) as error:
        _read(tensors, tmp_path)
    assert [line.strip() for line in str(error.value).splitlines()[1:]] == [
        f"missing {prefix}blocks.1.attn.qkv.bias [24]",
        f"{prefix}blocks.0.mlp.fc1.weight is [31, 8], expected [32, 8]",
    ][:: 1 if prefix else -1]


def test_of_several_tensors_in_one_only_those_that_are_wrong_are_listed(tmp_path):
    tensors = dict(NPZ)
    name = "Transformer/encoderblock_1/MultiHeadDotProductAttention_1"
    del tensors[f"{name}/key/bias"], tensors[f"{name}/out/kernel"]
    tensors["embedding/kernel"] = np.ones((2, 2, 3, 9), np.float32)
    with pytest.raises(UserError) as error:
        _read(tensors, tmp_path)
    lines = str(error.value).splitlines()[1:]
    assert [line.strip() for line in lines] == [
        "embedding/kernel is [12, 9], expected [12, 8]",
        f"missing {name}/key/bias",  # the number of heads, and so its shape, is not known
        f"missing {name}/out/kernel",
    ]


def test_at_most_twenty_mismatches_and_the_shape_that_would_fit(ti16):
    config = type(damage.VIT).named("vit_s16", image_size=48)
    with pytest.raises(UserError) as error:
        pretrained.backbone(config, str(ti16))
    lines = str(error.value).splitlines()
    assert len(lines) == 22 and re.fullmatch(r"  … and \d+ more", lines[-1])
    assert "is that of a vit_ti16 or vit_ti16_moco: --config.backbone=vit_ti16" in lines[0]


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("base_model.model.layer.0.query.lora_A.weight", "LoRA's matrices alone"),
        ("encoder.layers.encoder_layer_0.ln_1.bias", "a ViT of torchvision"),
        ("layer1.0.conv1.weight", "a convolutional network"),
        ("layers.0.blocks.0.attn.relative_position_bias_table", "a Swin or BEiT"),
        ("encoder.layer.7.output.dense.bias", "may be a part of a model"),
        ("blocks.3.mlp.fc1.weight", "may be a part of a model"),
        ("weird", "have no known layout: expected one of the tensors embedding/kernel"),
    ],
)
def test_tensors_of_something_else(name, what, tmp_path):
    with pytest.raises(UserError, match=what):
        _read({name: np.ones(3)}, tmp_path)


def test_load_warns(tmp_path):
    safetensors.numpy.save_file(_prefixed("module.", TIMM), tmp_path / "w.safetensors")
    model = ViT(damage.VIT, {}, rngs=nnx.Rngs(0))
    with pytest.warns(UserWarning, match="module. before the names"):
        pretrained.load(model, str(tmp_path / "w.safetensors"))
