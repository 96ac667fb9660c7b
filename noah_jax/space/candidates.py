"""Evaluated genomes: their ranking, and the front of the best at each number of parameters."""

import dataclasses
import math
from collections.abc import Iterable, Sequence

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


def pareto_order(candidates: Sequence[Candidate]) -> list[Candidate]:
    """Orders candidates front by front, the lonelier first (NSGA-II, Deb et al. 2002).

    One candidate dominates another if it has no more parameters and ranks no lower in accuracy,
    then loss. Within a front both extremes come first. Those with the largest gap to their
    neighbours, in parameters and in accuracy, follow.
    """
    order: list[Candidate] = []
    rest = list(candidates)
    while rest:
        front, rest = _split(rest)
        order += _lonely_first(front)
    return order


def pareto_front(candidates: Sequence[Candidate]) -> list[Candidate]:
    """The candidates with a finite loss that no other dominates, fewest parameters first."""
    front, _ = _split(candidate for candidate in candidates if candidate.is_finite)
    return front[::-1]


def _split(candidates: Iterable[Candidate]) -> tuple[list[Candidate], list[Candidate]]:
    """Those that no other dominates, in descending order of parameters, and the rest."""
    front: list[Candidate] = []
    rest: list[Candidate] = []
    for candidate in sorted(candidates, key=lambda candidate: candidate.rank):
        better = not front or candidate.params < front[-1].params
        (front if better else rest).append(candidate)
    return front, rest


def _lonely_first(front: Sequence[Candidate]) -> list[Candidate]:
    loneliness = np.zeros(len(front))
    for name in ("params", "accuracy"):
        values = np.array([getattr(candidate, name) for candidate in front], float)
        gaps = np.abs(values[2:] - values[:-2]) / (np.ptp(values) or 1.0)
        loneliness += np.concatenate([[np.inf], gaps, [np.inf]])[: len(front)]
    return [front[i] for i in np.argsort(-loneliness, kind="stable")]
