"""The error that a user can put right, and parts of its messages."""

import difflib
from collections.abc import Iterable, Sequence

_LONGEST = 500  # characters of a name or a line of a message


class UserError(Exception):
    """An error in the input, which the user can put right.

    The message names the file, key or value, says what was expected, and what to do. `main` prints
    it without a traceback and exits with code 2.
    """


def nearest(name: str, known: Iterable[str]) -> str:
    """Asks, in a message about an unknown name, whether a similar one was meant; may be empty."""
    return asked(difflib.get_close_matches(name, list(known)))


def asked(names: Sequence[str]) -> str:
    """Asks whether one of these was meant; empty if there are none."""
    return f" (did you mean {' or '.join(names)}?)" if names else ""


def listed(lines: Iterable[str], most: int = 20) -> str:
    """Indents the lines of a message; shows the first `most` and how many more there are."""
    lines = list(dict.fromkeys(lines))
    shown = [printable(line) for line in lines[:most]]
    if len(lines) > most:
        shown.append(f"… and {len(lines) - most:,} more")
    return "".join(f"\n  {line}" for line in shown)


def joined(items: Sequence, most: int = 10) -> str:
    """Puts the items of a message on one line: the first `most`, and how many more there are."""
    more = f" and {len(items) - most:,} more" if len(items) > most else ""
    return ", ".join(printable(str(item)) for item in items[:most]) + more


def printable(text: str) -> str:
    """Escapes a text that has control characters, which could rewrite the user's terminal.

    The middle of a long text is left out.
    """
    text = text if text.isprintable() else repr(text)
    half = _LONGEST // 2
    return text if len(text) <= _LONGEST else f"{text[:half]} … {text[-half:]}"
