"""Layouts of other programs for a subnet: timm, Hugging Face, PEFT.

They hold only plain ViTs, and no prompt modules but LoRA. The names of the tensors come from
pretrained/name_tables.py.
"""

import numpy as np

from noah_jax.interop.subnet import Subnet
from noah_jax.pretrained.name_tables import HUGGING_FACE, TIMM, rename, torch_layers

_BICUBIC = 3  # as Pillow numbers it
_CLASSIFIER = torch_layers({"head": "classifier"})


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
    resized = side * 8 // 7 if subnet.facts["center_crop"] else side
    processor = {
        "image_processor_type": "ViTImageProcessor",
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
        "task_type": None,
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
