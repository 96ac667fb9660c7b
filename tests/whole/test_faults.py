"""Runs that are stopped at random moments, and go on: the end is the same, bit for bit."""

import collections
import json
import os
import random
import signal
import subprocess
import time

import pytest

from tests.helpers import processes
from tests.helpers.commands import ROOT, main_command

FLAGS = [
    "--config.checkpoint_seconds=0",
    "--config.supernet.epochs=12",
    "--config.retrain.epochs=9",
    "--config.search.generations=3",
    "--config.search.population=12",
    "--config.search.genomes_per_call=1",
    "--config.eval_batch_size=3",
]
MEASURED = {"stages", "memory", "versions", "sha256"}  # what two runs may differ in
STAGES = ("start", "supernet", "search", "retrain", "test")


QUICK = [
    "--config.supernet.epochs=2",
    "--config.retrain.epochs=2",
    "--config.search.generations=1",
    "--config.search.population=6",
]


def alone(command):
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    environment = os.environ | {"PYTHONUNBUFFERED": "1"}
    return [subprocess.Popen(command, cwd=ROOT, env=environment, **pipes)]


def two(command):
    return processes.start([command, command])


def _all_said(process, timeout) -> str:
    return "".join(filter(None, process.communicate(timeout=timeout)))


def _outcome(workdir):
    """All that a run leaves, but for what is measured."""
    result = json.loads((workdir / "result.json").read_text())
    files = [workdir / "best.json", workdir / "predictions.json"]
    files += sorted((workdir / "search").iterdir())
    losses = {}
    for line in (workdir / "metrics.jsonl").read_text().splitlines():
        values = json.loads(line)
        if "epoch" in values:
            losses[values["stage"], values["epoch"]] = values["loss"]
    return (
        {key: value for key, value in result.items() if key not in MEASURED},
        {path.name: path.read_text() for path in files},
        losses,
    )


class Faults:
    """Starts runs, stops them, and counts where."""

    def __init__(self, home, folder, start, seed, flags):
        self.home, self.folder, self.start, self.flags = home, folder, start, flags
        self.rng, self.number, self.where = random.Random(seed), 0, collections.Counter()
        began = time.monotonic()
        running = self._running("whole")
        said = [_all_said(process, timeout=300) for process in running]
        assert all(process.returncode == 0 for process in running), said
        seconds, whole = time.monotonic() - began, folder / "whole"
        self.expected = _outcome(whole)
        self.seconds = json.loads((whole / "result.json").read_text())["stages"]
        self.seconds["start"] = seconds - sum(self.seconds.values())
        self.last_step = max(map(int, os.listdir(whole / "retrain")))

    def _running(self, name):
        command = main_command(self.home, self.folder / name, *FLAGS, *self.flags)
        return self.start(command)

    def stop(self, send) -> bool:
        """One start, stopped at a random moment of a random stage, unless it ends before.

        What has ended is checked.

        Args:
          send: is given the processes and the workdir, and stops them.

        Returns:
          Whether it was stopped before its end.
        """
        workdir = self.folder / f"run{self.number}"
        running = self._running(workdir.name)
        try:
            stage = self.rng.choice(STAGES)
            while running[0].poll() is None and not self._has_come_to(stage, running, workdir):
                time.sleep(0.02)
            time.sleep(self.rng.uniform(0, self.seconds[stage]))
            stopped = False
            if running[0].poll() is None:
                stopped = send(running, workdir)
            else:  # the first start had to compile
                self.seconds[stage] *= 0.8
            said = [_all_said(process, timeout=60) for process in running]
        finally:
            for process in running:
                process.kill()
        assert "Traceback" not in "".join(said), said
        ended = (workdir / "result.json").is_file() and (workdir / "report.html").is_file()
        for process, text in zip(running, said, strict=True):
            if process.returncode in (-signal.SIGTERM, -signal.SIGINT):  # Python heard nothing
                assert ended or not text  # it was leaving or importing
        stopped = stopped and not ended  # else it was only leaving
        reached = [stage for stage in STAGES if f"{stage} …" in said[0]]
        self.where[reached[-1] if reached else "start"] += stopped
        if ended:
            self.check(workdir)
            self.number += 1
        return stopped

    def _has_come_to(self, stage, running, workdir) -> bool:
        there = {
            "search": workdir / "search",
            "retrain": workdir / "best.json",
            "test": workdir / "retrain" / str(self.last_step),
        }
        if stage in there and not there[stage].exists():
            return False
        return stage == "start" or _is_in(running, workdir)

    def finish(self) -> None:
        """The run that was stopped last goes on to its end."""
        workdir = self.folder / f"run{self.number}"
        running = self._running(workdir.name)
        said = [_all_said(process, timeout=300) for process in running]
        assert all(process.returncode == 0 for process in running), said
        self.check(workdir)
        stopped = ", ".join(f"{self.where[stage]} in {stage}" for stage in STAGES)
        print(f"stopped {self.where.total()} times ({stopped}), {self.number + 1} runs ended alike")

    def check(self, workdir) -> None:
        for found, expected in zip(_outcome(workdir), self.expected, strict=True):
            assert found == expected


def _is_in(running, workdir) -> bool:
    """Tells whether the run has claimed its workdir."""
    lock = workdir / ".lock"
    return lock.is_file() and f"process {running[0].pid} on" in lock.read_text()


def kill(running, workdir):
    for process in running:
        process.kill()
    return True


def _told(number):
    def send(running, workdir):
        """One of them is told; all save, and leave with the code of the signal."""
        began = time.monotonic()
        told = random.choice(running)
        told.send_signal(number)
        if told.wait(timeout=30) == -number:  # it was importing still, and heard nothing
            for process in running:  # which wait for it to join
                process.send_signal(number)
        codes = [process.wait(timeout=30) for process in running]
        assert time.monotonic() - began < 10
        if codes != [0] * len(running):  # it ended just then
            assert set(codes) <= {128 + number, -number}, [_all_said(p, 1) for p in running]
        return codes[0] != 0

    return send


terminate, interrupt = _told(signal.SIGTERM), _told(signal.SIGINT)


def lose(running, workdir):
    """The folder is gone for a while, as when a disk is unmounted."""
    away = workdir.with_name("away")
    if not _is_in(running, workdir):
        return kill(running, workdir) and False  # before that, a run would begin anew
    workdir.rename(away)
    code = running[0].wait(timeout=60)
    assert not workdir.exists()
    away.rename(workdir)
    assert code == 2 or (code == 0 and (workdir / "report.html").is_file())  # it ended just then
    return code == 2


@pytest.mark.parametrize(
    ("start", "stops", "flags"),
    [
        (alone, {kill: 1, interrupt: 1, lose: 1}, QUICK),
        (two, {terminate: 1}, QUICK),
        pytest.param(alone, {kill: 30, terminate: 30, lose: 5}, [], marks=pytest.mark.long),
        pytest.param(two, {kill: 30, terminate: 30}, [], marks=pytest.mark.long),
    ],
    ids=["alone", "two", "alone-long", "two-long"],
)
def test_stopped_at_random_moments(home, tmp_path, start, stops, flags):
    faults = Faults(home, tmp_path, start, sum(stops.values()), flags)
    for send, times in stops.items():
        while times:
            times -= faults.stop(send)
    faults.finish()
