"""SHA-256 of weight files, and the notes beside the files, which are in `sha256sum`'s format."""

import functools
import hashlib
import os
import pathlib
import re
from collections.abc import Sequence

from noah_jax.digests import file_sha256
from noah_jax.errors import UserError


def sha256(path: pathlib.Path) -> str:
    """Computes a file's sha256, hexadecimal; a process reads an unchanged file only once.

    Raises:
      OSError: the file cannot be read.
    """
    path = path.resolve()
    status = path.stat()
    return _sha256(path, status.st_ino, status.st_size, status.st_mtime_ns)


@functools.lru_cache
def _sha256(path: pathlib.Path, *_version: int) -> str:
    return file_sha256(path)


def fingerprint(paths: Sequence[pathlib.Path]) -> str:
    """Computes a file's sha256; for several files, that of `sha256sum`'s output.

    Raises:
      OSError: a file cannot be read.
    """
    if len(paths) == 1:
        return sha256(paths[0])
    lines = sorted(f"{sha256(path)}  {path.name}\n" for path in paths)
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def note(path: pathlib.Path) -> pathlib.Path:
    """The path of the note of a file's checksum."""
    return path.with_name(path.name + ".sha256")


def write_note(path: pathlib.Path) -> None:
    """Writes the note of a file's checksum; `sha256sum --check` reads it, too."""
    part = path.with_name(path.name + ".sha256.part")
    part.write_text(f"{sha256(path)}  {path.name}\n")
    os.replace(part, note(path))


def agrees(path: pathlib.Path) -> bool:
    """Tells whether the file has the checksum in the note beside it; true without a note."""
    return not note(path).exists() or _noted(path) == sha256(path)


def verify(path: pathlib.Path) -> None:
    """Raises UserError if the note beside the file has another checksum; a note may be absent."""
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
