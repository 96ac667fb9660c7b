"""The table of prompt modules (NOAH, section 3.1): a row each, in the order of a genome's columns.

vit/prompts.py has the computation of each module, vit/model.py its place in a block, and the
settings have its sizes. NumPy only.
"""

import dataclasses
from collections.abc import Callable, Mapping

import numpy as np

MAX_SIZE = 10_000  # of a module; its memory is allocated before anything else is checked


@dataclasses.dataclass(frozen=True)
class PromptModule:
    """A kind of prompt module.

    Attributes:
      title: the name that people read.
      colour: its colour in figures.
      params: sizes, int64 of any shape, and the ViT's width → parameters in a block, elementwise.
      sized_axis: tensor → the axis that has the module's size; None = none has.
      noah_key: the key of its sizes in the original's YAML files; empty = the original lacks it.
      noah_tensors: tensor → its name in the original's blocks.
    """

    title: str
    colour: str
    params: Callable[[np.ndarray, int], np.ndarray]
    sized_axis: Mapping[str, int | None]
    noah_key: str = ""
    noah_tensors: Mapping[str, str] = dataclasses.field(default_factory=dict)


def _adapter_params(size: np.ndarray, width: int) -> np.ndarray:
    """Counts two matrices and two biases; the second bias exists wherever the adapter does."""
    return size * (2 * width + 1) + np.where(size > 0, width, 0)


_ADAPTER_AXES = {"down": 1, "down_bias": 0, "up": 0, "up_bias": None}

PROMPT_MODULES = {
    "vpt": PromptModule(
        title="Visual prompts",
        colour="#3b76c4",
        params=lambda size, width: size * width,
        sized_axis={"tokens": 0},
        noah_key="VISUAL_PROMPT_DIM",
        noah_tensors={"tokens": "visual_prompt_token"},
    ),
    "lora": PromptModule(
        title="LoRA",
        colour="#d9822b",
        params=lambda size, width: 4 * size * width,
        sized_axis={"a": 1, "b": 0},
        noah_key="LORA_DIM",
        noah_tensors={"a": "attn.LoRA_a.weight", "b": "attn.LoRA_b.weight"},
    ),
    "adapter": PromptModule(
        title="Adapter",
        colour="#4aa564",
        params=_adapter_params,
        sized_axis=_ADAPTER_AXES,
        noah_key="ADAPTER_DIM",
        noah_tensors={
            "down": "adapter.ln1.weight",
            "down_bias": "adapter.ln1.bias",
            "up": "adapter.ln2.weight",
            "up_bias": "adapter.ln2.bias",
        },
    ),
    "parallel": PromptModule(  # AdaptFormer, arXiv 2205.13535
        title="Parallel adapter",
        colour="#9a66c0",
        params=_adapter_params,
        sized_axis=_ADAPTER_AXES,
    ),
}
