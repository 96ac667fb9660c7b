"""SHA-256 of weight files, and the notes of it that lie beside them as `sha256sum` writes them."""

import functools
import os
import pathlib
import re

from noah_jax.digests import file_sha256
from noah_jax.errors import UserError


def sha256(path: pathlib.Path) -> str:
    """Hexadecimal; a file that has not changed since is read once in a process."""
    path = path.resolve()
    status = path.stat()
    return _sha256(path, status.st_ino, status.st_size, status.st_mtime_ns)


@functools.lru_cache
def _sha256(path: pathlib.Path, *_version: int) -> str:
    return file_sha256(path)


def note(path: pathlib.Path) -> pathlib.Path:
    """Where the checksum of a file is noted."""
    return path.with_name(path.name + ".sha256")


def write_note(path: pathlib.Path) -> None:
    """`sha256sum --check` reads it, too."""
    part = path.with_name(path.name + ".sha256.part")
    part.write_text(f"{sha256(path)}  {path.name}\n")
    os.replace(part, note(path))


def agrees(path: pathlib.Path) -> bool:
    """Whether the file is what the note beside it says; true without one."""
    return not note(path).exists() or _noted(path) == sha256(path)


def verify(path: pathlib.Path) -> None:
    """Raises UserError if there is a note beside the file that says otherwise."""
    if not agrees(path):
        raise UserError(
            f"{path} is damaged, or not the file that {note(path)} was made for: its sha256 is "
            f"{sha256(path)}, the note says {_noted(path) or 'none'}. Delete both and fetch the "
            f"file again; if you changed it yourself, delete the note"
        )


def _noted(path: pathlib.Path) -> str | None:
    with open(note(path), "rb") as file:
        found = set(re.findall(rb"\b[0-9a-f]{64}\b", file.read(1 << 16).lower()))
    return found.pop().decode() if len(found) == 1 else None
