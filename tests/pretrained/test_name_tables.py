"""Every family of backbones against `transformers`, from files in every layout that it comes in."""

import re

import jax
import numpy as np
import pytest
import safetensors.numpy
import torch
import transformers
from flax import nnx

from noah_jax import pretrained
from noah_jax.errors import UserError
from noah_jax.pretrained.name_tables import HUGGING_FACE, TIMM, rename
from noah_jax.pretrained.weights import convert
from noah_jax.vit import ViT, ViTConfig
from tests.helpers import damage

NO_PROMPTS = {"vpt": 0, "lora": 0, "adapter": 0}
SHAPE = dict(
    hidden_size=32, num_hidden_layers=2, num_attention_heads=4, patch_size=8, image_size=32
)
MLP = dict(intermediate_size=128)
REGISTERS = dict(registers=4, antialias=True)
CLIP = dict(pre_norm=True, quick_gelu=True, epsilon=1e-5)

FAMILIES = {  # their model; what differs from a plain ViT in ours; layouts beside theirs
    "vit": (  # DINO's files too
        lambda: transformers.ViTModel(transformers.ViTConfig(**SHAPE, **MLP)),
        {},
        ["timm"],
    ),
    "deit": (  # the distilled one; all others are "vit"
        lambda: transformers.DeiTModel(transformers.DeiTConfig(**SHAPE, **MLP)),
        dict(registers=1),
        ["timm"],
    ),
    "dinov2": (
        lambda: transformers.Dinov2Model(transformers.Dinov2Config(**SHAPE)),
        {},
        ["timm"],
    ),
    "dinov2 with registers": (
        lambda: transformers.Dinov2WithRegistersModel(
            transformers.Dinov2WithRegistersConfig(**SHAPE)
        ),
        REGISTERS,
        ["timm"],
    ),
    "clip": (
        lambda: transformers.CLIPModel(
            transformers.CLIPConfig(
                text_config=dict(hidden_size=16, num_hidden_layers=3, vocab_size=9),
                vision_config=dict(**SHAPE, **MLP),
            )
        ),
        CLIP,
        ["timm", "open_clip"],
    ),
    "mae": (
        lambda: transformers.ViTMAEForPreTraining(
            transformers.ViTMAEConfig(
                **SHAPE,
                **MLP,
                mask_ratio=0.0,
                decoder_hidden_size=16,
                decoder_num_hidden_layers=3,
                decoder_num_attention_heads=2,
            )
        ),
        {},
        ["timm"],
    ),
}


def _save(model, folder):
    """Every parameter random, those that start at zero or one included, in their own format."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
    model.eval().save_pretrained(folder)
    return folder / "model.safetensors"


def _class_token(model, images):
    """Theirs, after the last layer norm."""
    pixels = torch.tensor(images.transpose(0, 3, 1, 2))
    sizes = dict(interpolate_pos_encoding=True)
    with torch.no_grad():
        if isinstance(model, transformers.CLIPModel):
            return model.vision_model(pixels, **sizes).pooler_output.numpy()
        if isinstance(model, transformers.ViTMAEForPreTraining):
            patches = (images.shape[1] // 8) ** 2
            noise = torch.arange(patches).expand(len(images), patches)  # no patch changes its place
            return model.vit(pixels, noise=noise, **sizes).last_hidden_state[:, 0].numpy()
        if "Dinov2" in type(model).__name__:  # interpolates without being told
            return model(pixels).last_hidden_state[:, 0].numpy()
        return model(pixels, **sizes).last_hidden_state[:, 0].numpy()


_TO_TIMM = {
    r"^(vit|vision_model)\.": "",
    r"^(text_model|decoder|pooler)\..*|^\w+_projection.*|^logit_scale": None,
    r"^embeddings\.(cls_token|class_embedding)": "cls_token",
    r"^embeddings\.(position_embeddings|position_embedding\.weight)": "pos_embed",
    r"^embeddings\.(patch_embeddings\.projection|patch_embedding)": "patch_embed.proj",
    r"^embeddings\.register_tokens": "reg_token",
    r"^embeddings\.distillation_token": "dist_token",
    r"^embeddings\.mask_token": None,
    r"^pre_layrnorm": "norm_pre",
    r"^(post_)?layernorm": "norm",
    r"^encoder\.layers?": "blocks",
    r"layernorm_before|layer_norm1": "norm1",
    r"layernorm_after|layer_norm2": "norm2",
    r"attention\.output\.dense|self_attn\.out_proj": "attn.proj",
    r"intermediate\.dense": "mlp.fc1",
    r"output\.dense": "mlp.fc2",
    r"layer_scale(\d)\.lambda1": r"ls\1.gamma",
}


def _timm(tensors):
    """The tensors of a Hugging Face file as timm names and shapes them."""
    renamed, parts = {}, {}
    for name, tensor in tensors.items():
        for pattern, replacement in _TO_TIMM.items():
            if replacement is None and re.search(pattern, name):
                break
            name = re.sub(pattern, replacement or "", name)
        else:
            if match := re.search(r"(attention\.attention|self_attn)\.([qkv])\w*\.(\w+)", name):
                block = f"{name[: match.start()]}attn.qkv.{match[3]}"
                parts.setdefault(block, {})[match[2]] = tensor
            else:
                renamed[name] = tensor
    renamed |= {name: np.concatenate([qkv[part] for part in "qkv"]) for name, qkv in parts.items()}
    renamed["cls_token"] = renamed["cls_token"].reshape(1, 1, -1)
    renamed["pos_embed"] = renamed["pos_embed"].reshape(1, -1, renamed["cls_token"].size)
    if "reg_token" in renamed:  # timm has no position for the class token here
        renamed["cls_token"] = renamed["cls_token"] + renamed["pos_embed"][:, :1]
        renamed["pos_embed"] = renamed["pos_embed"][:, 1:]
    return renamed


def _open_clip(tensors):
    """A CLIP of Hugging Face as OpenCLIP names and shapes it."""
    names = {
        "cls_token": "class_embedding",
        "pos_embed": "positional_embedding",
        "patch_embed.proj": "conv1",
        "norm_pre": "ln_pre",
        "norm1": "ln_1",
        "norm2": "ln_2",
        "attn.qkv.": "attn.in_proj_",
        "attn.proj": "attn.out_proj",
        "mlp.fc1": "mlp.c_fc",
        "mlp.fc2": "mlp.c_proj",
        "blocks": "transformer.resblocks",
    }
    renamed = {}
    for name, tensor in _timm(tensors).items():
        for old, new in names.items():
            name = name.replace(old, new)
        renamed["visual." + re.sub(r"^norm\b", "ln_post", name)] = tensor
    for name in ("class_embedding", "positional_embedding"):
        renamed[f"visual.{name}"] = renamed[f"visual.{name}"].squeeze()
    text = {"logit_scale": 2.0, "visual.proj": np.eye(32), "transformer.resblocks.2.ln_1.bias": 0.0}
    return renamed | {name: np.float32(x) for name, x in text.items()}


@pytest.mark.parametrize("family", FAMILIES)
def test_equals_transformers(family, tmp_path):
    """All layouts are compared, at the size of the weights, a larger and a smaller one."""
    build, differences, layouts = FAMILIES[family]
    theirs = build()
    files = {"transformers": _save(theirs, tmp_path)}
    tensors = safetensors.numpy.load_file(files["transformers"])
    for layout in layouts:
        files[layout] = tmp_path / f"{layout}.safetensors"
        converted = {"timm": _timm, "open_clip": _open_clip}[layout](tensors)
        safetensors.numpy.save_file(
            {name: np.ascontiguousarray(x) for name, x in converted.items()}, files[layout]
        )
    rng = np.random.default_rng(0)
    for image_size in (32, 48, 16):
        config = ViTConfig(32, 2, 4, 8, image_size=image_size, num_classes=2, **differences)
        images = rng.normal(size=(2, image_size, image_size, 3)).astype(np.float32)
        expected = _class_token(theirs, images)
        ours = ViT(config, NO_PROMPTS, rngs=nnx.Rngs(0))
        graphdef, _ = nnx.split(ours)

        @jax.jit
        def class_token(state, images, graphdef=graphdef):
            model = nnx.merge(graphdef, state)
            return model.norm(model.features(images, np.zeros((2, 3), np.int32))[:, 0])

        for layout, file in files.items():
            pretrained.load(ours, file)
            result = class_token(nnx.state(ours), images)
            np.testing.assert_allclose(result, expected, atol=1e-4, err_msg=layout)
    assert np.abs(expected).max() > 0.5


@pytest.mark.parametrize(
    ("family", "differences", "complaints"),
    [
        (
            "clip",
            {},
            [
                "missing vision_model.embeddings.patch_embedding.bias [32]",
                "unexpected vision_model.pre_layrnorm.bias [32]",
                "unexpected vision_model.pre_layrnorm.weight [32]",
            ],
        ),
        (
            "vit",
            CLIP,
            [
                "missing norm_pre.bias [32]",
                "missing norm_pre.scale [32]",
                "unexpected embeddings.patch_embeddings.projection.bias [32]",
            ],
        ),
        ("dinov2 with registers", {}, ["unexpected embeddings.register_tokens [1, 4, 32]"]),
        (
            "deit",
            REGISTERS,
            [
                "embeddings.distillation_token with embeddings.position_embeddings is "
                "[1, 1, 32], expected [1, 4, 32]"
            ],
        ),
    ],
)
def test_a_file_of_another_family_does_not_fit(family, differences, complaints, tmp_path):
    file = _save(FAMILIES[family][0](), tmp_path)
    config = ViTConfig(32, 2, 4, 8, image_size=32, **differences)
    with pytest.raises(UserError) as error:
        pretrained.backbone(config, file)
    assert [line.strip() for line in str(error.value).splitlines()[1:]] == complaints


@pytest.mark.parametrize("table", [TIMM, HUGGING_FACE])
def test_a_table_serves_both_ways(table):
    """Renamed tensors read back to the bit, and none is left out in silence."""

    def read(tensors):
        return convert({name: lambda x=x: x for name, x in tensors.items()}, "the test")

    ours = read(damage.tensors("safetensors"))
    again = read(rename(table, ours))
    assert again.keys() == ours.keys() and len(ours) == 6 + 2 * 12
    for name, tensor in ours.items():
        np.testing.assert_array_equal(again[name], tensor)
    with pytest.raises(KeyError, match="lora"):
        rename(table, {**ours, "blocks.0.lora.a": np.zeros((8, 2))})
