"""Results for people."""

from noah_jax.report.report import write

__all__ = ["write"]
