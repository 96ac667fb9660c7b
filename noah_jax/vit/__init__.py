"""The Vision Transformer and its prompt modules."""

from noah_jax.vit.config import ViTConfig
from noah_jax.vit.model import Block, ViT

__all__ = ["Block", "ViT", "ViTConfig"]
