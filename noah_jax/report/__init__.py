"""Results for people: pages, figures, tables, and the status of runs."""

from typing import TYPE_CHECKING

from noah_jax.faces import face

if TYPE_CHECKING:
    from noah_jax.report.report import write
else:  # without Matplotlib, which the status of runs need not wait for
    __getattr__ = face(__name__, {"write": "report:write"})

__all__ = ["write"]
