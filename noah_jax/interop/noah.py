"""Loads the state dict of the original NOAH into a ViT.

Facts about the original are from its PyTorch code, github.com/ZhangYuanhan-AI/NOAH.
"""

import dataclasses
import functools
import re
from collections.abc import Mapping

import numpy as np
from flax import nnx

from noah_jax.pretrained.loading import arrange
from noah_jax.pretrained.weights import convert
from noah_jax.space.modules import PROMPT_MODULES
from noah_jax.vit import ViT

# The original's output does not depend on these: the model-level prompt, which block 0 replaces;
# prefix tokens, allocated if the YAML's SUPERNET.PREFIX_DIM is not 0; a second name of ln2.bias.
_DEAD = (
    r"visual_prompt_token(_pos_embed)?"
    r"|blocks\.\d+\.(attn\.prefix_tokens_(key|value)|adapter\.sampled_bias_1)"
)


def load_noah(model: ViT, tensors: Mapping[str, np.ndarray]) -> None:
    """Fills all of `model` in place, including the head, from the state dict of NOAH's own model.

    NOAH's supernets and retrained subnets have the same tensors, at the sizes of `SUPERNET` in
    their YAML. A genome uses the first rows, so prompt modules that are larger than the `max_sizes`
    of `model` are cut. Logits agree for all genomes that NOAH can find. They would not agree where
    the sizes of visual prompts have a gap (r, 0, s): NOAH puts the s tokens after the r tokens, and
    we put them in their place.

    We read no pickle. This command turns NOAH's `checkpoint.pth` into a file for
    `safetensors.numpy.load_file`:

        python -m noah_jax.pretrained convert checkpoint.pth noah.safetensors

    Args:
      model: has the shape of NOAH's and as many classes; its image size may differ.
      tensors: the state dict, by NOAH's names, such as `blocks.0.attn.LoRA_a.weight`.

    Raises:
      UserError: tensors are missing, unknown, not finite or of another shape; all are listed.
    """
    sizes = {
        "vpt": model.max_vpt,
        "lora": model.blocks.lora.b.shape[1] if model.blocks.lora else 0,
        "adapter": model.blocks.adapter.up.shape[1] if model.blocks.adapter else 0,
    }
    theirs = {name: x for name, x in tensors.items() if not re.fullmatch(_DEAD, name)}
    ours = {}
    for i in range(model.config.depth):
        for module, facts in PROMPT_MODULES.items():
            for param, part in facts.noah_tensors.items():
                x = np.asarray(theirs.get(name := f"blocks.{i}.{part}"))
                if x.ndim != (3 if param == "tokens" else 1 if "bias" in param else 2):
                    continue  # absent or of a wrong rank: `arrange` reports it
                del theirs[name]
                if sizes[module]:
                    tensor = _first(x, sizes[module], facts.sized_axis[param])
                    ours[f"blocks.{i}.{module}.{param}"] = tensor
    head = {"head.weight": "head.kernel", "head.bias": "head.bias"}
    ours |= {head[name]: np.asarray(theirs[name]).T for name in head if name in theirs}
    source = "NOAH's state dict"
    backbone = convert(
        {name: functools.partial(np.asarray, x) for name, x in theirs.items()}, source
    )
    whole = dataclasses.replace(backbone, tensors={**backbone, **ours})
    nnx.update(model, arrange(nnx.state(model), whole, source))


def _first(theirs: np.ndarray, size: int, axis: int | None) -> np.ndarray:
    """Turns a tensor of theirs into ours and cuts it to the first `size` along `axis`, None = all.

    PyTorch's linear layers are `[out, in]`. Prompt tokens have an axis of examples, `[1, r, d]`.
    """
    ours = theirs[0] if theirs.ndim == 3 and len(theirs) == 1 else theirs.T
    return ours if axis is None else ours[(slice(None),) * axis + (slice(size),)]
