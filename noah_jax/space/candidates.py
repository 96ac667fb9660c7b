"""Evaluated genomes: which is better, and the best at each number of parameters."""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np


@dataclasses.dataclass(frozen=True)
class Candidate:
    """A genome and what it showed on the validation images, with inherited weights."""

    genome: np.ndarray
    params: int
    accuracy: float
    loss: float

    @property
    def rank(self):
        """Sorts best first: 200 images make ties of accuracy the rule, so loss, then size.

        What has no finite loss comes last.
        """
        return not self.is_finite, -self.accuracy, self.loss, self.params

    @property
    def is_finite(self) -> bool:
        return math.isfinite(self.loss)

    def to_json(self) -> dict:
        return {
            "genome": self.genome.tolist(),
            "params": self.params,
            "val_accuracy": self.accuracy,
            "val_loss": self.loss if self.is_finite else None,  # JSON has no other numbers
        }

    @classmethod
    def from_json(cls, values: dict) -> "Candidate":
        genome, loss = np.array(values["genome"], np.int32), values["val_loss"]
        loss = math.inf if loss is None else loss
        return cls(genome, values["params"], values["val_accuracy"], loss)


def pareto_order(candidates: Sequence[Candidate]) -> list[int]:
    """Indices, best first: by front, and within one the lonelier first (NSGA-II, Deb et al. 2002).

    One candidate dominates another if it has no more parameters and ranks no lower in accuracy,
    then loss; both extremes of a front, and then those with the largest gap to their neighbours in
    parameters and accuracy, come first.
    """
    order: list[int] = []
    rest = sorted(range(len(candidates)), key=lambda row: candidates[row].rank)
    while rest:
        front = _first_front(candidates, rest)
        order += _lonely_first(candidates, front)
        rest = [row for row in rest if row not in set(front)]
    return order


def pareto_front(candidates: Sequence[Candidate]) -> list[Candidate]:
    """Those with a finite loss that no other dominates, fewest parameters first."""
    finite = [candidate for candidate in candidates if candidate.is_finite]
    rows = sorted(range(len(finite)), key=lambda row: finite[row].rank)
    return [finite[row] for row in reversed(_first_front(finite, rows))]


def _first_front(candidates, rows) -> list[int]:
    """Of `rows`, which are best first, those that no other dominates; fewer parameters later."""
    front, fewest = [], math.inf
    for row in rows:
        if candidates[row].params < fewest:
            front.append(row)
            fewest = candidates[row].params
    return front


def _lonely_first(candidates, front) -> list[int]:
    loneliness = np.zeros(len(front))
    for values in (
        np.array([candidates[row].params for row in front], float),
        np.array([candidates[row].accuracy for row in front], float),
    ):
        gaps = np.abs(values[2:] - values[:-2]) / (np.ptp(values) or 1.0)
        loneliness += np.concatenate([[np.inf], gaps, [np.inf]])[: len(front)]
    return [front[i] for i in np.argsort(-loneliness, kind="stable")]
