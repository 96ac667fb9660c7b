"""Checkpoints of what trains; the only file that imports Orbax."""

import pathlib
from typing import Any

import jax
from orbax.checkpoint import v1 as ocp


class Checkpoints:
    """The newest checkpoints under one folder, each named by its step.

    A checkpoint appears under its name only when it is complete (Orbax renames it at the end).
    """

    def __init__(self, folder: pathlib.Path, keep: int = 2):
        policy = ocp.training.preservation_policies.LatestN(keep)
        every = ocp.training.save_decision_policies.FixedIntervalPolicy(1)
        self._checkpointer = ocp.training.Checkpointer(
            folder.resolve(), preservation_policy=policy, save_decision_policy=every
        )

    def close(self) -> None:
        self._checkpointer.close()

    @property
    def latest(self) -> int | None:
        """The step of the newest checkpoint."""
        return latest.step if (latest := self._checkpointer.latest) else None

    def save(self, step: int, state: Any) -> None:
        """Writes `state`, a tree of arrays.

        Not in the background: the arrays are donated to the next step, and on a CPU the copy that
        a background write would hold is the same memory.
        """
        self._checkpointer.save(step, state)

    def load(self, like: Any) -> Any:
        """The newest checkpoint, as a tree like `like`: same structure, shapes and placement."""
        abstract = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), like
        )
        return self._checkpointer.load(self.latest, abstract)
