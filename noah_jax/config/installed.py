"""Finds the configs that come with the package by the path that they have in a clone."""

import ast
import difflib
import os
import pathlib
import re
from collections.abc import Sequence

from noah_jax.errors import UserError, asked

_PACKAGE = pathlib.Path(__file__).parents[1]
# An installed package has `configs` inside, a clone has it beside the package.
_HOME = _PACKAGE if (_PACKAGE / "configs").is_dir() else _PACKAGE.parent
_ARGUMENT = re.compile(r"((?:--?config=)?)(configs/\w+\.py)((?::.*)?)", re.DOTALL)
_FLAGS = ("-config", "--config")


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


def configs() -> dict[str, str]:
    """The configs by that path, each with the first line of its docstring."""
    found = {}
    for path in sorted((_HOME / "configs").glob("[!_]*.py")):
        docstring = ast.get_docstring(ast.parse(path.read_text())) or ""
        found[f"configs/{path.name}"] = docstring.partition("\n")[0].rstrip(":")
    return found


def require(arguments: Sequence[str]) -> None:
    """Raises UserError unless the file of each `--config=FILE` or `--config=FILE:TEXT` is there."""
    for before, word in zip(["", *arguments], arguments, strict=False):
        flag, _, config = (f"{before}={word}" if before in _FLAGS else word).partition("=")
        file = config.split(":", 1)[0]
        if flag in _FLAGS and file and not os.path.isfile(file):
            known = {pathlib.Path(path).stem: path for path in configs()}
            near = difflib.get_close_matches(pathlib.Path(file).stem, known)
            raise UserError(
                f"there is no config {file}{asked([known[name] for name in near])}: "
                f"expected a file of your own or {', '.join(known.values())}"
            )
