"""Checkpoints of what trains; the only file that imports Orbax."""

import contextlib
import errno
import os
import pathlib
import re
import shutil
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from noah_jax.digests import file_sha256
from noah_jax.errors import UserError
from noah_jax.runtime import processes, workdir

_STATE, _CHECKSUMS = "state", "checksums.json"
_UNFINISHED = "unfinished"
_KEPT = 2  # the newest one might turn out to be damaged
_SLACK_BYTES = 100_000  # for what a checkpoint holds besides its arrays


class Checkpoints:
    """The newest checkpoints under one folder, each a folder named by its step.

    A checkpoint gets its name when it is complete and its checksums are with it. A checkpoint whose
    files differ from the checksums, or that has another `purpose`, is never read. The state is
    small and the same in all processes, so the main one writes and reads for all. Orbax's v1
    interface cannot do that: there all processes must save together, to one file system.
    """

    def __init__(self, folder: pathlib.Path, say: workdir.Say, purpose: str = ""):
        self._folder, self._say, self._purpose = folder.resolve(), say, purpose
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
            made = unfinished.stat()
            # Orbax's threads would report a full disk by tracebacks.
            needed = sum(leaf.nbytes for leaf in jax.tree.leaves(state)) + _SLACK_BYTES
            if shutil.disk_usage(unfinished).free < needed:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            try:
                self._checkpointer.save(unfinished / _STATE, state)
            except (ValueError, RuntimeError) as error:
                code = re.search(r"os_error_code='(\d+)'", str(error))
                raise OSError(os.strerror(int(code[1])) if code else str(error)) from error
            finally:
                _refuse_remade(unfinished, made)
            files = _checksums(unfinished / _STATE)
            workdir.write_json(unfinished / _CHECKSUMS, {"purpose": self._purpose, "files": files})
            for path in (unfinished / _STATE / name for name in files):
                with open(path, "rb") as file:
                    os.fsync(file.fileno())
            workdir.remove(final)
            os.replace(unfinished, final)
            workdir.sync_folder(self._folder)  # before older ones go
            for old in self._complete()[_KEPT:]:
                workdir.remove(old)

    def load(self, like: Any) -> tuple[int, Any] | None:
        """The newest checkpoint that is undamaged; None if there is none.

        Damaged checkpoints are set aside and reported.

        Returns:
          Its step, and NumPy arrays in a tree like `like`: same structure and shapes.

        Raises:
          UserError: it has another structure, e.g. because an older version wrote it.
        """
        step = processes.from_main(self._newest)
        if step is None:
            return None
        state = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), like)
        if processes.is_main():
            folder = self._folder / str(step)
            try:
                found = self._checkpointer.restore(folder / _STATE, item=state)
                jax.tree.map(_require_alike, found, state)
            except (ValueError, KeyError, OSError) as error:
                raise UserError(
                    f"the checkpoint {folder} does not fit, so another version of this program "
                    "wrote it; --fresh starts anew"
                ) from error
            state = found
        return step, processes.arrays_from_main(state)

    def _newest(self) -> int | None:
        for folder in self._complete():
            if (problem := _problem(folder, self._purpose)) is None:
                return int(folder.name)
            workdir.set_aside(folder, self._say, f"the checkpoint {folder} {problem}")
        return None

    def _complete(self) -> list[pathlib.Path]:
        """The folders of complete checkpoints, newest first."""
        found = self._folder.iterdir() if self._folder.is_dir() else ()
        complete = [path for path in found if path.name.isdecimal()]
        return sorted(complete, key=lambda path: int(path.name), reverse=True)


def _problem(folder: pathlib.Path, purpose: str) -> str | None:
    """Says why a checkpoint must not be read; None if it may be.

    Raises:
      UserError: the system cannot read it now, which says nothing about it.
    """
    try:
        expected = workdir.read_json_here(folder / _CHECKSUMS)
    except UserError as error:
        return f"is damaged: {error}"
    if expected is None:
        return f"is damaged: {_CHECKSUMS} is missing"
    if expected.get("purpose") != purpose:
        return "belongs to something else"
    try:
        files, found = expected["files"], _checksums(folder / _STATE)
    except OSError as error:
        raise UserError(f"cannot read the checkpoint {folder}: {error}") from error
    differ = {name for name in files | found if files.get(name) != found.get(name)}
    return f"is damaged: {min(differ)} is not what was written" if differ else None


def _refuse_remade(unfinished: pathlib.Path, made: os.stat_result) -> None:
    """Raises OSError if Orbax made a workdir again that had gone, and removes that workdir."""
    with contextlib.suppress(FileNotFoundError):
        if os.path.samestat(made, unfinished.stat()):
            return
    workdir.remove(unfinished)
    with contextlib.suppress(OSError):  # a folder that is not empty stays
        for folder in unfinished.parents[:2]:
            folder.rmdir()
    raise OSError(errno.ENOENT, os.strerror(errno.ENOENT))


def _require_alike(found, expected) -> None:
    if found.shape != expected.shape or found.dtype != expected.dtype:
        raise ValueError(f"{found.dtype} {found.shape}, expected {expected.dtype} {expected.shape}")


def _checksums(folder: pathlib.Path) -> dict[str, str]:
    """The sha256 of each file in the folder, by its path in it."""
    return {
        str(path.relative_to(folder)): file_sha256(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
