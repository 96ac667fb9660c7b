"""Images: where they come from, and how they are read; without JAX."""

from noah_jax.data.loader import Source, Split
from noah_jax.data.sources import open_source, opened_once

__all__ = ["Source", "Split", "open_source", "opened_once"]
