"""The range of parameter counts that a search admits."""

import dataclasses
from typing import Any

import numpy as np


@dataclasses.dataclass(frozen=True)
class Budget:
    """The fewest and the most parameters that a genome may have, without the head."""

    least: int
    most: int

    def admits(self, params: int | np.ndarray) -> Any:
        """Tells whether `params`, a number or an array of numbers, is within the budget."""
        return (self.least <= params) & (params <= self.most)

    def __str__(self):
        return f"{self.least / 1e6:.4f} to {self.most / 1e6:.4f} M parameters"

    def refusal(self, what: str) -> str:
        """Returns the message for a budget that admits `what`, as in "none of vpt-1, vpt-2"."""
        return (
            f"a budget of {self} admits {what}; change search.least_millions or "
            "search.budget_millions"
        )
