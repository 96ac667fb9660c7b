"""Layouts of other programs for a subnet: timm, Hugging Face, PEFT.

    huggingface/   a ViTForImageClassification, its image processor beside it
    timm/          timm's tensor names, with arguments of its VisionTransformer
    peft/          a PEFT adapter of LoRA, and in base/ the model that it belongs to

They hold only plain ViTs, without registers, RoPE and the like, and no prompt modules but LoRA. The
names of the tensors come from pretrained/name_tables.py.
"""

import dataclasses
import json
import pathlib

import numpy as np

from noah_jax.data.loader import enlarged
from noah_jax.interop.subnet import Subnet, serialised
from noah_jax.pretrained.name_tables import HUGGING_FACE, TIMM, rename, torch_layers
from noah_jax.runtime.workdir import make_folder, write_bytes, write_text
from noah_jax.vit import ViTConfig

_NOT_PLAIN = (  # the fields of a ViTConfig that these three cannot express
    *("registers", "pre_norm", "quick_gelu", "tanh_gelu", "mlp_width", "pooling", "rope"),
)
_TIMMS_EPSILON = 1e-6
_BICUBIC = 3  # as Pillow numbers it
_CLASSIFIER = torch_layers({"head": "classifier"})
_MODEL, _ADAPTER = "model.safetensors", "adapter_model.safetensors"
_CHECKPOINT = ("config.json", "preprocessor_config.json", _MODEL)
FILES = (  # that `write` may write
    *(f"{folder}/{name}" for folder in ("huggingface", "peft/base") for name in _CHECKPOINT),
    *(f"timm/{_MODEL}", "timm/model.json", f"peft/{_ADAPTER}", "peft/adapter_config.json"),
)


def write(subnet: Subnet, new: pathlib.Path, folder: pathlib.Path) -> list[str]:
    """Writes the layouts that can hold the subnet into folders in `new`.

    Args:
      folder: where they will be in the end.

    Returns:
      A line for each layout, which says how to use it, or why it was not written.

    Raises:
      UserError: they cannot be written.
    """
    if problem := _why_not_plain(subnet):
        return [f"not written: huggingface/, timm/, peft/, since {problem}"]
    merged, checkpoint = subnet.merged(), hugging_face_files(subnet)
    _write(new / "huggingface", to_hugging_face(merged), checkpoint)
    lines = [
        f"{folder}/huggingface: `transformers.AutoModelForImageClassification.from_pretrained` and "
        "`AutoImageProcessor`; these turn no image as its EXIF says, do that before: "
        "`PIL.ImageOps.exif_transpose(image)`"
    ]
    if subnet.config.epsilon == _TIMMS_EPSILON:
        _write(new / "timm", to_timm(merged), {"model.json": timm_arguments(subnet)})
        lines.append(f"{folder}/timm: `timm.models.VisionTransformer(**arguments)` of model.json")
    else:
        lines.append(
            f"not written: timm/, whose layer norms have another epsilon, {_TIMMS_EPSILON}"
        )
    if subnet.sizes["lora"].any():
        _write(new / "peft/base", to_hugging_face(_without_lora(subnet)), checkpoint)
        config = {"adapter_config.json": peft_config(subnet)}
        _write(new / "peft", to_peft(subnet), config, _ADAPTER)
        lines.append(
            f"{folder}/peft: `peft.PeftModel.from_pretrained` on the model in peft/base; or, in "
            'this folder, `peft.AutoPeftModel.from_pretrained(".")`'
        )
    return lines


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


def _write(folder: pathlib.Path, tensors, texts: dict[str, dict], name: str = _MODEL) -> None:
    make_folder(folder, parents=True)
    write_bytes(folder / name, serialised(tensors, {"format": "pt"}))
    for file, content in texts.items():
        write_text(folder / file, json.dumps(content, indent=1))


# --- timm and Hugging Face -----------------------------------------------------------------------


def to_timm(subnet: Subnet) -> dict[str, np.ndarray]:
    """Renames all weights of a plain ViT, LoRA merged, as timm names and shapes them."""
    return rename(TIMM | torch_layers({"head": "head"}), subnet.tensors)


def to_hugging_face(subnet: Subnet) -> dict[str, np.ndarray]:
    """Renames all weights of a plain ViT, LoRA merged, as in a ViTForImageClassification."""
    renamed = rename(HUGGING_FACE | _CLASSIFIER, subnet.tensors)
    return {
        name if name.startswith("classifier.") else f"vit.{name}": x for name, x in renamed.items()
    }


def hugging_face_files(subnet: Subnet) -> dict[str, dict]:
    """The contents of `config.json` and `preprocessor_config.json`, by the name of the file."""
    config, names = subnet.config, subnet.class_names
    side = config.image_size
    model = {
        "architectures": ["ViTForImageClassification"],
        "model_type": "vit",
        "hidden_size": config.width,
        "num_hidden_layers": config.depth,
        "num_attention_heads": config.heads,
        "intermediate_size": 4 * config.width,
        "hidden_act": "gelu",
        "layer_norm_eps": config.epsilon,
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
        "image_size": side,
        "patch_size": config.patch_size,
        "num_channels": 3,
        "qkv_bias": True,
        "id2label": {str(i): name for i, name in enumerate(names)},
        "label2id": {name: i for i, name in enumerate(names)},
    }
    resized = enlarged(side, subnet.facts["center_crop"])
    processor = {
        "image_processor_type": "ViTImageProcessor",
        "do_convert_rgb": True,
        "do_resize": True,
        "size": {"height": resized, "width": resized},
        "resample": _BICUBIC,
        "do_center_crop": resized != side,
        "crop_size": {"height": side, "width": side},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(subnet.facts["mean"]),
        "image_std": list(subnet.facts["std"]),
    }
    return {"config.json": model, "preprocessor_config.json": processor}


def timm_arguments(subnet: Subnet) -> dict:
    """The arguments of timm's VisionTransformer, the classes, and how images are prepared."""
    config = subnet.config
    arguments = {
        "img_size": config.image_size,
        "patch_size": config.patch_size,
        "embed_dim": config.width,
        "depth": config.depth,
        "num_heads": config.heads,
        "num_classes": config.num_classes,
    }
    facts = {name: subnet.facts[name] for name in ("mean", "std", "center_crop")}
    return {"arguments": arguments, "class_names": subnet.class_names, **facts}


# --- PEFT ----------------------------------------------------------------------------------------

_PEFT_PARTS = ("q_proj", "k_proj", "v_proj")  # in memory, from transformers 5 on


def to_peft(subnet: Subnet) -> dict[str, np.ndarray]:
    """Renames LoRA's tensors and the classifier as PEFT does; q, k and v get the same A."""
    head = {name: subnet.tensors[name] for name in ("head.kernel", "head.bias")}
    found = {f"base_model.model.{name}": x for name, x in rename(_CLASSIFIER, head).items()}
    for i in np.flatnonzero(subnet.sizes["lora"]):
        a, b = (subnet.tensors[f"blocks.{i}.lora.{part}"] for part in "ab")
        for name, third in zip(_PEFT_PARTS, np.split(b, 3, axis=1), strict=True):
            module = f"base_model.model.vit.layers.{i}.attention.{name}."
            found |= {module + "lora_A.weight": a.T, module + "lora_B.weight": third.T}
    return found


def peft_config(subnet: Subnet) -> dict:
    """The contents of PEFT's `adapter_config.json`."""
    ranks = subnet.sizes["lora"]
    blocks = [int(i) for i in np.flatnonzero(ranks)]
    parts = "|".join(_PEFT_PARTS)
    pattern = {rf"layers\.{i}\.attention\.({parts})": int(ranks[i]) for i in blocks}
    return {
        "peft_type": "LORA",
        "task_type": None,  # PEFT has none for images; it takes the class from here:
        "auto_mapping": {
            "base_model_class": "ViTForImageClassification",
            "parent_library": "transformers.models.vit.modeling_vit",
        },
        "base_model_name_or_path": "base",
        "inference_mode": True,
        "target_modules": rf".*layers\.({'|'.join(map(str, blocks))})\.attention\.({parts})",
        "r": int(ranks[blocks[0]]),
        "lora_alpha": int(ranks[blocks[0]]),
        "rank_pattern": pattern,
        "alpha_pattern": pattern,  # the ranks again, since LoRA here has no factor alpha/r
        "lora_dropout": 0.0,
        "bias": "none",
        "modules_to_save": ["classifier"],
    }
