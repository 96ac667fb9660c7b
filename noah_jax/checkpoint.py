"""Checkpoints of what trains; the only file that imports Orbax."""

import errno
import hashlib
import os
import pathlib
import re
import shutil
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from noah_jax import processes, workdir
from noah_jax.errors import UserError

_STATE, _CHECKSUMS = "state", "checksums.json"
_UNFINISHED = "unfinished"
_SLACK_BYTES = 100_000  # for what a checkpoint holds besides its arrays


class Checkpoints:
    """The newest checkpoints under one folder, each a folder named by its step.

    A checkpoint gets its name when it is complete and its checksums are with it; one whose files
    differ from them is never read. What trains is small and the same in all processes: the main one
    writes and reads for all. Hence not Orbax's v1 interface: there all processes must save
    together, to one file system.
    """

    def __init__(self, folder: pathlib.Path, say: workdir.Say, keep: int = 2):
        self._folder, self._say, self._keep = folder.resolve(), say, keep
        alone = ocp.options.MultiprocessingOptions(active_processes={0})
        self._checkpointer = ocp.Checkpointer(
            ocp.PyTreeCheckpointHandler(multiprocessing_options=alone),
            multiprocessing_options=alone,
        )

    def save(self, step: int, state: Any) -> None:
        """Writes `state`, a tree of arrays, and deletes all but the newest checkpoints.

        Not in the background: the arrays are donated to the next step, and on a CPU the copy that
        a background write would hold is the same memory.

        Raises:
          UserError: it cannot be written; older ones are still there.
        """
        if not processes.is_main():
            return
        state = jax.tree.map(np.asarray, state)
        final, unfinished = self._folder / str(step), self._folder / _UNFINISHED
        with workdir.writing(final):
            self._folder.mkdir(exist_ok=True)  # not its parents: a workdir that is gone stays gone
            workdir.remove(unfinished)
            unfinished.mkdir()
            # Orbax's threads would tell a full disk in tracebacks.
            needed = sum(leaf.nbytes for leaf in jax.tree.leaves(state)) + _SLACK_BYTES
            if shutil.disk_usage(unfinished).free < needed:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            try:
                self._checkpointer.save(unfinished / _STATE, state)
            except (ValueError, RuntimeError) as error:
                code = re.search(r"os_error_code='(\d+)'", str(error))
                raise OSError(os.strerror(int(code[1])) if code else str(error)) from error
            workdir.write_json(unfinished / _CHECKSUMS, _checksums(unfinished / _STATE))
            workdir.remove(final)
            os.replace(unfinished, final)
            for old in self._complete()[self._keep :]:
                workdir.remove(old)

    def load(self, like: Any) -> tuple[int, Any] | None:
        """The newest checkpoint that is undamaged; None if there is none.

        Damaged ones are set aside, and said.

        Returns:
          Its step, and NumPy arrays in a tree like `like`: same structure and shapes.

        Raises:
          UserError: it is of another structure, as one that an older version wrote.
        """
        step = processes.from_main(self._newest)
        if step is None:
            return None
        state = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), like)
        if processes.is_main():
            folder = self._folder / str(step)
            try:
                state = self._checkpointer.restore(folder / _STATE, item=state)
            except (ValueError, KeyError, OSError) as error:
                raise UserError(
                    f"the checkpoint {folder} does not fit, so another version of this program "
                    f"wrote it; --fresh starts anew ({error})"
                ) from error
        return step, processes.arrays_from_main(state)

    def _newest(self) -> int | None:
        for folder in self._complete():
            if (problem := _problem(folder)) is None:
                return int(folder.name)
            workdir.set_aside(folder, self._say, f"the checkpoint {folder} is damaged: {problem}")
        return None

    def _complete(self) -> list[pathlib.Path]:
        """Newest first."""
        found = self._folder.iterdir() if self._folder.is_dir() else ()
        return sorted(
            (path for path in found if path.name.isdecimal()),
            key=lambda path: int(path.name),
            reverse=True,
        )


def _problem(folder: pathlib.Path) -> str | None:
    """What is wrong with the files of a checkpoint, None if nothing is."""
    try:
        expected = workdir.read_json_here(folder / _CHECKSUMS)
        if expected is None:
            return f"{_CHECKSUMS} is missing"
        if (found := _checksums(folder / _STATE)) != expected:
            differ = {name for name in expected | found if expected.get(name) != found.get(name)}
            return f"{min(differ)} is not what was written"
    except (UserError, OSError) as error:
        return str(error)
    return None


def _checksums(folder: pathlib.Path) -> dict[str, str]:
    """Of all files in the folder, by their paths in it."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
