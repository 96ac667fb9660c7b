"""The supernet, the search in it, and the methods that find a genome without a supernet."""

from noah_jax.search.evolution import evolve, propose

__all__ = ["evolve", "propose"]
