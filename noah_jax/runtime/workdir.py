"""The files of a run: whole or absent, verified when they are read, written by one run at a time.

If there are several processes, the main one writes, and reads for all.
"""

import contextlib
import datetime
import hashlib
import json
import os
import pathlib
import platform
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from typing import IO, Any

import filelock

from noah_jax.errors import UserError
from noah_jax.runtime import preemption, processes

# A process that only checks whether a workdir is claimed holds the lock for a moment.
_PATIENCE_TO_CLAIM, _PATIENCE_TO_LOOK = 1.0, 0.2  # seconds
_CHECKSUM = "sha256"  # the key, in our JSON files, of the checksum of all other keys
_LOCK = ".lock"

Say = Callable[[str], None]


def make_folder(path: pathlib.Path, parents: bool = False) -> None:
    """Makes the folder, unless it is there.

    Args:
      parents: also those above it; not inside a workdir, as one that is gone stays gone.

    Raises:
      UserError: it cannot be made.
    """
    if processes.is_main():
        with writing(path):
            path.mkdir(parents=parents, exist_ok=True)


def fresh(path: pathlib.Path) -> pathlib.Path:
    """Returns `path` if nothing is there, else the first free of `path-2`, `path-3`, …."""

    def free():
        number, candidate = 1, path
        while candidate.exists():
            number += 1
            candidate = pathlib.Path(f"{path}-{number}")
        return str(candidate)

    path = path.resolve() if path.name in ("", "..") else path  # as "." has no name
    return pathlib.Path(processes.from_main(free))


# --- One run at a time ---------------------------------------------------------------------------


@contextlib.contextmanager
def claim(workdir: pathlib.Path, say: Say) -> Iterator[None]:
    """Keeps other runs out of the folder; the system ends the claim even if the process is killed.

    Raises:
      UserError: another run is in it.
    """
    if not processes.is_main():
        yield
        return
    path = workdir / _LOCK
    with writing(path):
        file = open(path, "a+")
    with file:
        if not _lock(file, workdir, _PATIENCE_TO_CLAIM):
            say(f"  {workdir} cannot be locked here: see to it that no other run uses it")
        with writing(path):
            file.truncate(0)
            file.write(
                f"process {os.getpid()} on {platform.node()}, "
                f"since {datetime.datetime.now():%Y-%m-%d %H:%M:%S}\n"
            )
            file.flush()
        yield


def refuse_if_claimed(workdir: pathlib.Path) -> None:
    """Raises UserError if another run is in the folder; writes nothing."""
    path = workdir / _LOCK
    if processes.is_main() and path.is_file():
        mode = "r+" if os.access(path, os.W_OK) else "r"  # NFS locks only what can be written
        with writing(path), open(path, mode) as file:
            _lock(file, workdir, _PATIENCE_TO_LOOK)


def _lock(file: IO[str], workdir: pathlib.Path, patience: float) -> bool:
    """Locks the file until it is closed; False where the file system has no locks.

    The file is ours, not filelock's, because its text says who has the lock.

    Raises:
      UserError: another run has it.
    """
    deadline = time.monotonic() + patience
    try:
        while not filelock.lock_descriptor(file.fileno(), blocking=False):
            if time.monotonic() > deadline:
                file.seek(0)
                raise UserError(
                    f"{workdir} is in use by another run ({file.read().strip()}): wait for it, or "
                    "choose another with --workdir=DIR"
                )
            time.sleep(0.005)  # who only looks has it for less
    except OSError:
        return False
    return True


# --- Files ---------------------------------------------------------------------------------------


def read_json(path: pathlib.Path, say: Say | None = None) -> Any:
    """Reads what `write_json` wrote; None if the file is not there.

    Args:
      say: for a file that can be made again: a damaged one is set aside as `<name>.damaged`, which
        is said here, and counts as absent.

    Raises:
      UserError: the file is damaged.
    """

    def read():
        try:
            return read_json_here(path)
        except UserError as error:
            if say is None:
                raise
            set_aside(path, say, str(error))
            return None

    return processes.from_main(read)


def read_json_here(path: pathlib.Path) -> Any:
    """Reads as `read_json` does, for the main process alone.

    Raises:
      UserError: the file is damaged.
    """
    if not path.is_file():
        return None
    try:
        values = json.loads(path.read_bytes())
        if not isinstance(values, dict) or values.pop(_CHECKSUM, None) != _checksum(values):
            raise ValueError("it does not have its checksum")
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is damaged: {error}") from error
    return values


def _checksum(values: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def set_aside(path: pathlib.Path, say: Say, problem: str) -> None:
    """Renames a damaged file or folder to `<name>.damaged`, in the place of an older such one."""
    aside = path.with_name(path.name + ".damaged")
    with writing(aside):
        remove(aside)
        os.replace(path, aside)
    say(f"  {problem}; set aside as {aside}")


def remove(path: pathlib.Path) -> None:
    """Deletes a file, a folder with all that is in it, or nothing."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def copy_folder(source: pathlib.Path, target: pathlib.Path) -> None:
    """Copies a folder of another run, unless `target` is there: as a whole or not at all.

    Raises:
      UserError: it cannot be copied.
    """
    if not processes.is_main() or target.exists():
        return
    scratch = target.with_name(target.name + ".part")
    with writing(target):
        remove(scratch)
        shutil.copytree(source, scratch)
        os.replace(scratch, target)


def discard(path: pathlib.Path) -> None:
    """Deletes a file of a run that is no longer needed, if it is there."""
    if processes.is_main():
        with writing(path):
            path.unlink(missing_ok=True)


def write_json(path: pathlib.Path, values: Mapping[str, Any]) -> None:
    """Writes a line a key, the checksum last; see `write_bytes`."""
    if not processes.is_main():
        return
    values = {**values, _CHECKSUM: _checksum(json.loads(json.dumps(values)))}
    lines = (f"  {json.dumps(key)}: {json.dumps(value)}" for key, value in values.items())
    write_text(path, "{\n" + ",\n".join(lines) + "\n}\n")


def write_text(path: pathlib.Path, text: str) -> None:
    """Writes a file of text; see `write_bytes`."""
    write_bytes(path, text.encode("utf-8", errors="replace"))


def write_bytes(path: pathlib.Path, content: bytes) -> None:
    """Writes a file that is either there as a whole or not at all.

    Raises:
      UserError: it cannot be written.
    """
    if not processes.is_main():
        return
    scratch = path.with_name(path.name + ".part")
    with writing(path):
        with open(scratch, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(scratch, path)
        sync_folder(path.parent)


def sync_folder(path: pathlib.Path) -> None:
    """Waits until the names in a folder are on the disk, if the file system supports that."""
    folder = os.open(path, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # mounted buckets cannot
            os.fsync(folder)
    finally:
        os.close(folder)


def append_line(path: pathlib.Path, line: str) -> None:
    """Appends a line; a line before it that was cut off stays a line of its own.

    Raises:
      UserError: it cannot be written.
    """
    with writing(path), open(path, "a+b") as file:
        if file.tell():
            file.seek(-1, os.SEEK_END)
            if file.read(1) != b"\n":
                file.write(b"\n")
        file.write(line.encode() + b"\n")


def read_lines(path: pathlib.Path) -> list[dict[str, Any]]:
    """Reads the JSON objects that `append_line` wrote; lines that are cut off are left out."""
    found = []
    for line in path.read_bytes().splitlines() if path.is_file() else []:
        with contextlib.suppress(ValueError, RecursionError):
            found.append(json.loads(line))
    return [values for values in found if isinstance(values, dict)]


@contextlib.contextmanager
def writing(path: pathlib.Path) -> Iterator[None]:
    """Turns the system's errors into a UserError, which says that saved files are kept."""
    try:
        yield
    except OSError as error:
        raise UserError(
            f"cannot write {path}: {error.strerror or error}. What was saved before is kept: put "
            f"that right, and {preemption.advice()}"
        ) from error
