"""Checkpoints of what trains; the only file that imports Orbax."""

import pathlib
import shutil
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from noah_jax import processes
from noah_jax.errors import UserError


class Checkpoints:
    """The newest checkpoints under one folder, each named by its step.

    A checkpoint appears under its name only when it is complete (Orbax renames it at the end).
    What trains is small and the same in all processes: the main one writes and reads for all.
    Hence not Orbax's v1 interface: there all processes must save together, to one file system.
    """

    def __init__(self, folder: pathlib.Path, keep: int = 2):
        self._folder, self._keep = folder.resolve(), keep
        alone = ocp.options.MultiprocessingOptions(active_processes={0})
        self._checkpointer = ocp.Checkpointer(
            ocp.PyTreeCheckpointHandler(multiprocessing_options=alone),
            multiprocessing_options=alone,
        )
        if processes.is_main():
            self._folder.mkdir(parents=True, exist_ok=True)
            for unfinished in self._folder.glob("*.orbax-checkpoint-tmp*"):
                shutil.rmtree(unfinished)

    @property
    def latest(self) -> int | None:
        """The step of the newest checkpoint."""
        return processes.from_main(lambda: max(map(_step, self._complete()), default=None))

    def save(self, step: int, state: Any) -> None:
        """Writes `state`, a tree of arrays, and deletes all but the newest checkpoints.

        Not in the background: the arrays are donated to the next step, and on a CPU the copy that
        a background write would hold is the same memory.
        """
        if not processes.is_main():
            return
        self._checkpointer.save(self._folder / str(step), jax.tree.map(np.asarray, state))
        for old in sorted(self._complete(), key=_step)[: -self._keep]:
            shutil.rmtree(old)

    def load(self, like: Any) -> Any:
        """The newest checkpoint, NumPy arrays in a tree like `like`: same structure and shapes.

        Raises:
          UserError: it cannot be read, as one that an older version wrote.
        """
        latest = self.latest
        state = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), like)
        if processes.is_main():
            folder = self._folder / str(latest)
            try:
                state = self._checkpointer.restore(folder, item=state)
            except (ValueError, KeyError, OSError) as error:
                raise UserError(
                    f"the checkpoint {folder} cannot be read: delete it to go on from an older "
                    f"one or from the start ({error})"
                ) from error
        return processes.arrays_from_main(state)

    def _complete(self) -> list[pathlib.Path]:
        return [path for path in self._folder.iterdir() if path.name.isdecimal()]


def _step(path: pathlib.Path) -> int:
    return int(path.name)
