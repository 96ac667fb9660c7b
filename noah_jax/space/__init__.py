"""Genomes, the search space that they come from, and the files that hold them; NumPy only."""

from noah_jax.space.search_space import OPERATORS, SearchSpace

__all__ = ["OPERATORS", "SearchSpace"]
