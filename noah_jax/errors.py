"""The error a user can put right."""

import difflib
from collections.abc import Iterable, Sequence


class UserError(Exception):
    """Bad input: a message that names the file, key or value, what was expected, what to do.

    `main` prints it without a traceback and exits with code 2.
    """


def nearest(name: str, known: Iterable[str]) -> str:
    """Asks in a message about an unknown name for those most like it; nothing if none is."""
    near = difflib.get_close_matches(name, list(known))
    return f" (did you mean {' or '.join(near)}?)" if near else ""


def listed(lines: Iterable[str], most: int = 20) -> str:
    """Puts each line of a message on an indented line; of many the first, and how many more."""
    lines = list(dict.fromkeys(lines))
    shown = [_printable(line) for line in lines[:most]]
    if len(lines) > most:
        shown.append(f"… and {len(lines) - most:,} more")
    return "".join(f"\n  {line}" for line in shown)


def joined(items: Sequence, most: int = 10) -> str:
    """Puts items of a message on one line; of many the first, and how many more."""
    more = f" and {len(items) - most:,} more" if len(items) > most else ""
    return ", ".join(_printable(str(item)) for item in items[:most]) + more


def _printable(text: str) -> str:
    """The text as it is, or escaped if it could write on a terminal what it likes."""
    return text if text.isprintable() else repr(text)
