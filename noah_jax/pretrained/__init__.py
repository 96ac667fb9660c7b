"""Pre-trained weights: which there are, and how they are fetched, read and arranged."""

from typing import TYPE_CHECKING

from noah_jax.faces import face
from noah_jax.pretrained.backbones import BACKBONES, NORMALISATIONS

if TYPE_CHECKING:
    from noah_jax.pretrained.loading import (
        backbone,
        backbone_and_notes,
        believed,
        fingerprint,
        load,
    )
else:  # without JAX until weights are read
    _LOADING = ("backbone", "backbone_and_notes", "believed", "fingerprint", "load")
    __getattr__ = face(__name__, {name: f"loading:{name}" for name in _LOADING})

__all__ = [
    "BACKBONES",
    "NORMALISATIONS",
    "backbone",
    "backbone_and_notes",
    "believed",
    "fingerprint",
    "load",
]
