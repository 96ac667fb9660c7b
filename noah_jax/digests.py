"""The sha256 of files."""

import hashlib
import os


def file_sha256(path: str | os.PathLike) -> str:
    """Hexadecimal; the file is read in pieces.

    Raises:
      OSError: it cannot be read.
    """
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
