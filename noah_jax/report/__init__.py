"""Results for people: pages, figures, tables, and the status of runs."""

from noah_jax.report.report import write

__all__ = ["write"]
