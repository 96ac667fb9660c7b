"""The error a user can put right."""

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """Bad input: a message that names the file, key or value, what was expected, what to do.

    `main` prints it without a traceback and exits with code 2.
    """


def nearest(name: str, known: Iterable[str]) -> str:
    """For a message about an unknown name: those most like it, or nothing if none is."""
    near = difflib.get_close_matches(name, list(known))
    return f" (did you mean {' or '.join(near)}?)" if near else ""


def listed(lines: Iterable[str], most: int = 20) -> str:
    """For a message: each on an indented line; of many the first, and how many more there are."""
    lines = list(dict.fromkeys(lines))
    shown = [line if line.isprintable() else repr(line) for line in lines[:most]]
    if len(lines) > most:
        shown.append(f"… and {len(lines) - most:,} more")
    return "".join(f"\n  {line}" for line in shown)
