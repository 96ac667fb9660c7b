"""Checkpoints: what comes back, what is kept, what is damaged."""

import random
import shutil

import numpy as np
import pytest

from noah_jax.errors import UserError
from noah_jax.runtime import checkpoint
from noah_jax.runtime.checkpoint import Checkpoints
from tests.helpers.fuzzing import corrupted

STATE = {"params": {"a": np.arange(3, dtype=np.float32)}, "optimizer": {"000": np.int32(5)}}


def _state(step):
    return STATE | {"optimizer": {"000": np.int32(step)}}


def _names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_the_newest_comes_back_and_the_oldest_go(tmp_path):
    checkpoints = Checkpoints(tmp_path / "run", print)
    assert checkpoints.load(STATE) is None and not (tmp_path / "run").exists()
    for step in (9, 10, 100):
        checkpoints.save(step, _state(step))
    (tmp_path / "run/unfinished/state").mkdir(parents=True)  # a save that was interrupted
    checkpoints = Checkpoints(tmp_path / "run", print)
    step, loaded = checkpoints.load(STATE)
    assert step == loaded["optimizer"]["000"] == 100
    np.testing.assert_array_equal(loaded["params"]["a"], STATE["params"]["a"])
    checkpoints.save(101, _state(101))
    assert _names(tmp_path / "run") == ["100", "101"]


def test_no_file_can_be_cut_off(tmp_path):
    """Every file is cut off at every byte."""
    checkpoints = Checkpoints(tmp_path, print)
    checkpoints.save(1, STATE)
    count = whole = 0
    for path in (path for path in tmp_path.rglob("*") if path.is_file()):
        good = path.read_bytes()
        for length in range(len(good)):
            path.write_bytes(good[:length])
            count, whole = count + 1, whole + (checkpoint._problem(tmp_path / "1", "") is None)
        path.write_bytes(good)
    print(f"{count - whole} of {count} cuts were found")
    assert whole == 1  # without the line end of checksums.json
    assert checkpoints.load(STATE)[0] == 1


def test_no_damage_gives_another_state(tmp_path):
    """Files cut off, deleted and corrupted: the one before is used, the damaged one is named."""
    folder, rng, said = tmp_path / "run", random.Random(0), []
    checkpoints = Checkpoints(folder, said.append)
    for step in (1, 2):
        checkpoints.save(step, _state(step))
    shutil.copytree(folder / "2", tmp_path / "good")
    files = [path.relative_to(tmp_path / "good") for path in (tmp_path / "good").rglob("*")]
    files = sorted(path for path in files if (tmp_path / "good" / path).is_file())
    count = 0
    for number in range(200 + 20 * len(files)):
        shutil.rmtree(folder / "2", ignore_errors=True)
        shutil.copytree(tmp_path / "good", folder / "2")
        path = folder / "2" / files[number % len(files)]
        good = path.read_bytes()
        if number < 200:
            path.write_bytes(corrupted(good, rng))
        elif (cut := rng.randrange(-1, len(good))) < 0:
            path.unlink()
        else:
            path.write_bytes(good[:cut])
        said.clear()
        step, loaded = checkpoints.load(STATE)
        assert loaded["optimizer"]["000"] == step
        if step == 1:
            count += 1
            assert f"the checkpoint {folder / '2'} is damaged" in said[0] and "set aside" in said[0]
            assert (folder / "2.damaged").is_dir()
    print(f"{count} of {number + 1} cuts and corruptions of {len(files)} files were found")
    assert count > 0.9 * number  # the rest is white space in a JSON file
    assert checkpoints.load(STATE)[0] in (1, 2)


def test_of_another_structure(tmp_path):
    checkpoints = Checkpoints(tmp_path / "run", print)
    checkpoints.save(1, STATE)
    other = {"params": {"b": np.zeros(2, np.float32)}, "optimizer": {"000": np.int32(5)}}
    wider = STATE | {"params": {"a": np.zeros(4, np.float32)}}
    for like in (other, wider):
        with pytest.raises(UserError, match="run/1 does not fit, so another version .* wrote it"):
            checkpoints.load(like)


def test_of_another_genome(tmp_path):
    Checkpoints(tmp_path / "run", print, "[[1, 0, 0]]").save(1, STATE)
    said = []
    assert Checkpoints(tmp_path / "run", said.append, "[[0, 0, 1]]").load(STATE) is None
    assert "run/1 belongs to something else; set aside as" in said[0]


def test_a_workdir_that_is_gone_stays_gone(tmp_path):
    folder = tmp_path / "gone"
    refused = pytest.raises(UserError, match="cannot write .*gone/run/1: No such file or directory")
    checkpoints = Checkpoints(folder / "run", print)
    with refused:
        checkpoints.save(1, STATE)
    assert not folder.exists()

    folder.mkdir()
    save = checkpoints._checkpointer.save

    def lost(*args):
        folder.rename(tmp_path / "away")
        save(*args)

    checkpoints._checkpointer.save = lost  # which makes the folders above anew
    with refused:
        checkpoints.save(1, STATE)
    assert not folder.exists()
    (tmp_path / "away").rename(folder)
    checkpoints._checkpointer.save = save
    checkpoints.save(1, STATE)
    assert checkpoints.load(STATE)[0] == 1
