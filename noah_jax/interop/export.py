"""Exports a found subnet: `python -m noah_jax.interop export WORKDIR [--out=FOLDER]`

    subnet.json, subnet.safetensors   the trained weights, compact; see subnet.py
    model.safetensors                 all weights, LoRA merged
    model.stablehlo                   a program of JAX's export: uint8 images → logits, anywhere
    huggingface/                      a ViTForImageClassification, its image processor beside it
    timm/                             timm's tensor names, with arguments of its VisionTransformer
    peft/, peft/base/                 a PEFT adapter of LoRA, and the model it belongs to

The last three are written only if LoRA is the only prompt module in the subnet, and if the ViT is a
plain one, without registers, RoPE and the like.
"""

import dataclasses
import json
import pathlib

import jax
import jax.numpy as jnp
from jax import export as jax_export

from noah_jax.interop import layouts
from noah_jax.interop import subnet as subnet_lib
from noah_jax.interop.subnet import Subnet, read, serialised
from noah_jax.runtime.workdir import make_folder, write_bytes, write_text
from noah_jax.vit import ViTConfig

_NOT_PLAIN = (  # the fields of a ViTConfig that these three cannot express
    *("registers", "pre_norm", "quick_gelu", "tanh_gelu", "mlp_width", "pooling", "rope"),
)
_TIMMS_EPSILON = 1e-6
_PLATFORMS = ("cpu", "cuda", "tpu")


def export(workdir: pathlib.Path, folder: pathlib.Path, weights: str = "") -> list[str]:
    """Writes the subnet of a finished run in every layout that can hold it.

    Args:
      weights: where the backbone's file is now, if it has moved since the run.

    Returns:
      A line for each layout, which says what it is and how to use it, or why it was not written.

    Raises:
      UserError: the run is not finished, or something cannot be read or written.
    """
    subnet = read(workdir, weights)
    subnet_lib.export(subnet, folder)
    merged = subnet.merged()
    write_bytes(folder / "model.stablehlo", stablehlo(merged))
    lines = [
        f"{folder}/subnet.safetensors: {len(subnet.trained)} trained tensors; "
        f"`python -m noah_jax.interop predict {folder} IMAGE …` needs these or model.safetensors",
        f"{folder}/model.safetensors: all weights"
        + (", LoRA merged" if len(merged.tensors) < len(subnet.tensors) else ""),
        f"{folder}/model.stablehlo: `jax.export.deserialize(bytes).call(images)`, uint8 "
        f"[b, {subnet.config.image_size}, {subnet.config.image_size}, 3] to logits",
    ]
    if problem := _why_not_plain(subnet):
        return [*lines, f"not written: huggingface/, timm/, peft/, since {problem}"]
    files = layouts.hugging_face_files(subnet)
    _write(folder / "huggingface", layouts.to_hugging_face(merged), files)
    if subnet.config.epsilon == _TIMMS_EPSILON:
        arguments = {"model.json": layouts.timm_arguments(subnet)}
        _write(folder / "timm", layouts.to_timm(merged), arguments)
        use = f"{folder}/timm: `timm.models.VisionTransformer(**arguments)` of model.json"
    else:
        use = f"not written: timm/, whose layer norms have another epsilon, {_TIMMS_EPSILON}"
    lines += [
        f"{folder}/huggingface: `transformers.AutoModelForImageClassification.from_pretrained`",
        use,
    ]
    if subnet.sizes["lora"].any():
        base = _without_lora(subnet)
        _write(folder / "peft/base", layouts.to_hugging_face(base), files)
        config = {"adapter_config.json": layouts.peft_config(subnet)}
        _write(folder / "peft", layouts.to_peft(subnet), config, "adapter_model.safetensors")
        lines.append(f"{folder}/peft: `peft.PeftModel.from_pretrained` on the model in peft/base")
    return lines


def stablehlo(subnet: Subnet) -> bytes:
    """Serialises the program uint8 images `[b, h, w, 3]`, any b → float32 logits `[b, classes]`.

    The weights are in the program. `jax.export.deserialize` reads it.
    """
    model, config = subnet.model(), subnet.config

    def logits(images):
        return model(subnet.normalise(images))

    shape = jax_export.symbolic_shape(f"b, {config.image_size}, {config.image_size}, 3")
    images = jax.ShapeDtypeStruct(shape, jnp.uint8)
    return bytes(jax_export.export(jax.jit(logits), platforms=_PLATFORMS)(images).serialize())


def _why_not_plain(subnet: Subnet) -> str | None:
    """Says why other programs' classes cannot hold the subnet; None if they can."""
    config = subnet.config
    others = [name for name, sizes in subnet.sizes.items() if sizes.any() and name != "lora"]
    if others:
        return f"it has more than LoRA: {', '.join(others)}"
    special = [name for name in _NOT_PLAIN if getattr(config, name) != getattr(ViTConfig, name)]
    return f"the backbone is no plain ViT: {', '.join(special)}" if special else None


def _without_lora(subnet: Subnet) -> Subnet:
    tensors = {name: x for name, x in subnet.tensors.items() if ".lora." not in name}
    return dataclasses.replace(subnet, tensors=tensors)


def _write(folder, tensors, files, name: str = "model.safetensors") -> None:
    make_folder(folder, parents=True)
    write_bytes(folder / name, serialised(tensors, {"format": "pt"}))
    for file, content in files.items():
        write_text(folder / file, json.dumps(content, indent=1))
