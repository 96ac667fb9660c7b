"""Measures where the time of a run goes, from the start of its process to its end.

    python -m bench.timesplit [--once] [--out=FILE.json] -- --config=configs/demo.py [FLAGS]

It runs `noah_jax.main` twice, or once, in processes and workdirs of their own. The second run finds
in the cache the programs that the first compiled. Every moment of a process belongs to the first of
these parts that fits:

    computing     a program of train.py or evaluation.py runs: from its dispatch, or the end of its
                  compilation, until its results are there
    compiling     JAX traces, lowers, compiles, or reads what an earlier process compiled
    checkpoints   Orbax is opened, writes, reads or closes
    data          images are listed and decoded, weights read
    starting      up to the first look at the input: interpreter, imports, flags
    exiting       after the last line of `noah_jax.main`
    rest          everything else: small JAX operations, drawing genomes, logs, the report

Work of the host while a program runs, such as decoding the next batch, costs no time and does not
appear. A thread waits for the results, to within Python's 5 ms of switching, so that the run itself
is not held up. `outside` is the share of all parts but `computing`.
"""

import argparse
import contextlib
import functools
import json
import math
import pathlib
import queue
import runpy
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Sequence

import jax

from bench import machine
from noah_jax import data, pretrained
from noah_jax.data import augment, loader
from noah_jax.runtime.checkpoint import Checkpoints
from noah_jax.training import evaluation
from noah_jax.training import step as step_lib

_PARTS = ("computing", "compiling", "checkpoints", "data", "starting", "exiting")
_RUNS = ("first", "second")
Span = tuple[float, float]


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--once", action="store_true", help="no second run")
    parser.add_argument("--out", type=pathlib.Path, help="a JSON file to write")
    parser.add_argument("flags", nargs="+", help="of noah_jax.main, after --")
    arguments = parser.parse_args(argv)
    result = machine.describe(__spec__.name, argv)
    with tempfile.TemporaryDirectory() as folder:
        for name in _RUNS[: 1 if arguments.once else 2]:
            result[name] = measure(arguments.flags, pathlib.Path(folder) / name)
    machine.finish(result, _table(result), arguments.out)


def measure(flags: Sequence[str], workdir: pathlib.Path) -> dict:
    """Measures a run with these flags: its seconds in all and in each part, and the share outside.

    Raises:
      subprocess.CalledProcessError: the run failed; it has printed the reason.
    """
    spans_file = workdir.with_suffix(".json")
    child = "import sys; from bench import timesplit; timesplit.record(*sys.argv[1:])"
    command = [sys.executable, "-c", child, str(spans_file), *flags, f"--workdir={workdir}"]
    start = time.time()
    subprocess.run(command, check=True, stdout=2)
    end = time.time()
    spans = json.loads(spans_file.read_text())
    spans["starting"] = [(start, spans.pop("started"))]
    spans["exiting"] = [(spans.pop("ended"), end)]
    return split(spans, start, end)


def split(spans: dict[str, list[Span]], start: float, end: float) -> dict:
    """Computes the seconds of each part; a moment counts for the first part that it belongs to."""
    seconds, earlier, before = {}, [], 0.0
    for part in _PARTS:
        earlier += [(max(first, start), min(last, end)) for first, last in spans.get(part, ())]
        covered = _length(earlier)
        seconds[part], before = covered - before, covered
    seconds["rest"] = end - start - before
    return {
        "seconds": round(end - start, 2),
        "parts": {part: round(value, 2) for part, value in seconds.items()},
        "outside": round(1 - seconds["computing"] / (end - start), 4),
    }


def _length(spans: Iterable[Span]) -> float:
    """The length of the union of spans."""
    total, reached = 0.0, -math.inf
    for first, last in sorted(spans):
        total += max(0.0, last - max(first, reached))
        reached = max(reached, last)
    return total


def record(spans_file: str, *flags: str) -> None:
    """Runs `noah_jax.main` with these flags in its own process, and notes the spans of time."""
    recorder = _Recorder()
    for module, names in (
        (step_lib, ("make_step", "make_augmented_step")),
        (evaluation, ("make_evaluator",)),
    ):
        for name in names:
            setattr(module, name, recorder.watching(getattr(module, name)))
    for name in ("__init__", "save", "load"):
        setattr(Checkpoints, name, recorder.timing("checkpoints", getattr(Checkpoints, name)))
    for module, name in ((data, "open_source"), (pretrained, "backbone"), (loader, "load")):
        setattr(module, name, recorder.timing("data", getattr(module, name)))
    for module, name in ((loader, "batches"), (augment, "stream")):
        setattr(module, name, recorder.timing_each("data", getattr(module, name)))
    from noah_jax import pipeline  # not before

    pipeline.check = recorder.noting_start(pipeline.check)
    sys.argv = ["noah_jax.main", *flags]
    try:
        runpy.run_module("noah_jax.main", run_name="__main__")
    finally:
        pathlib.Path(spans_file).write_text(json.dumps(recorder.finish()))


class _Recorder:
    """Notes the spans of time of each part."""

    def __init__(self):
        self._spans: dict[str, list[Span]] = {part: [] for part in _PARTS}
        self._started = None
        self._waiting = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._wait, daemon=True)
        self._thread.start()
        jax.monitoring.register_event_time_span_listener(self._note_compiling)

    def finish(self) -> dict:
        self._waiting.put(None)
        self._thread.join()
        return {"started": self._started, "ended": time.time(), **self._spans}

    def watching(self, make: Callable) -> Callable:
        """Wraps `make`, which returns a jitted function, so that its runs count as computing."""
        return lambda *arguments, **more: _Watched(make(*arguments, **more), self.computing)

    def computing(self, start: float, outputs) -> None:
        """Notes that a program was called at `start`."""
        compiled = max((last for _, last in self._spans["compiling"]), default=start)
        last_output = jax.tree.leaves(outputs)[-1]  # never donated to the next call
        self._waiting.put((max(start, compiled), last_output))

    def timing(self, part: str, function: Callable) -> Callable:
        @functools.wraps(function)
        def timed(*arguments, **more):
            with self._span(part):
                return function(*arguments, **more)

        return timed

    def timing_each(self, part: str, function: Callable) -> Callable:
        """Wraps a function that returns an iterator, so that each item is timed."""

        def items(*arguments, **more):
            iterator, end = iter(function(*arguments, **more)), object()
            while True:
                with self._span(part):
                    item = next(iterator, end)
                if item is end:
                    return
                yield item

        return items

    def noting_start(self, function: Callable) -> Callable:
        def noted(*arguments, **more):
            self._started = self._started or time.time()
            return function(*arguments, **more)

        return noted

    @contextlib.contextmanager
    def _span(self, part):
        start = time.time()
        try:
            yield
        finally:
            self._spans[part].append((start, time.time()))

    def _note_compiling(self, name, start, end, **_):
        if name.startswith("/jax/core/compile/"):
            self._spans["compiling"].append((start, end))

    def _wait(self):
        for start, output in iter(self._waiting.get, None):
            output.block_until_ready()
            self._spans["computing"].append((start, time.time()))


class _Watched:
    """A jitted function that notes when it is called."""

    def __init__(self, function, tell):
        self._function, self._tell = function, tell

    def __call__(self, *arguments):
        start = time.time()
        outputs = self._function(*arguments)
        self._tell(start, outputs)
        return outputs

    def __getattr__(self, name):
        return getattr(self._function, name)


def _table(result) -> list[list[str]]:
    names = [name for name in _RUNS if name in result]
    runs = [result[name] for name in names]
    rows = [["part", *(f"{name} {unit}" for name in names for unit in "s%")]]

    def add(name, seconds):
        shares = [100 * x / run["seconds"] for x, run in zip(seconds, runs, strict=True)]
        pairs = zip(seconds, shares, strict=True)
        rows.append([name, *(text for x, share in pairs for text in (f"{x}", f"{share:.1f}"))])

    for part in runs[0]["parts"]:
        add(part, [run["parts"][part] for run in runs])
    add("all", [run["seconds"] for run in runs])
    add("outside computing", [round(run["outside"] * run["seconds"], 2) for run in runs])
    return rows


if __name__ == "__main__":
    main()
