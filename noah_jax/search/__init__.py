"""The supernet, the search in it, and the methods that find a genome without a supernet."""

from typing import TYPE_CHECKING

from noah_jax.faces import face

if TYPE_CHECKING:
    from noah_jax.search.evolution import evolve, propose
else:  # without JAX, for which the help of `python -m noah_jax.search` does not wait
    __getattr__ = face(__name__, {name: f"evolution:{name}" for name in ("evolve", "propose")})

__all__ = ["evolve", "propose"]
