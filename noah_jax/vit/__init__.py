"""The Vision Transformer and its prompt modules."""

from typing import TYPE_CHECKING

from noah_jax.faces import face
from noah_jax.vit.config import ViTConfig

if TYPE_CHECKING:
    from noah_jax.vit.block import Block
    from noah_jax.vit.model import ViT
else:  # without JAX until a model is used
    __getattr__ = face(__name__, {"Block": "block:Block", "ViT": "model:ViT"})

__all__ = ["Block", "ViT", "ViTConfig"]
