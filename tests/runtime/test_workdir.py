"""The files of a run: whole or absent, checked, of one run."""

import concurrent.futures
import fcntl
import json
import os
import pathlib
import random
import subprocess
import sys

import pytest

from noah_jax.errors import UserError
from noah_jax.runtime import preemption, workdir
from tests.helpers.fuzzing import corrupted

VALUES = {
    "generation": 3,
    "candidates": [
        {"genome": [[1, 5, 0], [0, 0, 10]], "params": 1234, "val_accuracy": 0.615, "val_loss": 1.25}
    ],
}


def test_json_is_whole_or_absent(tmp_path):
    path = tmp_path / "best.json"
    workdir.write_json(path, VALUES)
    assert json.loads(path.read_text())["candidates"] == VALUES["candidates"]
    assert workdir.read_json(path) == VALUES
    with pytest.raises(TypeError):
        workdir.write_json(path, {"a": object()})
    assert workdir.read_json(path) == VALUES
    assert [path.name for path in tmp_path.iterdir()] == ["best.json"]
    assert workdir.read_json(tmp_path / "none.json") is None


def test_no_damage_gives_other_values(tmp_path):
    """Cut off at every byte, and 200 random corruptions: set aside and said, or the same values."""
    path, rng, said = tmp_path / "gen_003.json", random.Random(0), []
    workdir.write_json(path, VALUES)
    good = path.read_bytes()
    cuts = [good[:length] for length in range(len(good))]
    damaged = set(cuts)
    while len(damaged) < len(cuts) + 200:
        damaged.add(corrupted(good, rng))
    kept = 0
    for data in damaged:
        path.write_bytes(data)
        said.clear()
        found = workdir.read_json(path, said.append)
        if found is None:
            assert str(path) in said[0] and "set aside" in said[0] and not path.exists()
            assert (tmp_path / "gen_003.json.damaged").read_bytes() == data
        else:
            assert found == VALUES  # white space
            kept += 1
    print(f"{len(cuts)} cuts and 200 corruptions: {kept} made no difference, the rest were found")
    assert kept < 20
    with pytest.raises(UserError, match="gen_003.json is damaged"):
        path.write_bytes(cuts[100])
        workdir.read_json(path)


def test_a_line_that_was_cut_off_is_left_out(tmp_path):
    path = tmp_path / "metrics.jsonl"
    assert workdir.read_lines(path) == []
    workdir.append_line(path, '{"a": 1}')
    with open(path, "a") as file:
        file.write('{"a": 2')  # killed here
    workdir.append_line(path, '{"a": 3}')
    assert workdir.read_lines(path) == [{"a": 1}, {"a": 3}]


PROGRAM = """
import pathlib, sys, time
from noah_jax.runtime import workdir
with workdir.claim(pathlib.Path(sys.argv[1]), print):
    print("claimed", flush=True)
    time.sleep(60)
"""


def test_a_workdir_belongs_to_one_run_that_lives(tmp_path):
    running = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, tmp_path], stdout=subprocess.PIPE, text=True
    )
    with running:
        assert running.stdout.readline() == "claimed\n"
        for refuse in (
            workdir.refuse_if_claimed,
            lambda path: workdir.claim(path, print).__enter__(),
        ):
            message = rf"in use by another run \(process {running.pid} on .*, since 20"
            with pytest.raises(UserError, match=message):
                refuse(tmp_path)
        running.kill()
    workdir.refuse_if_claimed(tmp_path)  # a lock that nobody holds
    with workdir.claim(tmp_path, print):
        assert f"process {os.getpid()} " in (tmp_path / ".lock").read_text()


def test_a_file_system_without_locks_is_told(tmp_path, monkeypatch):
    def none(*_):
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", none)
    said = []
    with workdir.claim(tmp_path, said.append):
        workdir.refuse_if_claimed(tmp_path)
    assert "cannot be locked here" in said[0]


def test_looking_does_not_keep_others_from_looking(tmp_path):
    with workdir.claim(tmp_path, print):
        pass
    before = (tmp_path / ".lock").read_bytes(), (tmp_path / ".lock").stat().st_mtime_ns
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        list(pool.map(workdir.refuse_if_claimed, [tmp_path] * 2000))
    assert before == ((tmp_path / ".lock").read_bytes(), (tmp_path / ".lock").stat().st_mtime_ns)
    workdir.refuse_if_claimed(tmp_path / "gone")
    assert not (tmp_path / "gone").exists()


def test_fresh_is_beside(tmp_path, monkeypatch):
    assert workdir.fresh(tmp_path / "run") == tmp_path / "run"
    (tmp_path / "run").mkdir()
    (tmp_path / "run-2").mkdir()
    assert workdir.fresh(tmp_path / "run") == tmp_path / "run-3"
    monkeypatch.chdir(tmp_path / "run")
    assert workdir.fresh(pathlib.Path(".")) == tmp_path / "run-3"


def test_what_cannot_be_written_is_told(tmp_path):
    (tmp_path / "file").write_text("")
    for write in (workdir.make_folder, lambda path: workdir.write_json(path, {})):
        with pytest.raises(UserError, match="cannot write .*file/run: Not a directory"):
            write(tmp_path / "file" / "run")


def test_how_to_go_on_is_told_to_its_own_runs_alone(tmp_path):
    """A run in a fresh workdir, and the next one in the same process."""
    with pytest.raises(UserError, match=r"put that right, and --workdir=a goes on$"):
        with preemption.advising("--workdir=a goes on"):
            stopped = preemption.Preempted(15)
            workdir.make_folder(tmp_path / "gone" / "run")
    with pytest.raises(UserError, match=r"put that right, and the same command goes on$"):
        workdir.make_folder(tmp_path / "gone" / "run")
    assert stopped.advice == "--workdir=a goes on"
    assert preemption.Preempted(15).advice == "the same command goes on"
