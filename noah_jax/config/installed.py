"""Finds the configs that come with the package by the path that they have in a clone."""

import pathlib
import re
from collections.abc import Sequence

_PACKAGE = pathlib.Path(__file__).parents[1]
# An installed package has `configs` inside, a clone has it beside the package.
_HOME = _PACKAGE if (_PACKAGE / "configs").is_dir() else _PACKAGE.parent
_ARGUMENT = re.compile(r"((?:--?config=)?)(configs/\w+\.py)((?::.*)?)", re.DOTALL)


def find(arguments: Sequence[str]) -> list[str]:
    """Replaces `configs/….py` by its full path, unless the current folder has a file of that path.

    Args:
      arguments: of a command line, e.g. `--config=configs/vtab.py:cifar100`.
    """
    return [_found(argument) for argument in arguments]


def _found(argument: str) -> str:
    match = _ARGUMENT.fullmatch(argument)
    if not match or pathlib.Path(match[2]).exists() or not (_HOME / match[2]).is_file():
        return argument
    return f"{match[1]}{_HOME / match[2]}{match[3]}"
