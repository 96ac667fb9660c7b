"""The sha256 of files."""

import hashlib
import os


def file_sha256(path: str | os.PathLike) -> str:
    """Computes the sha256 of a file, hexadecimal, without loading the file whole.

    Raises:
      OSError: the file cannot be read.
    """
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
