"""Every family of backbones against `transformers`, from files in every layout that it comes in."""

import re

import jax
import numpy as np
import pytest
import safetensors.numpy
import safetensors.torch
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
DINOV3 = dict(registers=4, rope=True, epsilon=1e-5)
TEXT = dict(hidden_size=16, num_hidden_layers=3, num_attention_heads=2, vocab_size=9)
TOWER = SHAPE | dict(intermediate_size=100)  # as SigLIP's, not four times the width
SIGLIP = dict(pooling="attention", tanh_gelu=True, mlp_width=100)


def _dinov3(**others):
    return transformers.DINOv3ViTModel(
        transformers.DINOv3ViTConfig(**SHAPE | MLP | dict(num_register_tokens=4) | others)
    )


def _siglip_tower(**others):
    return transformers.SiglipVisionModel(transformers.SiglipVisionConfig(**TOWER, **others))


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
        ["timm", "deit3"],
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
                text_config=TEXT,
                vision_config=dict(**SHAPE, **MLP),
            )
        ),
        CLIP,
        ["timm", "open_clip"],
    ),
    "dinov3": (_dinov3, DINOV3, []),
    "dinov3 with wider heads": (
        lambda: _dinov3(hidden_size=48, num_attention_heads=3),
        DINOV3 | dict(width=48, heads=3, mlp_width=128),
        [],
    ),
    "siglip": (  # SigLIP 2 of one resolution has the same classes
        lambda: transformers.SiglipModel(
            transformers.SiglipConfig(
                text_config=TEXT | dict(bos_token_id=0, eos_token_id=1), vision_config=TOWER
            )
        ),
        SIGLIP,
        [],
    ),
    "siglip's tower": (_siglip_tower, SIGLIP, []),
    "siglip's tower without pooling head": (
        lambda: _siglip_tower(vision_use_head=False),
        SIGLIP | dict(pooling="mean"),
        [],
    ),
    "i-jepa": (
        lambda: transformers.IJepaModel(transformers.IJepaConfig(**SHAPE, **MLP)),
        dict(pooling="mean"),
        [],
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


POOL = {  # the tensors of SigLIP's pooling head
    "attention.in_proj_bias": [96],
    "attention.in_proj_weight": [96, 32],
    "attention.out_proj.bias": [32],
    "attention.out_proj.weight": [32, 32],
    "layernorm.bias": [32],
    "layernorm.weight": [32],
    "mlp.fc1.bias": [100],
    "mlp.fc1.weight": [100, 32],
    "mlp.fc2.bias": [32],
    "mlp.fc2.weight": [32, 100],
    "probe": [1, 1, 32],
}


def _save(model, folder):
    """Every parameter random, those that start at zero or one included, in their own format."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
    model.eval().save_pretrained(folder)
    return folder / "model.safetensors"


def _representation(model, images):
    """Theirs: the class token after the last layer norm, or what the patches are pooled to."""
    pixels = torch.tensor(images.transpose(0, 3, 1, 2))
    sizes = dict(interpolate_pos_encoding=True)
    with torch.no_grad():
        if isinstance(model, transformers.CLIPModel | transformers.SiglipModel):
            return model.vision_model(pixels, **sizes).pooler_output.numpy()
        if isinstance(model, transformers.SiglipVisionModel):
            output = model(pixels, **sizes)
            return (output.pooler_output if model.use_head else output[0].mean(1)).numpy()
        if isinstance(model, transformers.ViTMAEForPreTraining):
            patches = (images.shape[1] // 8) ** 2
            noise = torch.arange(patches).expand(len(images), patches)  # no patch changes its place
            return model.vit(pixels, noise=noise, **sizes).last_hidden_state[:, 0].numpy()
        if "dino" in type(model).__name__.lower():  # interpolates without being told
            return model(pixels).last_hidden_state[:, 0].numpy()
        tokens = model(pixels, **sizes).last_hidden_state
        if isinstance(model, transformers.IJepaModel):
            return tokens.mean(1).numpy()
        return tokens[:, 0].numpy()


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
    return _deit3(renamed) if "reg_token" in renamed else renamed


def _deit3(tensors):
    """The tensors of timm's layout with the class token's position in the token itself."""
    token, table = tensors["cls_token"], tensors["pos_embed"]
    return tensors | {"cls_token": token + table[:, :1], "pos_embed": table[:, 1:]}


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


_LAYOUTS = {
    "timm": _timm,
    "deit3": lambda tensors: _deit3(_timm(tensors)),
    "open_clip": _open_clip,
}


@pytest.mark.parametrize("family", FAMILIES)
def test_equals_transformers(family, tmp_path):
    """All layouts are compared, at the size of the weights, a larger and a smaller one."""
    build, differences, layouts = FAMILIES[family]
    theirs = build()
    files = {"transformers": _save(theirs, tmp_path)}
    tensors = safetensors.numpy.load_file(files["transformers"])
    for layout in layouts:
        files[layout] = tmp_path / f"{layout}.safetensors"
        converted = _LAYOUTS[layout](tensors)
        safetensors.numpy.save_file(
            {name: np.ascontiguousarray(x) for name, x in converted.items()}, files[layout]
        )
    rng = np.random.default_rng(0)
    for image_size in (32, 48, 16):
        shape = dict(width=32, depth=2, heads=4, patch_size=8, image_size=image_size)
        config = ViTConfig(**shape | differences, num_classes=2)
        images = rng.normal(size=(2, image_size, image_size, 3)).astype(np.float32)
        expected = _representation(theirs, images)
        ours = ViT(config, NO_PROMPTS, rngs=nnx.Rngs(0))
        graphdef, _ = nnx.split(ours)

        @jax.jit
        def representation(state, images, graphdef=graphdef):
            model = nnx.merge(graphdef, state)
            return model.representation(model.features(images, np.zeros((2, 3), np.int32)))

        for layout, file in files.items():
            pretrained.load(ours, file)
            result = representation(nnx.state(ours), images)
            np.testing.assert_allclose(result, expected, atol=1e-4, err_msg=layout)
    assert np.abs(expected).max() > 0.5


@pytest.mark.parametrize("family", ["vit", "mae", "dinov2", "dinov2 with registers", "dinov3"])
def test_the_names_of_transformers_in_memory(family, tmp_path):
    """`torch.save(model.state_dict())` has others than save_pretrained, from version 5 on."""
    build, differences, _ = FAMILIES[family]
    theirs = build()
    file = _save(theirs, tmp_path)
    state = {name: x.contiguous() for name, x in theirs.state_dict().items()}
    safetensors.torch.save_file(state, tmp_path / "memory.safetensors")
    assert state.keys() != safetensors.numpy.load_file(file).keys()
    shape = dict(width=32, depth=2, heads=4, patch_size=8, image_size=32)
    config = ViTConfig(**shape | differences)
    written, memory = (
        dict(nnx.to_flat_state(pretrained.backbone(config, str(path))))
        for path in (file, tmp_path / "memory.safetensors")
    )
    for path, value in written.items():
        np.testing.assert_array_equal(memory[path][...], value[...])


_ALSO_REFUSED = {  # families that no config stands for
    "dinov3 with a gated mlp": lambda: _dinov3(use_gated_mlp=True),
    "siglip 2 of any resolution": lambda: transformers.Siglip2VisionModel(
        transformers.Siglip2VisionConfig(
            **{name: x for name, x in TOWER.items() if name != "image_size"}, num_patches=16
        )
    ),
}


@pytest.mark.parametrize(
    ("family", "differences", "complaints"),
    [
        (
            "dinov3 with a gated mlp",
            DINOV3,
            [
                f"unexpected layer.{i}.mlp.gate_proj.{part}"
                for i in range(2)
                for part in ("bias [128]", "weight [128, 32]")
            ],
        ),
        (
            "siglip 2 of any resolution",
            SIGLIP,
            ["embeddings.patch_embedding.weight is [32, 192], expected [32, 3, 8, 8]"],
        ),
        (
            "siglip's tower without pooling head",
            SIGLIP,
            [  # from some, two of ours are made, so that the shape is not known
                f"missing head.{name} {shape}".removesuffix(f" {shape}" * ("in_proj" in name))
                for name, shape in POOL.items()
            ],
        ),
        (
            "siglip's tower",
            SIGLIP | dict(pooling="mean"),
            [f"unexpected head.{name} {shape}" for name, shape in POOL.items()],
        ),
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
    build = _ALSO_REFUSED.get(family) or FAMILIES[family][0]
    file = _save(build(), tmp_path)
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
