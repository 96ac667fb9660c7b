"""Evaluated genomes: their ranking, and the front of the best at each number of parameters."""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np


@dataclasses.dataclass(frozen=True)
class Candidate:
    """A genome and its results on the validation images.

    Attributes:
      genome: int32 `[blocks, columns]`.
      params: number of parameters, without the head.
      accuracy: share of the validation images, 0 to 1.
      loss: mean cross-entropy in nats; infinite if it could not be computed.
    """

    genome: np.ndarray
    params: int
    accuracy: float
    loss: float

    @property
    def rank(self) -> tuple[bool, float, float, int]:
        """A sort key that puts the best first: higher accuracy, lower loss, fewer parameters.

        With 200 images ties of accuracy are the rule. A candidate without a finite loss comes last.
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
    """Orders candidates front by front, the lonelier first (NSGA-II, Deb et al. 2002).

    One candidate dominates another if it has no more parameters and ranks no lower in accuracy,
    then loss. Within a front both extremes come first. Those with the largest gap to their
    neighbours, in parameters and in accuracy, follow.

    Returns:
      The indices of `candidates`, best first.
    """
    order: list[int] = []
    rest = sorted(range(len(candidates)), key=lambda row: candidates[row].rank)
    while rest:
        front = _first_front(candidates, rest)
        order += _lonely_first(candidates, front)
        rest = [row for row in rest if row not in set(front)]
    return order


def pareto_front(candidates: Sequence[Candidate]) -> list[Candidate]:
    """The candidates with a finite loss that no other dominates, fewest parameters first."""
    finite = [candidate for candidate in candidates if candidate.is_finite]
    rows = sorted(range(len(finite)), key=lambda row: finite[row].rank)
    return [finite[row] for row in reversed(_first_front(finite, rows))]


def _first_front(candidates: Sequence[Candidate], rows: Sequence[int]) -> list[int]:
    """The rows that no other row dominates, in descending order of parameters.

    Args:
      rows: indices of `candidates`, best first.
    """
    front: list[int] = []
    fewest = math.inf
    for row in rows:
        if candidates[row].params < fewest:
            front.append(row)
            fewest = candidates[row].params
    return front


def _lonely_first(candidates: Sequence[Candidate], front: Sequence[int]) -> list[int]:
    loneliness = np.zeros(len(front))
    for values in (
        np.array([candidates[row].params for row in front], float),
        np.array([candidates[row].accuracy for row in front], float),
    ):
        gaps = np.abs(values[2:] - values[:-2]) / (np.ptp(values) or 1.0)
        loneliness += np.concatenate([[np.inf], gaps, [np.inf]])[: len(front)]
    return [front[i] for i in np.argsort(-loneliness, kind="stable")]
