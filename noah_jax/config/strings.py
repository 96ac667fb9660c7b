"""The text after the colon of `--config=FILE:TEXT`: `<tasks>,key=value,…`.

Names are joined by +. A path that holds + or , is put in double quotes, and the whole flag then in
single ones, which keep the shell from taking these away:

    --config='configs/folder.py:"/data/cats+dogs",method=lora'
"""

import os
import re
from collections.abc import Mapping, Sequence
from operator import attrgetter
from typing import Any

from ml_collections import ConfigDict

from noah_jax.config.keys import KEYS, nearest_keys
from noah_jax.errors import UserError, asked, nearest

_HUB = "hf://"  # as in data/folders, which is no room below this one
_QUOTING = (
    "a path that holds + or , is put in quotes, as in "
    """--config='configs/folder.py:"/data/cats+dogs",method=lora'"""
)


def split_names(text: str) -> list[str]:
    """Splits names that are joined by +, and takes away the quotes around some.

    Raises:
      UserError: a quote is not closed.
    """
    return [name.replace('"', "") for name in _split(text, "+")]


def join_names(names: Sequence[str]) -> str:
    """Joins names by +, with quotes around those that hold one; `split_names` undoes it."""
    return "+".join(f'"{name}"' if "+" in name else name for name in names)


def _split(text: str, separator: str) -> list[str]:
    """Splits a text where a separator is outside of double quotes."""
    if text.count('"') % 2:
        raise UserError(f"a quote is not closed in {text!r}: {_QUOTING}")
    return re.split(rf'{re.escape(separator)}(?=(?:[^"]*"[^"]*")*[^"]*$)', text)


def configure(config: ConfigDict, argument: str | None, first: str) -> ConfigDict:
    """Applies the text after the colon of `--config=file.py:<value>,key=value,…` to `config`.

    The first part is the value of the key `first`. Values take the type of the default.

    Raises:
      UserError: a key is unknown, or a value has the wrong type.
    """
    for number, part in enumerate(filter(None, _split(argument or "", ","))):
        key, equals, value = part.partition("=")
        if number == 0 and key.split(".")[0] not in config:
            near = nearest_keys(key) if equals else []
            if near and not os.path.exists(part):  # a path may hold a =
                raise UserError(f"there is no setting {key}{asked(near)}, and no file {part}")
            key, value = first, part
        elif not equals:
            raise UserError(
                f"cannot read {part!r} in the config string: expected key=value; {_QUOTING}"
            )
        try:
            kind = type(attrgetter(key)(config))
            if kind is tuple:
                raise TypeError
            parse = {"True": True, "False": False}.__getitem__ if kind is bool else kind
            value = value if key == "task" else value.replace('"', "")
            config.update_from_flattened_dict({key: parse(value)})
        except (KeyError, AttributeError, TypeError, ValueError):
            raise UserError(
                f"cannot set {key}={value} in the config string{asked(nearest_keys(key))}: "
                "expected a key and a value of its type, which --help lists"
            ) from None
    return config


def in_one_folder(tasks: Sequence[str]) -> tuple[list[str], str]:
    """Splits tasks that are given as paths into their names and the path of their parent.

    Args:
      tasks: paths of folders or files, or names on the hub, `hf://owner/name`.

    Raises:
      UserError: nothing is there, or they have several parents.
    """
    hub = [task.rstrip("/") for task in tasks if task.startswith(_HUB)]
    others = [task for task in tasks if not task.startswith(_HUB)]
    paths = [os.path.abspath(os.path.expanduser(task)) for task in others]
    if missing := [path for path in paths if not os.path.exists(path)]:
        hint = f"; {_QUOTING}" if len(tasks) > 1 else _neighbours(missing[0])
        raise UserError(f"there is no folder or file {', '.join(missing)}{hint}")
    parents = {os.path.realpath(os.path.dirname(path)) for path in paths}
    parents |= {_HUB + task.removeprefix(_HUB).rpartition("/")[0] for task in hub}
    if len(parents) > 1:
        raise UserError(f"several tasks must be in one folder, not in {', '.join(sorted(parents))}")
    return [os.path.basename(path) for path in [*paths, *hub]], parents.pop()


def _neighbours(path: str) -> str:
    """Asks whether something of a similar name beside it was meant; may be empty."""
    folder, name = os.path.split(path)
    return nearest(name, os.listdir(folder)) if os.path.isdir(folder) else ""


def named(text: str) -> list[str]:
    """The keys that the text after the colon of `--config=FILE:TEXT` sets."""
    try:
        parts = _split(text, ",")
    except UserError:  # a config file of one's own may read it in another way
        return []
    return [key for part in parts if "=" in part and (key := part.split("=")[0]) in KEYS]


def select(names: str, benchmark: Mapping[str, Any]) -> str:
    """Replaces "all" and VTAB-1k's groups, in task names joined by +, by the tasks themselves.

    Names that are not tasks of `benchmark` stay, since they can be folders.
    """
    chosen = []
    for name in split_names(names):
        whole = [task for task, facts in benchmark.items() if name in ("all", facts.group)]
        chosen += whole if name and whole else [name]
    return join_names([*dict.fromkeys(chosen)])
