"""A subnet as an ONNX graph: uint8 images `[b, h, w, 3]`, any b → float32 logits `[b, classes]`.

The graph is put together of the subnet's tensors, as vit/ computes. The library jax2onnx, which
would trace the JAX program, cannot be installed beside orbax-checkpoint 0.12.
"""

import functools
import json
import pathlib
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from noah_jax.errors import UserError, joined
from noah_jax.interop.subnet import Subnet
from noah_jax.vit.attention import patch_angles

_OPSET, _IR_VERSION = 20, 9  # of ONNX 1.15, the first that has GELU
_MOST_BYTES = 2_000_000_000  # of weights in one file; protobuf ends at 2 GiB


def serialised(merged: Subnet, weights: pathlib.Path) -> bytes:
    """Makes the contents of `model.onnx`.

    Args:
      merged: the subnet, with LoRA merged.
      weights: its `model.safetensors`. If the tensors are too large for an ONNX file, the graph
        refers to this file, and it has to lie beside the ONNX file.

    Raises:
      OSError: `weights` cannot be read.
      UserError: the subnet has a module that this file does not know.
    """
    graph = _Graph(merged, _places(weights) if is_large(merged) else {})
    return graph.model().SerializeToString()


def is_large(subnet: Subnet) -> bool:
    """Tells whether the weights are too large for an ONNX file, or for one of JAX's export."""
    return sum(x.nbytes for x in subnet.tensors.values()) > _MOST_BYTES


def _places(weights: pathlib.Path) -> dict[str, dict[str, Any]]:
    """Says where each tensor lies in a safetensors file, by the keys of ONNX's external data."""
    with open(weights, "rb") as file:
        start = 8 + (size := int.from_bytes(file.read(8), "little"))
        header = json.loads(file.read(size))
    spans = {name: x["data_offsets"] for name, x in header.items() if name != "__metadata__"}
    return {
        name: {"location": weights.name, "offset": start + first, "length": end - first}
        for name, (first, end) in spans.items()
    }


class _Graph:
    """A graph in the making: its nodes and weights. Values go by their names.

    The methods add what they are called after, and return the name of the result.
    """

    def __init__(self, subnet: Subnet, places: dict[str, dict[str, Any]]):
        self.subnet, self.config, self.places = subnet, subnet.config, places
        self.nodes: list[onnx.NodeProto] = []
        self.weights: dict[str, TensorProto] = {}

    def model(self) -> onnx.ModelProto:
        """Adds the whole ViT, and returns the model; it has the names of the classes, too."""
        config, side = self.config, self.config.image_size
        x, tokens = self.embedded("images"), config.first_slot
        for i, (prompts, *_) in enumerate(self.subnet.facts["genome"]):
            if prompts:  # they replace those of earlier blocks
                tokens, name = config.first_slot + prompts, f"blocks.{i}.vpt.tokens"
                slots = self.for_each_image(self.tensor(name))
                x = self.add("Concat", self.part(x, 0, config.first_slot), slots, axis=1)
            x = self.block(x, tokens, f"blocks.{i}.")
        self.add("Identity", self.linear(self.representation(x), "head"), output="logits")
        in_blocks = {name for name in self.subnet.tensors if name.startswith("blocks.")}
        if unused := sorted(in_blocks - self.weights.keys()):
            raise UserError(f"model.onnx has no place for {joined(unused)}; see onnx_graph.py")
        images = helper.make_tensor_value_info("images", TensorProto.UINT8, ["b", side, side, 3])
        graph = helper.make_graph(
            self.nodes,
            "noah_jax",
            [images],
            [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["b", config.num_classes])],
            [*self.weights.values()],
        )
        opsets = [helper.make_opsetid("", _OPSET)]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=_IR_VERSION)
        helper.set_model_props(model, {"class_names": json.dumps(self.subnet.class_names)})
        return model

    # --- The ViT ---------------------------------------------------------------------------------

    def embedded(self, images: str) -> str:
        """Class token, registers, patches `[b, n, d]`; see `ViT.embed`."""
        config = self.config
        grid, p = config.grid, config.patch_size
        x = self.add("Div", self.add("Cast", images, to=TensorProto.FLOAT), self.constant(255.0))
        x = self.add("Sub", x, self.constant(self.subnet.facts["mean"]))
        x = self.add("Div", x, self.constant(self.subnet.facts["std"]))
        x = self.add("Transpose", self.shaped(x, -1, grid, p, grid, p, 3), perm=[0, 1, 3, 2, 4, 5])
        x = self.linear(self.shaped(x, -1, grid * grid, p * p * 3), "patch_embed")
        if config.class_tokens:
            x = self.add("Concat", self.for_each_image(self.tensor("cls_token")), x, axis=1)
        if not config.rope:
            x = self.add("Add", x, self.tensor("pos_embed"))
        if config.registers:  # they have no position
            parts = [self.for_each_image(self.tensor("register_tokens"))]
            parts += [self.part(x, config.class_tokens, config.class_tokens + grid * grid)]
            before = [self.part(x, 0, 1)] * config.class_tokens
            x = self.add("Concat", *before, *parts, axis=1)
        return self.norm(x, "norm_pre") if config.pre_norm else x

    def block(self, x: str, tokens: int, name: str) -> str:
        """A block on `tokens` tokens; see `Block`."""
        qkv = self.linear(self.norm(x, name + "norm1"), name + "qkv")
        q, k, v = (self.heads(part) for part in self.split(qkv, 3))
        if self.config.rope:
            q, k = self.rotated(q, tokens), self.rotated(k, tokens)
        x = self.add("Add", x, self.linear(self.attended(q, k, v), name + "proj"))
        h = out = self.mlp(self.norm(x, name + "norm2"), name)
        if f"{name}adapter.down" in self.subnet.tensors:
            out = self.add("Add", out, self.adapter(h, name + "adapter.", self.quick_gelu))
        if f"{name}parallel.down" in self.subnet.tensors:
            relu = functools.partial(self.add, "Relu")
            out = self.add("Add", out, self.adapter(x, name + "parallel.", relu))
        return self.add("Add", x, out)

    def heads(self, x: str) -> str:
        """`[b, n, d]` to `[b, heads, n, c]`."""
        heads, width = self.config.heads, self.config.width
        return self.add("Transpose", self.shaped(x, 0, 0, heads, width // heads), perm=[0, 2, 1, 3])

    def attended(self, q: str, k: str, v: str) -> str:
        """Softmax attention, `[b, heads, n, c]` to `[b, n, d]`."""
        scale = (self.config.width // self.config.heads) ** -0.5
        q = self.add("Mul", q, self.constant(scale))
        scores = self.add("MatMul", q, self.add("Transpose", k, perm=[0, 1, 3, 2]))
        out = self.add("MatMul", self.add("Softmax", scores, axis=-1), v)
        return self.shaped(self.add("Transpose", out, perm=[0, 2, 1, 3]), 0, 0, self.config.width)

    def rotated(self, x: str, tokens: int) -> str:
        """The patches in `[b, heads, n, c]`, rotated; see `attention.rotate`."""
        config = self.config
        angles = patch_angles(config.grid, config.width // config.heads // 2)
        around = (config.first_patch, tokens - config.first_slot)
        angles = np.pad(angles, (around, (0, 0)))
        cos = self.constant(np.cos(angles), f"rope.cos.{tokens}")
        sin = self.constant(np.sin(angles), f"rope.sin.{tokens}")
        one, other = self.split(x, 2)
        left = self.add("Sub", self.add("Mul", one, cos), self.add("Mul", other, sin))
        right = self.add("Add", self.add("Mul", other, cos), self.add("Mul", one, sin))
        return self.add("Concat", left, right, axis=-1)

    def representation(self, x: str) -> str:
        """Pools the tokens into what the head classifies, `[b, d]`; see `ViT.representation`."""
        config = self.config
        if config.class_tokens:
            return self.shaped(self.norm(self.part(x, 0, 1), "norm"), 0, config.width)
        x = self.norm(self.part(x, config.first_patch, config.first_slot), "norm")
        if config.pooling == "mean":
            return self.add("ReduceMean", x, self.constant([1], dtype=np.int64), keepdims=0)
        probe = self.for_each_image(self.linear(self.tensor("pool.probe"), "pool.query"))
        parts = (probe, *self.split(self.linear(x, "pool.key_value"), 2))
        attended = self.attended(*(self.heads(part) for part in parts))
        x = self.linear(self.shaped(attended, 0, config.width), "pool.proj")
        return self.add("Add", x, self.mlp(self.norm(x, "pool.norm"), "pool."))

    def mlp(self, x: str, name: str) -> str:
        h = self.linear(x, name + "fc1")
        if self.config.quick_gelu:
            h = self.quick_gelu(h)
        else:
            h = self.add("Gelu", h, approximate="tanh" if self.config.tanh_gelu else "none")
        return self.linear(h, name + "fc2")

    def adapter(self, x: str, name: str, activation) -> str:
        h = self.add("MatMul", x, self.tensor(name + "down"))
        h = activation(self.add("Add", h, self.tensor(name + "down_bias")))
        h = self.add("MatMul", h, self.tensor(name + "up"))
        return self.add("Add", h, self.tensor(name + "up_bias"))

    def quick_gelu(self, x: str) -> str:
        return self.add("Mul", x, self.add("Sigmoid", self.add("Mul", x, self.constant(1.702))))

    def linear(self, x: str, name: str) -> str:
        x = self.add("MatMul", x, self.tensor(name + ".kernel"))
        bias = name + ".bias"
        return self.add("Add", x, self.tensor(bias)) if bias in self.subnet.tensors else x

    def norm(self, x: str, name: str) -> str:
        weights = self.tensor(name + ".scale"), self.tensor(name + ".bias")
        return self.add("LayerNormalization", x, *weights, axis=-1, epsilon=self.config.epsilon)

    # --- Nodes and weights -----------------------------------------------------------------------

    def add(self, op: str, *inputs: str, output: str = "", **attributes: Any) -> str:
        """Adds a node with one output."""
        output = output or f"{op.lower()}.{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, inputs, [output], output, **attributes))
        return output

    def split(self, x: str, parts: int) -> list[str]:
        """Equal parts along the last axis."""
        outputs = [f"split.{len(self.nodes)}.{i}" for i in range(parts)]
        node = helper.make_node("Split", [x], outputs, outputs[0], axis=-1, num_outputs=parts)
        self.nodes.append(node)
        return outputs

    def shaped(self, x: str, *shape: int) -> str:
        """Another shape; 0 = as before, -1 = the rest."""
        return self.add("Reshape", x, self.constant(shape, dtype=np.int64))

    def part(self, x: str, start: int, stop: int) -> str:
        """The tokens from `start` to `stop` of `[b, n, d]`."""
        where = (self.constant([number], dtype=np.int64) for number in (start, stop, 1))
        return self.add("Slice", x, *where)

    def for_each_image(self, x: str) -> str:
        """`[n, d]` or `[1, n, d]` to `[b, n, d]`."""
        b = self.add("Shape", "images", start=0, end=1)
        ones = self.constant([1, 1], dtype=np.int64)
        return self.add("Expand", x, self.add("Concat", b, ones, axis=0))

    def constant(self, value: Any, name: str = "", dtype: type = np.float32) -> str:
        """A weight that is no tensor of the subnet; the same value is there once."""
        name = name or f"{dtype.__name__}.{json.dumps(value)}"
        if name not in self.weights:
            self.weights[name] = numpy_helper.from_array(np.asarray(value, dtype), name)
        return name

    def tensor(self, name: str) -> str:
        """A tensor of the subnet, or the place where it lies."""
        x = self.subnet.tensors[name]
        if name in self.places:
            weight = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=x.shape)
            weight.data_location = TensorProto.EXTERNAL
            for key, value in self.places[name].items():
                weight.external_data.add(key=key, value=str(value))
        else:
            weight = numpy_helper.from_array(np.ascontiguousarray(x, np.float32), name)
        self.weights[name] = weight
        return name
