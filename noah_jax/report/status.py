"""The status of runs, finished or not: `python -m noah_jax.main --status=DIR`."""

import pathlib
import time
from typing import Any

from noah_jax.config.settings import SCHEDULES
from noah_jax.errors import UserError
from noah_jax.runtime.durations import duration
from noah_jax.runtime.workdir import read_json_here, read_lines, refuse_if_claimed


def status(folder: pathlib.Path) -> list[str]:
    """Writes a line for each run: the one in `folder`, and those in its subfolders.

    Raises:
      UserError: there is no run.
    """
    workdirs = [folder, *sorted(folder.iterdir())] if folder.is_dir() else []
    workdirs = [path for path in workdirs if (path / "config.json").is_file()]
    if not workdirs:
        raise UserError(f"no runs in {folder}: it has no config.json, nor has a folder in it")
    width = max(len(str(path)) for path in workdirs)
    return [f"{path!s:{width}}  {_state(path)}" for path in workdirs]


def _state(workdir: pathlib.Path) -> str:
    try:
        if result := read_json_here(workdir / "result.json"):
            return f"finished: test accuracy {100 * result['test_accuracy']:.2f} %"
        config, log = read_json_here(workdir / "config.json"), read_lines(workdir / "metrics.jsonl")
    except UserError as error:
        return f"{error}"
    try:
        refuse_if_claimed(workdir)
        doing = "stopped"
    except UserError:
        doing = "running"
    log = [line for line in log if {"time", "stage"} <= line.keys()]
    if not log:
        return f"{doing}, nothing logged yet"
    last = log[-1]
    ago = duration(max(0.0, time.time() - last["time"]))
    return f"{doing}, {_place(config, last)}, {ago} ago"


def _place(config: dict[str, Any], last: dict[str, Any]) -> str:
    """Says how far the run is, from the last line of its log."""
    stage = last["stage"]
    if "epoch" in last:
        epochs = config[SCHEDULES[stage]]["epochs"]
        return f"{stage}, epoch {last['epoch']} of {epochs} done, loss {last['loss']:.3g}"
    if "generation" in last:
        done, generations = last["generation"] + 1, config["search"]["generations"] + 1
        best = f"validation accuracy {100 * last['val_accuracy']:.2f} %"
        return f"{stage}, generation {done} of {generations} done, {best}"
    return f"{stage} ended"
