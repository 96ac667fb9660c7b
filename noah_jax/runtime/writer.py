"""The messages of a run: metrics.jsonl, trackers if asked for, and progress.

Progress is a bar on a terminal, and plain lines elsewhere. If there are several processes, only the
main one prints and writes.
"""

import contextlib
import json
import pathlib
import sys
import time
from collections.abc import Iterator
from typing import Any

from tqdm import tqdm

from noah_jax.errors import UserError
from noah_jax.runtime import memory, processes, trackers
from noah_jax.runtime.durations import duration
from noah_jax.runtime.workdir import append_line, read_lines

_SECONDS_BETWEEN_LINES = 10


class Writer:
    """Writes the messages of the run in one workdir."""

    def __init__(self, workdir: pathlib.Path):
        self._workdir, self._metrics = workdir, workdir / "metrics.jsonl"
        self._trackers: list = []

    @contextlib.contextmanager
    def tracking(self, names: str, config: dict[str, Any]) -> Iterator[None]:
        """Makes `log` tell trackers, too, as long as it lasts; see trackers.py."""
        if processes.is_main():
            self._trackers = trackers.open_trackers(names, self._workdir, config)
        try:
            yield
        finally:
            for tracker in self._trackers:
                tracker.close()
            self._trackers = []

    def say(self, text: str) -> None:
        """Prints a line, above the progress bar if there is one."""
        if not processes.is_main():
            return
        with contextlib.suppress(BrokenPipeError):  # nobody reads it, but the run must still save
            tqdm.write(text, file=sys.stdout)
            sys.stdout.flush()

    def log(self, **values: Any) -> None:
        """Appends a line to metrics.jsonl, and tells the trackers."""
        if not processes.is_main():
            return
        append_line(self._metrics, json.dumps({"time": round(time.time(), 3), **values}))
        for tracker in self._trackers:
            tracker.log(values)

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Announces a stage and logs how long it took, and how much memory."""
        self.say(f"{name} …")
        start = time.perf_counter()
        with memory.noting_plans() as plans:

            def log():
                seconds = time.perf_counter() - start
                peaks = {"host_peak_mb": memory.host_peak_mb(), **memory.stage_peak(plans)}
                self.log(stage=name, seconds=round(seconds, 2), **peaks)
                return seconds

            try:
                with memory.explained(name):
                    yield
            except BaseException:
                with contextlib.suppress(UserError):  # the first error is the one to report
                    log()
                raise
            self.say(f"{name} took {duration(log())}")

    def stage_seconds(self) -> dict[str, float]:
        """The seconds that each stage took, over all starts of the run."""
        total: dict[str, float] = {}
        for values in self._stages():
            stage = values["stage"]
            total[stage] = round(total.get(stage, 0.0) + values["seconds"], 2)
        return total

    def memory(self) -> dict[str, Any]:
        """The host's peak and each stage's on a device in MB, the largest over all starts.

        `{"host_peak_mb": …, "stages": {name: {"device_mb": …, "source": …}}}`, see
        `memory.stage_peak`. The host's and the allocator's peaks are those of a process, so several
        runs in one process share them.
        """
        host = 0.0
        stages: dict[str, dict[str, Any]] = {}
        for values in self._stages():
            host = max(host, values.get("host_peak_mb", 0.0))
            peak = {"device_mb": values.get("device_mb"), "source": values.get("device_source")}
            old = stages.setdefault(values["stage"], peak)
            if (peak["device_mb"] or 0.0) > (old["device_mb"] or 0.0):
                stages[values["stage"]] = peak
        return {"host_peak_mb": host or None, "stages": stages}

    def _stages(self) -> list[dict[str, Any]]:
        """The lines that `stage` has logged, in all starts of the run."""
        return [values for values in read_lines(self._metrics) if _is_stage(values)]

    def progress(self, name: str, total: int, done: int, unit: str) -> "Progress":
        """Makes the progress of `total` units, of which `done` were done before this start."""
        return Progress(name, total, done, unit)


def _is_stage(values: dict[str, Any]) -> bool:
    """Tells whether `Writer.stage` wrote a line; the file has no checksum."""
    numbers = (values.get(key) for key in ("host_peak_mb", "device_mb"))
    return (
        isinstance(values.get("stage"), str)
        and isinstance(values.get("seconds"), float)
        and all(isinstance(number, float | None) for number in numbers)
    )


class Progress:
    """A bar on a terminal or in a notebook, elsewhere a line every few seconds.

    Both show the time that is left.
    """

    def __init__(self, name: str, total: int, done: int, unit: str):
        self._name, self._total, self._first, self._done = name, total, done, done
        self._unit, self._start = unit, time.monotonic()
        self._next_line = self._start + _SECONDS_BETWEEN_LINES
        self._bar = None
        if processes.is_main() and (sys.stderr.isatty() or _in_notebook()):
            self._bar = tqdm(total=total, initial=done, desc=name, unit=unit, dynamic_ncols=True)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self._bar is not None:
            self._bar.close()

    def update(self, n: int, **values: float) -> None:
        """Adds `n` units that are done, and shows `values` beside."""
        self._done += n
        shown = {key: f"{value:.4g}" for key, value in values.items()}
        if self._bar is not None:
            self._bar.set_postfix(shown, refresh=False)
            self._bar.update(n)
            return
        now = time.monotonic()
        if not processes.is_main() or (now < self._next_line and self._done < self._total):
            return
        self._next_line = now + _SECONDS_BETWEEN_LINES
        rate = (now - self._start) / max(1, self._done - self._first)
        left = duration(rate * (self._total - self._done))
        details = "".join(f", {key} {value}" for key, value in shown.items())
        line = f"  {self._name}: {self._done}/{self._total} {self._unit}{details}, {left} left"
        with contextlib.suppress(BrokenPipeError):
            print(line, flush=True)


def _in_notebook() -> bool:
    ipython = sys.modules.get("IPython")
    return ipython is not None and hasattr(ipython.get_ipython(), "kernel")
