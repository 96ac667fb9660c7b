"""The Vision Transformer and its prompt modules."""

from noah_jax.vit.block import Block
from noah_jax.vit.config import ViTConfig
from noah_jax.vit.model import ViT

__all__ = ["Block", "ViT", "ViTConfig"]
