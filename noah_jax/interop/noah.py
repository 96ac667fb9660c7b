"""NOAH's state dict as the weights of a ViT.

Facts about NOAH's are from the PyTorch original, github.com/ZhangYuanhan-AI/NOAH.
"""

import functools
import re
from collections.abc import Mapping

import numpy as np
from flax import nnx

from noah_jax.pretrained.loading import arrange
from noah_jax.pretrained.weights import convert
from noah_jax.space.modules import PROMPT_MODULES
from noah_jax.vit import ViT

# What the original's output does not depend on: the model-level prompt, which block 0 replaces;
# prefix tokens, allocated where the YAML's SUPERNET.PREFIX_DIM is not 0; a second name of ln2.bias.
_DEAD = (
    r"visual_prompt_token(_pos_embed)?"
    r"|blocks\.\d+\.(attn\.prefix_tokens_(key|value)|adapter\.sampled_bias_1)"
)


def load_noah(model: ViT, tensors: Mapping[str, np.ndarray]) -> None:
    """Fills all of `model` in place, head included, from the state dict of NOAH's own model.

    A supernet and a retrained subnet have the same tensors, at the sizes of `SUPERNET` in their
    YAML; a genome uses the first rows. So the prompt modules may be larger there than the
    `max_sizes` of `model`, and are cut. Logits agree for all genomes that NOAH can find; they
    would not where sizes of visual prompts have a gap (r, 0, s): there the s tokens come after the
    r, here in their place.

    We read no pickle; in an environment with PyTorch this makes a file for
    `safetensors.numpy.load_file` from NOAH's `checkpoint.pth`:

        with torch.serialization.safe_globals([argparse.Namespace]):
            state = torch.load("checkpoint.pth", map_location="cpu")["model"]
        safetensors.torch.save_file({k: x.clone() for k, x in state.items()}, "noah.safetensors")

    Args:
      model: of the same shape as NOAH's, and as many classes; another image size is fine.
      tensors: by NOAH's names, as in `blocks.0.attn.LoRA_a.weight`.

    Raises:
      UserError: tensors are missing, unknown or of another shape; all are listed.
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
    nnx.update(model, arrange(nnx.state(model), backbone | ours, source))


def _first(theirs: np.ndarray, size: int, axis: int | None) -> np.ndarray:
    """The first `size` along our `axis`, None = all, of a tensor of theirs.

    PyTorch's linear layers are `[out, in]`; prompt tokens have an axis of examples, `[1, r, d]`.
    """
    ours = theirs[0] if theirs.ndim == 3 and len(theirs) == 1 else theirs.T
    return ours if axis is None else ours[(slice(None),) * axis + (slice(size),)]
