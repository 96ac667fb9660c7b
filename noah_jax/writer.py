"""What a run says: metrics.jsonl always, a progress bar on a terminal, plain lines elsewhere."""

import contextlib
import json
import os
import pathlib
import sys
import time
from typing import Any

from tqdm import tqdm

_SECONDS_BETWEEN_LINES = 10


class Writer:
    """The log of one workdir."""

    def __init__(self, workdir: pathlib.Path):
        self._metrics = workdir / "metrics.jsonl"

    def say(self, text: str) -> None:
        tqdm.write(text, file=sys.stdout)
        sys.stdout.flush()

    def log(self, **values: Any) -> None:
        """Appends a line to metrics.jsonl."""
        with open(self._metrics, "a") as file:
            file.write(json.dumps({"time": round(time.time(), 3), **values}) + "\n")

    @contextlib.contextmanager
    def stage(self, name: str):
        """Announces a stage and logs how long it took."""
        self.say(f"{name} …")
        start = time.perf_counter()
        try:
            yield
        finally:
            seconds = time.perf_counter() - start
            self.log(stage=name, seconds=round(seconds, 2))
        self.say(f"{name} took {_duration(seconds)}")

    def stage_seconds(self) -> dict[str, float]:
        """How long each stage took, over all starts of the run."""
        total: dict[str, float] = {}
        for line in self._metrics.read_text().splitlines() if self._metrics.is_file() else []:
            values = json.loads(line)
            if "seconds" in values:
                stage = values["stage"]
                total[stage] = round(total.get(stage, 0.0) + values["seconds"], 2)
        return total

    def progress(self, name: str, total: int, done: int, unit: str) -> "Progress":
        """Progress of `total` units of which `done` were done before this start."""
        return Progress(name, total, done, unit)


class Progress:
    """A bar on a terminal; elsewhere a line every few seconds, with the time that is left."""

    def __init__(self, name: str, total: int, done: int, unit: str):
        self._name, self._total, self._first, self._done = name, total, done, done
        self._unit, self._start = unit, time.monotonic()
        self._next_line = self._start + _SECONDS_BETWEEN_LINES
        self._bar = None
        if sys.stderr.isatty():
            self._bar = tqdm(total=total, initial=done, desc=name, unit=unit, dynamic_ncols=True)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self._bar is not None:
            self._bar.close()

    def update(self, n: int, **values: float) -> None:
        """`n` more units are done; `values` are shown beside."""
        self._done += n
        shown = {key: f"{value:.4g}" for key, value in values.items()}
        if self._bar is not None:
            self._bar.set_postfix(shown, refresh=False)
            self._bar.update(n)
            return
        now = time.monotonic()
        if now < self._next_line and self._done < self._total:
            return
        self._next_line = now + _SECONDS_BETWEEN_LINES
        rate = (now - self._start) / max(1, self._done - self._first)
        left = _duration(rate * (self._total - self._done))
        details = "".join(f", {key} {value}" for key, value in shown.items())
        print(
            f"  {self._name}: {self._done}/{self._total} {self._unit}{details}, {left} left",
            flush=True,
        )


def write_json(path: pathlib.Path, values: dict[str, Any]) -> None:
    """A line a key; see `write_text`."""
    lines = (f"  {json.dumps(key)}: {json.dumps(value)}" for key, value in values.items())
    write_text(path, "{\n" + ",\n".join(lines) + "\n}\n")


def write_text(path: pathlib.Path, text: str) -> None:
    """Writes a file that is either there as a whole or not at all."""
    scratch = path.with_name(path.name + ".part")
    scratch.write_text(text)
    os.replace(scratch, path)


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, hours = seconds / 60 % 60, int(seconds // 3600)
    return f"{hours} h {minutes:.0f} min" if hours else f"{minutes:.1f} min"
