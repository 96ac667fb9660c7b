"""Pre-trained weights: which there are, and how they are fetched, read and arranged."""

from noah_jax.pretrained.backbones import BACKBONES, NORMALISATIONS
from noah_jax.pretrained.loading import (
    backbone,
    backbone_and_notes,
    believed,
    fingerprint,
    load,
)

__all__ = [
    "BACKBONES",
    "NORMALISATIONS",
    "backbone",
    "backbone_and_notes",
    "believed",
    "fingerprint",
    "load",
]
