"""Layouts of weight files: how their tensors map to ours.

Every layout has a name table. For each of our tensors it has the names of theirs, how ours is made
from theirs, and how theirs are made from ours. Our names are those of the ViT's parameters, with an
entry for each block: `blocks.3.qkv.kernel`. `blocks.3.proj.layer_scale` is a factor on the outputs
of `proj`.
"""

import dataclasses
import functools
import math
import re
from collections.abc import Callable, Mapping

import numpy as np


@dataclasses.dataclass(frozen=True)
class _Entry:
    """One of our tensors, and the tensors of a layout that hold the same numbers.

    Attributes:
      names: the names of theirs.
      ours: makes ours from theirs.
      theirs: makes the list of theirs from ours; None in layouts that are only read.
    """

    names: tuple[str, ...]
    ours: Callable[..., np.ndarray]
    theirs: Callable[[np.ndarray], list[np.ndarray]] | None = None


Table = Mapping[str, _Entry]


def rename(table: Table, tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Names and shapes our tensors as a layout does; `weights.convert` reads them again.

    Raises:
      KeyError: the layout has no place for one of the tensors.
    """
    renamed: dict[str, np.ndarray] = {}
    for name, tensor in tensors.items():
        block = re.match(r"blocks\.(\d+)\.", name)
        number = block[1] if block else ""
        entry = table[re.sub(r"^blocks\.\d+", "blocks.{i}", name)]
        if entry.theirs is None:  # the layout is only read
            raise KeyError(name)
        names = (theirs.replace("{i}", number) for theirs in entry.names)
        renamed |= zip(names, entry.theirs(tensor), strict=True)
    return renamed


def _columns(*parts):  # [in, out] each -> [in, all out]
    return np.concatenate(parts, axis=1)


def _linear(*parts):  # [out in] each -> [in, all out]
    return _columns(*(part.T for part in parts))


def _unlinear(count, x):
    return np.split(x.T, count)


def _join(*parts):
    return np.concatenate([part.reshape(-1) for part in parts])


def _unjoin(count, x):
    return np.split(x, count)


def _conv(x):  # [out 3 p p] -> [p·p·3, out]
    return x.transpose(2, 3, 1, 0).reshape(-1, x.shape[0])


def _unconv(x):  # [p·p·3, out] -> [out 3 p p]
    side = math.isqrt(len(x) // 3)
    return [x.reshape(side, side, 3, -1).transpose(3, 2, 0, 1)]


def _last(x):  # [..., out] -> [in, out]
    return x.reshape(-1, x.shape[-1])


def _same(names: Mapping[str, str]) -> dict[str, _Entry]:
    return {ours: _Entry((theirs,), lambda x: x, lambda x: [x]) for ours, theirs in names.items()}


def torch_layers(layers: Mapping[str, str | tuple[str, ...]]) -> dict[str, _Entry]:
    """Makes the entries of PyTorch layers, each a weight and a bias.

    Args:
      layers: our layer → theirs, or several of theirs, which lie side by side in ours.
    """
    table = {}
    for ours, theirs in layers.items():
        theirs = (theirs,) if isinstance(theirs, str) else theirs
        weights, biases = (
            tuple(f"{name}.{part}" for name in theirs) for part in ("weight", "bias")
        )
        unjoin, unlinear = (functools.partial(f, len(theirs)) for f in (_unjoin, _unlinear))
        if "norm" in ours:
            table[f"{ours}.scale"] = _Entry(weights, _join, unjoin)
        elif ours == "patch_embed":
            table[f"{ours}.kernel"] = _Entry(weights, _conv, _unconv)
        else:
            table[f"{ours}.kernel"] = _Entry(weights, _linear, unlinear)
        table[f"{ours}.bias"] = _Entry(biases, _join, unjoin)
    return table


def _with_position(token, table):  # [1 1 d], [1 n d] -> [1 1 d]; other shapes would broadcast
    if table.ndim != 3 or token.shape != table[:, 1:2].shape:
        raise ValueError
    return token + table[:, 1:2]


def _distilled(token: str, positions: str) -> dict[str, _Entry]:
    """Makes the entries of DeiT's distillation token: a register, second in the position table."""
    return {
        "register_tokens": _Entry((token, positions), _with_position),
        "pos_embed": _Entry((positions,), lambda table: np.delete(table, 1, axis=1)),
    }


_QKV = ("query", "key", "value")
_BLOCK = "Transformer/encoderblock_{i}/"
_ATTENTION, _MLP = _BLOCK + "MultiHeadDotProductAttention_1/", _BLOCK + "MlpBlock_3/"
_GOOGLE = _same(
    {
        "cls_token": "cls",
        "pos_embed": "Transformer/posembed_input/pos_embedding",
        "patch_embed.bias": "embedding/bias",
        "blocks.{i}.norm1.scale": _BLOCK + "LayerNorm_0/scale",
        "blocks.{i}.norm1.bias": _BLOCK + "LayerNorm_0/bias",
        "blocks.{i}.proj.bias": _ATTENTION + "out/bias",
        "blocks.{i}.norm2.scale": _BLOCK + "LayerNorm_2/scale",
        "blocks.{i}.norm2.bias": _BLOCK + "LayerNorm_2/bias",
        "blocks.{i}.fc1.kernel": _MLP + "Dense_0/kernel",
        "blocks.{i}.fc1.bias": _MLP + "Dense_0/bias",
        "blocks.{i}.fc2.kernel": _MLP + "Dense_1/kernel",
        "blocks.{i}.fc2.bias": _MLP + "Dense_1/bias",
        "norm.scale": "Transformer/encoder_norm/scale",
        "norm.bias": "Transformer/encoder_norm/bias",
    }
) | {
    "patch_embed.kernel": _Entry(("embedding/kernel",), _last),
    "blocks.{i}.qkv.kernel": _Entry(
        tuple(f"{_ATTENTION}{part}/kernel" for part in _QKV),
        lambda *parts: _columns(*(x.reshape(len(x), -1) for x in parts)),
    ),
    "blocks.{i}.qkv.bias": _Entry(tuple(f"{_ATTENTION}{part}/bias" for part in _QKV), _join),
    "blocks.{i}.proj.kernel": _Entry((_ATTENTION + "out/kernel",), _last),
}

TIMM = _same(
    {
        "cls_token": "cls_token",
        "register_tokens": "reg_token",
        "pos_embed": "pos_embed",
        "blocks.{i}.proj.layer_scale": "blocks.{i}.ls1.gamma",
        "blocks.{i}.fc2.layer_scale": "blocks.{i}.ls2.gamma",
    }
) | torch_layers(
    {
        "patch_embed": "patch_embed.proj",
        "norm_pre": "norm_pre",
        "blocks.{i}.norm1": "blocks.{i}.norm1",
        "blocks.{i}.qkv": "blocks.{i}.attn.qkv",
        "blocks.{i}.proj": "blocks.{i}.attn.proj",
        "blocks.{i}.norm2": "blocks.{i}.norm2",
        "blocks.{i}.fc1": "blocks.{i}.mlp.fc1",
        "blocks.{i}.fc2": "blocks.{i}.mlp.fc2",
        "norm": "norm",
    }
)

_LAYER = "encoder.layer.{i}."
HUGGING_FACE = _same(
    {"cls_token": "embeddings.cls_token", "pos_embed": "embeddings.position_embeddings"}
) | torch_layers(
    {
        "patch_embed": "embeddings.patch_embeddings.projection",
        "blocks.{i}.norm1": _LAYER + "layernorm_before",
        "blocks.{i}.qkv": tuple(f"{_LAYER}attention.attention.{part}" for part in _QKV),
        "blocks.{i}.proj": _LAYER + "attention.output.dense",
        "blocks.{i}.norm2": _LAYER + "layernorm_after",
        "blocks.{i}.fc1": _LAYER + "intermediate.dense",
        "blocks.{i}.fc2": _LAYER + "output.dense",
        "norm": "layernorm",
    }
)
_DINOV2 = (
    HUGGING_FACE
    | _same(
        {
            "register_tokens": "embeddings.register_tokens",
            "blocks.{i}.proj.layer_scale": _LAYER + "layer_scale1.lambda1",
            "blocks.{i}.fc2.layer_scale": _LAYER + "layer_scale2.lambda1",
        }
    )
    | torch_layers(
        {
            "blocks.{i}.norm1": _LAYER + "norm1",
            "blocks.{i}.norm2": _LAYER + "norm2",
            "blocks.{i}.fc1": _LAYER + "mlp.fc1",
            "blocks.{i}.fc2": _LAYER + "mlp.fc2",
        }
    )
)


def _dinov3(layer: str) -> Table:
    """Makes the name table of DINOv3, whose blocks are called `layer`."""
    return (
        _same(
            {
                "cls_token": "embeddings.cls_token",
                "register_tokens": "embeddings.register_tokens",
                "blocks.{i}.proj.layer_scale": layer + "layer_scale1.lambda1",
                "blocks.{i}.fc2.layer_scale": layer + "layer_scale2.lambda1",
            }
        )
        | torch_layers(
            {
                "patch_embed": "embeddings.patch_embeddings",
                "blocks.{i}.norm1": layer + "norm1",
                **_projections(layer),
                "blocks.{i}.norm2": layer + "norm2",
                "blocks.{i}.fc1": layer + "mlp.up_proj",
                "blocks.{i}.fc2": layer + "mlp.down_proj",
                "norm": "norm",
            }
        )
        | {
            "blocks.{i}.qkv.bias": _Entry(  # the keys have none
                tuple(f"{layer}attention.{part}_proj.bias" for part in "qv"),
                lambda q, v: _join(q, np.zeros_like(q), v),
            ),
        }
    )


def _projections(layer: str) -> dict[str, str | tuple[str, ...]]:
    return {
        "blocks.{i}.qkv": tuple(f"{layer}attention.{part}_proj" for part in "qkv"),
        "blocks.{i}.proj": layer + "attention.o_proj",
    }


# As transformers 5 calls them in memory, in `state_dict()`.
_IN_MEMORY = HUGGING_FACE | torch_layers(
    {
        "blocks.{i}.norm1": "layers.{i}.layernorm_before",
        **_projections("layers.{i}."),
        "blocks.{i}.norm2": "layers.{i}.layernorm_after",
        "blocks.{i}.fc1": "layers.{i}.mlp.fc1",
        "blocks.{i}.fc2": "layers.{i}.mlp.fc2",
    }
)
_DINOV2_IN_MEMORY = _DINOV2 | torch_layers(_projections(_LAYER))

# An ONNX export of Hugging Face's DINOv2. Its matrices are anonymous; containers.py names them.
_MATRIX = "matrix.{i}."
_ONNX = _DINOV2 | {
    "pos_embed": _Entry(("position.class", "position.grid"), _columns),
    "blocks.{i}.qkv.kernel": _Entry(tuple(_MATRIX + part for part in _QKV), _columns),
    **_same({f"blocks.{{i}}.{name}.kernel": _MATRIX + name for name in ("proj", "fc1", "fc2")}),
}

_CLIP_LAYER = "encoder.layers.{i}."
_CLIP = {
    "cls_token": _Entry(("embeddings.class_embedding",), lambda x: x[None, None]),
    "pos_embed": _Entry(("embeddings.position_embedding.weight",), lambda table: table[None]),
} | torch_layers(
    {
        "patch_embed": "embeddings.patch_embedding",
        "norm_pre": "pre_layrnorm",
        "blocks.{i}.norm1": _CLIP_LAYER + "layer_norm1",
        "blocks.{i}.qkv": tuple(f"{_CLIP_LAYER}self_attn.{part}_proj" for part in "qkv"),
        "blocks.{i}.proj": _CLIP_LAYER + "self_attn.out_proj",
        "blocks.{i}.norm2": _CLIP_LAYER + "layer_norm2",
        "blocks.{i}.fc1": _CLIP_LAYER + "mlp.fc1",
        "blocks.{i}.fc2": _CLIP_LAYER + "mlp.fc2",
        "norm": "post_layernorm",
    }
)

_POOL = "head.attention.in_proj_"  # query, key and value in one
_SIGLIP = (
    _CLIP
    | _same({"pool.probe": "head.probe"})
    | torch_layers(
        {
            "pool.proj": "head.attention.out_proj",
            "pool.norm": "head.layernorm",
            "pool.fc1": "head.mlp.fc1",
            "pool.fc2": "head.mlp.fc2",
        }
    )
    | {
        "pool.query.kernel": _Entry((_POOL + "weight",), lambda x: _linear(np.split(x, 3)[0])),
        "pool.query.bias": _Entry((_POOL + "bias",), lambda x: np.split(x, 3)[0]),
        "pool.key_value.kernel": _Entry(
            (_POOL + "weight",), lambda x: _linear(*np.split(x, 3)[1:])
        ),
        "pool.key_value.bias": _Entry((_POOL + "bias",), lambda x: _join(*np.split(x, 3)[1:])),
    }
)

_OPEN_CLIP_BLOCK = "visual.transformer.resblocks.{i}."
_OPEN_CLIP = {
    "cls_token": _Entry(("visual.class_embedding",), lambda x: x[None, None]),
    "pos_embed": _Entry(("visual.positional_embedding",), lambda table: table[None]),
    "blocks.{i}.qkv.kernel": _Entry((_OPEN_CLIP_BLOCK + "attn.in_proj_weight",), _linear),
    "blocks.{i}.qkv.bias": _Entry((_OPEN_CLIP_BLOCK + "attn.in_proj_bias",), _join),
} | torch_layers(
    {
        "patch_embed": "visual.conv1",
        "norm_pre": "visual.ln_pre",
        "blocks.{i}.norm1": _OPEN_CLIP_BLOCK + "ln_1",
        "blocks.{i}.proj": _OPEN_CLIP_BLOCK + "attn.out_proj",
        "blocks.{i}.norm2": _OPEN_CLIP_BLOCK + "ln_2",
        "blocks.{i}.fc1": _OPEN_CLIP_BLOCK + "mlp.c_fc",
        "blocks.{i}.fc2": _OPEN_CLIP_BLOCK + "mlp.c_proj",
        "norm": "visual.ln_post",
    }
)

_TIMM_REST = r"(head|head_dist|fc_norm|pre_logits)\..*|mask_token"
_CLIP_REST = (
    r"(text_model|classifier)\..*|(text|visual)_projection\.weight|logit_(scale|bias)"
    r"|embeddings\.position_ids"
)
_DINOV3_REST = r"embeddings\.mask_token|rope_embeddings\..*"
_HUGGING_FACE_REST = r"(\w*classifier|pooler|decoder)\..*|embeddings\.mask_token"

# Each row: a tensor that marks the layout, the name table, and a pattern of tensors to ignore. The
# first row whose mark is in the file counts.
FORMATS = (
    ("embedding/kernel", _GOOGLE, r"(head|pre_logits)/.*"),
    ("dist_token", TIMM | _distilled("dist_token", "pos_embed"), _TIMM_REST),
    ("patch_embed.proj.weight", TIMM, _TIMM_REST),
    ("position.grid", _ONNX, r"decoder\..*"),
    ("visual.class_embedding", _OPEN_CLIP, r"(?!visual\.).*|visual\.proj"),
    ("embeddings.class_embedding", _CLIP, _CLIP_REST),
    ("embeddings.patch_embedding.bias", _SIGLIP, _CLIP_REST),
    ("model.layer.0.mlp.up_proj.weight", _dinov3("model.layer.{i}."), _DINOV3_REST),
    ("layer.0.mlp.up_proj.weight", _dinov3("layer.{i}."), _DINOV3_REST),
    ("encoder.layer.0.attention.q_proj.weight", _DINOV2_IN_MEMORY, _HUGGING_FACE_REST),
    ("layers.0.attention.q_proj.weight", _IN_MEMORY, _HUGGING_FACE_REST),
    ("encoder.layer.0.layer_scale1.lambda1", _DINOV2, _HUGGING_FACE_REST),
    (
        "embeddings.distillation_token",
        HUGGING_FACE
        | _distilled("embeddings.distillation_token", "embeddings.position_embeddings"),
        _HUGGING_FACE_REST,
    ),
    ("embeddings.position_embeddings", HUGGING_FACE, _HUGGING_FACE_REST),
)
