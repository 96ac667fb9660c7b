"""Pre-trained weights: which there are, and how they are fetched, read and arranged."""

from noah_jax.pretrained.backbones import BACKBONES, NORMALISATIONS
from noah_jax.pretrained.loading import backbone, fingerprint, load

__all__ = ["BACKBONES", "NORMALISATIONS", "backbone", "fingerprint", "load"]
