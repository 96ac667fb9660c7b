"""Genomes, the space they come from, and the files they are kept in; NumPy only."""

from noah_jax.space.search_space import OPERATORS, SearchSpace

__all__ = ["OPERATORS", "SearchSpace"]
