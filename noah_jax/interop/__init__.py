"""Subnets as files for other programs, and genomes and weights of the original NOAH."""

from typing import TYPE_CHECKING

from noah_jax.faces import face
from noah_jax.space.files import read_genome, read_noah_yaml

if TYPE_CHECKING:
    from noah_jax.interop.noah import load_noah
else:  # without JAX until weights are read
    __getattr__ = face(__name__, {"load_noah": "noah:load_noah"})

__all__ = ["load_noah", "read_genome", "read_noah_yaml"]
