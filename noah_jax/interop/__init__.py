"""Subnets as files for other programs, and genomes and weights of the original NOAH."""

from noah_jax.interop.noah import load_noah
from noah_jax.space.files import read_genome, read_noah_yaml

__all__ = ["load_noah", "read_genome", "read_noah_yaml"]
