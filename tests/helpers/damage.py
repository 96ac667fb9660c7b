"""Small weight files in every format."""

import pathlib
import zipfile

import numpy as np
import onnx
import safetensors.numpy
from flax import nnx

from noah_jax.pretrained import loading
from noah_jax.pretrained.weights import read_files
from noah_jax.vit import ViT, ViTConfig

VIT = ViTConfig(width=8, depth=2, heads=2, patch_size=2, image_size=4, num_classes=3)
D = VIT.width

_GOOGLE = {
    "cls": (1, 1, D),
    "embedding/kernel": (2, 2, 3, D),
    "embedding/bias": (D,),
    "Transformer/posembed_input/pos_embedding": (1, 5, D),
    "Transformer/encoder_norm/scale": (D,),
    "Transformer/encoder_norm/bias": (D,),
    "head/kernel": (D, 4),
}
_TIMM = {
    "cls_token": (1, 1, D),
    "pos_embed": (1, 5, D),
    "patch_embed.proj.weight": (D, 3, 2, 2),
    "patch_embed.proj.bias": (D,),
    "norm.weight": (D,),
    "norm.bias": (D,),
    "head.weight": (4, D),
}
_ONNX = {
    "backbone.embeddings.cls_token": (1, 1, D),
    "onnx::Concat_1": (1, 1, D),
    "onnx::Reshape_2": (1, 4, D),
    "backbone.embeddings.patch_embeddings.projection.weight": (D, 3, 2, 2),
    "backbone.embeddings.patch_embeddings.projection.bias": (D,),
    "backbone.layernorm.weight": (D,),
    "backbone.layernorm.bias": (D,),
    "decoder.weight": (3, 3),
}
for i in range(VIT.depth):
    block = f"Transformer/encoderblock_{i}/"
    for norm in ("LayerNorm_0", "LayerNorm_2"):
        _GOOGLE |= {f"{block}{norm}/{part}": (D,) for part in ("scale", "bias")}
    for part in ("query", "key", "value"):
        name = f"{block}MultiHeadDotProductAttention_1/{part}/"
        _GOOGLE |= {f"{name}kernel": (D, 2, D // 2), f"{name}bias": (2, D // 2)}
    _GOOGLE |= {
        f"{block}MultiHeadDotProductAttention_1/out/kernel": (2, D // 2, D),
        f"{block}MultiHeadDotProductAttention_1/out/bias": (D,),
        f"{block}MlpBlock_3/Dense_0/kernel": (D, 4 * D),
        f"{block}MlpBlock_3/Dense_0/bias": (4 * D,),
        f"{block}MlpBlock_3/Dense_1/kernel": (4 * D, D),
        f"{block}MlpBlock_3/Dense_1/bias": (D,),
    }
    layers = {"attn.qkv": (3 * D, D), "attn.proj": (D, D), "mlp.fc1": (4 * D, D)}
    layers |= {"mlp.fc2": (D, 4 * D), "norm1": (D,), "norm2": (D,)}
    for layer, shape in layers.items():
        _TIMM |= {f"blocks.{i}.{layer}.weight": shape, f"blocks.{i}.{layer}.bias": shape[:1]}
    _TIMM |= {f"blocks.{i}.ls{number}.gamma": (D,) for number in (1, 2)}
    block = f"backbone.encoder.layer.{i}."
    shapes = [(D, D)] * 4 + [(D, 4 * D), (4 * D, D)]  # key, value, query, out, fc1, fc2
    _ONNX |= {f"onnx::MatMul_{10 * i + j + 10}": shape for j, shape in enumerate(shapes)}
    biases = {f"attention.attention.{part}": D for part in ("query", "key", "value")}
    biases |= {"attention.output.dense": D, "mlp.fc1": 4 * D, "mlp.fc2": D, "norm1": D, "norm2": D}
    _ONNX |= {f"{block}{layer}.bias": (size,) for layer, size in biases.items()}
    _ONNX |= {f"{block}norm{number}.weight": (D,) for number in (1, 2)}
    _ONNX |= {f"{block}layer_scale{number}.lambda1": (D,) for number in (1, 2)}

FORMATS = {  # of a file: its suffix, the shapes of its tensors
    "npz stored": (".npz", _GOOGLE),
    "npz compressed": (".npz", _GOOGLE),
    "safetensors": (".safetensors", _TIMM),
    "onnx": (".onnx", _ONNX),
    "wheel": (".whl", _ONNX),
}
HAVE_CHECKSUMS = ("npz stored", "npz compressed", "wheel")


def tensors(kind: str) -> dict[str, np.ndarray]:
    """Random ones as the layout of that format names and shapes them."""
    rng = np.random.default_rng(0)
    return {
        name: rng.normal(0, 0.2, shape).astype(np.float32)
        for name, shape in FORMATS[kind][1].items()
    }


def initialisers(arrays: dict[str, np.ndarray]) -> list[onnx.TensorProto]:
    return [onnx.numpy_helper.from_array(x, name) for name, x in arrays.items()]


def onnx_model(tensors: list[onnx.TensorProto]) -> bytes:
    names = [tensor.name for tensor in tensors if "MatMul" in tensor.name]
    nodes = [onnx.helper.make_node("MatMul", [f"x{name}", name], [f"y{name}"]) for name in names]
    graph = onnx.helper.make_graph(nodes, "graph", [], [], tensors)
    return onnx.helper.make_model(graph).SerializeToString()


def write(kind: str, arrays: dict[str, np.ndarray], path: pathlib.Path) -> None:
    if kind.startswith("npz"):
        (np.savez if kind == "npz stored" else np.savez_compressed)(path, **arrays)
    elif kind == "safetensors":
        safetensors.numpy.save_file(arrays, path)
    else:
        model = onnx_model(initialisers(arrays))
        if kind == "onnx":
            path.write_bytes(model)
        else:
            with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as wheel:
                wheel.writestr("package/__init__.py", "")
                wheel.writestr("package/model.onnx", model)


def abstract_backbone() -> nnx.State:
    model = nnx.eval_shape(lambda: ViT(VIT, {"vpt": 0, "lora": 0, "adapter": 0}, rngs=nnx.Rngs(0)))
    return nnx.split_state(nnx.state(model), nnx.PathContains("head"), ...)[1]


def backbone(abstract: nnx.State, path: pathlib.Path) -> dict[tuple, np.ndarray]:
    """Reads a file as `pretrained.backbone` does, but finds the model's shapes only once."""
    state = loading.arrange(abstract, read_files([path]), str(path))
    return {name: variable.get_value() for name, variable in nnx.to_flat_state(state)}
