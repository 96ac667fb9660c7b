"""The supernet, the search in it, and the methods that find a genome without one."""

from noah_jax.search.evolution import evolve, propose

__all__ = ["evolve", "propose"]
