"""The configs that come with the package, by the path that they have in a clone."""

import pathlib
import re
from collections.abc import Sequence

_PACKAGE = pathlib.Path(__file__).parents[1]
_HOME = _PACKAGE if (_PACKAGE / "configs").is_dir() else _PACKAGE.parent  # installed, or a clone
_ARGUMENT = re.compile(r"((?:--?config=)?)(configs/\w+\.py)((?::.*)?)", re.DOTALL)


def find(arguments: Sequence[str]) -> list[str]:
    """Writes out where `configs/….py` is, if it comes with the package and is not in this folder.

    Args:
      arguments: a command line's, e.g. `--config=configs/vtab.py:cifar100`.
    """
    return [_found(argument) for argument in arguments]


def _found(argument: str) -> str:
    match = _ARGUMENT.fullmatch(argument)
    if not match or pathlib.Path(match[2]).exists() or not (_HOME / match[2]).is_file():
        return argument
    return f"{match[1]}{_HOME / match[2]}{match[3]}"
