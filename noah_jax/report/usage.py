"""The commands that made a run, and those that use its model, as one would type them."""

import pathlib
import shlex
from collections.abc import Iterable, Mapping
from typing import Any


def commands(log: Iterable[Mapping[str, Any]]) -> list[str]:
    """The commands that runs were started with, each start one, from the lines of metrics.jsonl."""
    started = [row["command"] for row in log if _is_command(row.get("command"))]
    lines = [" \\\n  ".join(map(shlex.quote, words)) for words in started]
    return [line.replace(" \\\n  ", " ", 2) for line in lines]


def _is_command(words: Any) -> bool:
    """Tells whether it is a list of words; metrics.jsonl has no checksum, so it may be anything."""
    return isinstance(words, list) and all(isinstance(word, str) for word in words)


def of_model(workdir: pathlib.Path, config: Mapping[str, Any]) -> dict[str, str]:
    """The paths in the commands and the Python lines that use the model, quoted for each.

    The backbone's file of weights is among them only if the run was given a relative path, which
    the model would not find from another folder.
    """
    place, weights = workdir.resolve(), config.get("weights") or ""
    export = place / "export"
    paths = {"shell": shlex.quote(str(place)), "export": shlex.quote(str(export))}
    paths |= {"python": repr(str(place)), "weights_flag": "", "weights_argument": ""}
    file = pathlib.Path(weights)
    if weights and not file.is_absolute() and file.exists():
        paths["weights_flag"] = f" {shlex.quote(f'--weights={file.resolve()}')}"
        paths["weights_argument"] = f", weights={str(file.resolve())!r}"
    return paths
