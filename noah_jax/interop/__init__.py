"""Files for other programs, and from NOAH's original."""

from noah_jax.interop.noah import load_noah
from noah_jax.space.files import read_genome, read_noah_yaml

__all__ = ["load_noah", "read_genome", "read_noah_yaml"]
