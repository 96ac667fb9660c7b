"""The status of runs that are finished, going on, or were stopped."""

import dataclasses

import pytest

from noah_jax.config import defaults, expand
from noah_jax.errors import UserError
from noah_jax.report.status import status
from noah_jax.runtime import workdir
from noah_jax.runtime.workdir import claim, write_json
from noah_jax.runtime.writer import Writer


def _run(folder):
    values = defaults()
    values.update(task="digits", backbone="vit_b16_in21k")
    folder.mkdir()
    write_json(folder / "config.json", dataclasses.asdict(expand(values)[0]) | {"inputs": {}})
    return Writer(folder)


def test_of_each_run_where_it_is(tmp_path, monkeypatch):
    monkeypatch.setattr(workdir, "_PATIENCE_TO_LOOK", 0.0)
    _run(tmp_path / "a")
    log = _run(tmp_path / "b").log
    log(stage="supernet", epoch=3, step=36, loss=0.1234)
    with claim(tmp_path / "b", print):
        lines = status(tmp_path)
    assert [line.split("  ")[0] for line in lines] == [str(tmp_path / name) for name in "ab"]
    assert lines[0].endswith("stopped, nothing logged yet")
    assert "running, supernet, epoch 3 of 500 done, loss 0.123, 0." in lines[1]
    log(stage="supernet", seconds=1.0)
    assert "stopped, supernet ended" in status(tmp_path / "b")[0]
    log(stage="search", generation=4, val_accuracy=0.505, val_loss=1.0)
    with open(tmp_path / "b/metrics.jsonl", "a") as file:
        file.write('{"time": 1')  # cut off
    assert "search, generation 5 of 16 done, validation accuracy 50.50 %" in status(tmp_path)[1]
    write_json(tmp_path / "b/result.json", {"test_accuracy": 0.75})
    assert status(tmp_path)[1].endswith("finished: test accuracy 75.00 %")
    (tmp_path / "b/result.json").write_text("{}")
    assert "damaged" in status(tmp_path)[1]
    (tmp_path / "empty").mkdir()
    for folder in ("empty", "nothing"):
        with pytest.raises(UserError, match="no runs in"):
            status(tmp_path / folder)
