"""The shape of a Vision Transformer, without JAX."""

import dataclasses
import itertools
import re
from typing import Any, Literal

from noah_jax.vit.execution import Execution

_SHAPES: dict[str, tuple[int, ...]] = {  # width, depth, heads, and the MLP's if not 4 * width
    "ti": (192, 12, 3),
    "s": (384, 12, 6),
    "b": (768, 12, 12),
    "l": (1024, 24, 16),
    "h": (1280, 32, 16),
    "so400m": (1152, 27, 16, 4304),  # arXiv 2305.13035
}
_PATCH_SIZES = (8, 14, 16, 32)
_VARIANTS: dict[str, dict[str, Any]] = {
    "": {},
    "_clip": {"pre_norm": True, "quick_gelu": True, "epsilon": 1e-5},  # OpenAI's CLIP
    "_openclip": {"pre_norm": True, "epsilon": 1e-5},  # OpenCLIP's own, with the exact GELU
    "_reg4": {"registers": 4, "antialias": True},  # DINOv2 with registers
    "_dist": {"registers": 1},  # distilled DeiT; the register is its distillation token
    "_moco": {},  # MoCo v3
    "_dinov3": {"registers": 4, "rope": True, "epsilon": 1e-5},
    "_mean": {"pooling": "mean"},  # I-JEPA
    "_siglip": {"pooling": "attention", "tanh_gelu": True},  # SigLIP 2 as well
    "_siglip_mean": {"pooling": "mean", "tanh_gelu": True},  # a tower without pooling head
}
_MOCO_HEADS = {"s": 12}  # where MoCo v3 has others than its shape (arXiv 2104.02057)


@dataclasses.dataclass(frozen=True)
class ViTConfig:
    """The shape of a ViT, and how it computes.

    Raises:
      ValueError: the patch size does not divide the image size, or the heads do not divide the
        width.
    """

    width: int
    depth: int
    heads: int
    patch_size: int
    image_size: int = 224  # pixels, height and width
    num_classes: int = 1000
    mlp_width: int | None = None  # of the MLP's hidden layer; None = 4 * width
    pooling: Literal["class", "attention", "mean"] = "class"  # else there is no class token
    registers: int = 0  # tokens before the patches, without a position
    rope: bool = False  # queries and keys turn with the patch's place; no position table
    pre_norm: bool = False  # a layer norm before the first block, and no bias in the embedding
    quick_gelu: bool = False  # in the MLP, instead of the exact GELU
    tanh_gelu: bool = False  # in the MLP, the GELU's approximation by tanh
    epsilon: float = 1e-6  # of the layer norms
    antialias: bool = False  # how a position table of another size is interpolated
    drop_path: float = 0.1  # of the last block; linear over depth from 0
    dropout: float = 0.1  # inside the prompt modules
    dtype: str = "float32"  # of the computation; trainable parameters and logits are float32
    rematerialise: bool = False  # the backward pass keeps only a block's input, computes the rest
    execution: Execution = Execution()

    def __post_init__(self):
        if self.image_size % self.patch_size:
            below = self.image_size // self.patch_size * self.patch_size
            near = sorted({below or self.patch_size, below + self.patch_size})
            raise ValueError(
                f"image_size {self.image_size} is not divisible by the patch size "
                f"{self.patch_size}; use {' or '.join(map(str, near))}"
            )
        if self.heads < 1 or self.width % self.heads:
            fit = [n for n in range(1, self.width + 1) if self.width % n == 0]
            raise ValueError(
                f"heads {self.heads} do not divide the width {self.width}; "
                f"use one of {', '.join(map(str, fit[: len(fit) // 2 + 1]))}"
            )

        if self.rope and self.width // self.heads % 4:
            raise ValueError(
                f"heads {self.heads} have {self.width // self.heads} channels each, but RoPE needs "
                "a multiple of 4"
            )

    @classmethod
    def named(cls, name: str, **overrides: Any) -> "ViTConfig":
        """Makes the config of a name, e.g. `vit_b16`, `vit_s14_reg4` or `vit_l14_clip`.

        `vit_<ti|s|b|l|h|so400m><patch size>` is the plain ViT. The suffix `_clip` means the image
        tower of OpenAI's CLIP, `_openclip` that of OpenCLIP's own models, which have another GELU,
        `_reg4` DINOv2 with registers, `_dist` the distilled DeiT, `_moco` MoCo v3, whose ViT-S has
        12 heads, `_dinov3` DINOv3 but for its sizes with a gated MLP. `_siglip` is SigLIP's or
        SigLIP 2's image tower, with its pooling head, which stays frozen, `_siglip_mean` a tower
        without one, whose patches are averaged, and `_mean` a ViT of that kind with the exact GELU,
        as I-JEPA's. A weight file says neither its GELU nor its heads.

        Args:
          overrides: other fields of the config, or these fields with other values.

        Raises:
          ValueError: the name is unknown, or see the class.
        """
        match = re.fullmatch(r"vit_([a-z0-9]*?[a-z])(\d+)(_\w+)?", name)
        shape, patch_size, variant = match.groups("") if match else ("", "0", "")
        if shape not in _SHAPES or int(patch_size) not in _PATCH_SIZES or variant not in _VARIANTS:
            raise ValueError(
                f"unknown ViT {name!r}: expected vit_<{'|'.join(_SHAPES)}><patch size>"
                f"[{'|'.join(filter(None, _VARIANTS))}], patch size one of {_PATCH_SIZES}"
            )
        names = ("width", "depth", "heads", "mlp_width")
        fields: dict[str, Any] = dict(zip(names, _SHAPES[shape], strict=False))
        if variant == "_moco":
            fields["heads"] = _MOCO_HEADS.get(shape, fields["heads"])
        fields["patch_size"] = int(patch_size)
        return cls(**(fields | _VARIANTS[variant] | overrides))

    @classmethod
    def names(cls, **facts: Any) -> list[str]:
        """Lists the names for `named` whose configs have these values of fields."""
        parts = itertools.product(["vit_"], _SHAPES, map(str, _PATCH_SIZES), _VARIANTS)
        configs = {name: cls.named(name, image_size=0) for name in map("".join, parts)}
        return [name for name, config in configs.items() if facts.items() <= vars(config).items()]

    @property
    def class_tokens(self) -> int:
        """The number of class tokens, 1 or 0."""
        return int(self.pooling == "class")

    @property
    def first_patch(self) -> int:
        """The number of tokens before the patches: class token and registers."""
        return self.class_tokens + self.registers

    @property
    def first_slot(self) -> int:
        """The number of tokens before the slots of prompts: class token, registers, patches."""
        return self.first_patch + self.grid**2

    @property
    def grid(self) -> int:
        """The number of patches along one side."""
        return self.image_size // self.patch_size
