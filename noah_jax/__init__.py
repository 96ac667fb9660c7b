"""Neural Prompt Search (NOAH, arXiv 2206.04673) in JAX/Flax."""

__version__ = "0.1.0"
