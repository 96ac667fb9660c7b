"""A run speaks: metrics, times over several starts, progress in a log and on a terminal."""

import io
import json
import sys

import jax
import numpy as np

from noah_jax.runtime import memory
from noah_jax.runtime import writer as writer_lib
from noah_jax.runtime.writer import Writer


def test_metrics_and_stage_seconds_add_up_over_starts(tmp_path):
    for _ in range(2):
        writer = Writer(tmp_path)
        with writer.stage("search"):
            writer.log(stage="search", generation=1, val_accuracy=0.5)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line.get("generation") for line in lines] == [1, None, 1, None]
    total = sum(line["seconds"] for line in lines if "seconds" in line)
    assert Writer(tmp_path).stage_seconds() == {"search": round(total, 2)}


def test_memory_is_the_largest_of_all_starts(tmp_path):
    """And a start in which a stage had nothing to compute does not hide what it took before."""
    grow = jax.jit(lambda x: x[:, None] + x[None])
    for size in (1000, 500, None):
        writer, before = Writer(tmp_path), memory.host_peak_mb()
        with writer.stage("retrain"):
            if size:
                memory.watch(grow)(np.ones(size, np.float32))
    value = Writer(tmp_path).memory()
    assert value["stages"] == {"retrain": {"device_mb": 4.0, "source": "compiler"}}
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line.get("device_mb") for line in lines] == [4.0, 1.0, None]
    assert value["host_peak_mb"] == lines[-1]["host_peak_mb"] > 50
    assert before <= value["host_peak_mb"] <= memory.host_peak_mb()  # it may grow meanwhile


def test_plain_lines_are_few_and_tell_the_time_left(tmp_path, capsys, monkeypatch):
    clock = iter(range(0, 1000, 4))
    monkeypatch.setattr(writer_lib.time, "monotonic", lambda: next(clock))
    with Writer(tmp_path).progress("retrain", 10, 4, "epochs") as progress:
        for _ in range(6):
            progress.update(1, loss=0.12345)
    lines = capsys.readouterr().out.splitlines()
    assert lines == [
        "  retrain: 7/10 epochs, loss 0.1235, 12.0 s left",
        "  retrain: 10/10 epochs, loss 0.1235, 0.0 s left",
    ]


def test_a_terminal_gets_a_bar(tmp_path, monkeypatch, capsys):
    terminal = io.StringIO()
    terminal.isatty = lambda: True
    monkeypatch.setattr(sys, "stderr", terminal)
    with Writer(tmp_path).progress("search", 3, 0, "generations") as progress:
        for _ in range(3):
            progress.update(1, val_accuracy=0.9)
    assert "search: 100%" in terminal.getvalue() and "val_accuracy=0.9" in terminal.getvalue()
    assert capsys.readouterr().out == ""
