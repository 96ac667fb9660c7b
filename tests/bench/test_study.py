"""A study runs what is missing and nothing twice; its statistics are those computed by hand."""

import dataclasses
import json
import pathlib
import shutil

import numpy as np
import pytest

from bench import study, study_tables
from configs import study as study_config
from noah_jax import config as config_lib
from noah_jax import pipeline
from noah_jax.config import derived
from noah_jax.errors import UserError
from noah_jax.runtime import preemption

# Of ml_collections, which loads configs.
pytestmark = pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")

ROOT = pathlib.Path(__file__).parents[2]
ACCURACIES = {  # of tasks a and b, seeds 0 and 1
    "noah": {"a": (0.80, 0.82), "b": (0.60, 0.64)},
    "lora": {"a": (0.78, 0.79), "b": (0.59, 0.64)},
    "vpt": {"a": (0.85, 0.81), "b": (0.70, 0.75)},
}
TINY = (
    "--config.backbone=vit_ti16 --config.normalisation=half --config.image_size=32 "
    "--config.supernet.epochs=1 --config.supernet.warmup_epochs=0 --config.retrain.epochs=1 "
    "--config.retrain.warmup_epochs=0 --config.search.population=4 --config.search.generations=0 "
    "--config.search.mutations=1 --config.search.crossovers=1 --config.seeds=1"
).split()


def _entry(task, method, seed, accuracy, **more):
    return {
        "task": task,
        "method": method,
        "seed": seed,
        "digest": "now",
        "test_accuracy": accuracy,
        "val_accuracy": None,
        "val_loss": None,
        "params": 100_000,
        "stages": {"retrain": 10.0 + seed, "test": 2.0},
        "inputs": {"images": task, "weights": "w"},
        "shared_supernet": False,
    } | more


def _study(entries):
    return {"digests": {entry["method"]: "now" for entry in entries}, "runs": entries}


@pytest.fixture
def by_hand():
    return [
        _entry(task, method, seed, accuracy)
        for method, tasks in ACCURACIES.items()
        for task, values in tasks.items()
        for seed, accuracy in enumerate(values)
    ]


def _cells(text, title):
    """The rows of the table below the line that starts so, by their first cell."""
    lines = text[text.index(title) :].split("\n\n")[0].splitlines()
    rows = [[cell for cell in line.split("  ") if cell] for line in lines[3:]]
    return {row[0]: [cell.strip() for cell in row[1:]] for row in rows}


def test_accuracies_and_cost(by_hand):
    text = study_tables.tables(_study(by_hand))
    rows = _cells(text, "test accuracy")
    assert list(rows) == ["noah", "lora", "vpt"]
    assert rows["noah"] == ["81.00 ± 1.41", "62.00 ± 2.83", "71.50 ± 2.12", "0.1000"]
    assert _cells(text, "cost")["lora"] == ["4", "10.5", "2.0", "12.5"]
    incomplete = [run for run in by_hand if (run["task"], run["seed"]) != ("b", 1)]
    rows = _cells(study_tables.tables(_study(incomplete)), "test accuracy")
    assert rows["noah"] == ["81.00 ± 1.41", "60.00 (1 of 2)", "-", "0.1000"]


def test_noah_against_each_method(by_hand):
    """Less LoRA: 2, 3, 1, 0. Mean 3/2, deviation √(5/3), t = 3/√(5/3), on 3 degrees of freedom.

    There P(|T| < t) = 2/π (θ + sin θ cos θ) with tan θ = t/√3. 4 of 16 sign flips are as far.
    """
    differences = np.array([2.0, 3.0, 1.0, 0.0])
    assert study_tables.standard_error(differences) == pytest.approx(np.sqrt(5 / 3) / 2)
    angle = np.arctan(3 / np.sqrt(5 / 3) / np.sqrt(3))
    p = 1 - 2 / np.pi * (angle + np.sin(angle) * np.cos(angle))
    assert study_tables.t_test(differences) == pytest.approx(p) == pytest.approx(0.1027, abs=1e-4)
    assert study_tables.sign_flip_test(differences) == 4 / 16
    rows = _cells(study_tables.tables(_study(by_hand)), "NOAH less each")
    assert rows["lora"] == ["4", "+1.50", "0.65", "0.1027", "0.2500"]
    assert rows["vpt"][:2] == ["4", "-6.25"] and "noah" not in rows


def test_what_validation_says_of_noah_and_random_search():
    """Made by hand: test 1, 2, 3 points more, with loss 1, 2, 3 less and accuracy 0, 1, 1 more."""
    runs = [_entry("a", "lora", 0, 0.5), _entry("a", "random", 4, 0.9, genome=[[9]])]
    for seed, more in enumerate((0.0, 0.1, 0.1, 0.0)):
        same = {"val_accuracy": 0.5, "val_loss": 9.0, "genome": [[1]]}
        runs.append(_entry("a", "random", seed, 0.5, **same))
        better = {"val_accuracy": 0.5 + more, "val_loss": 8.0 - seed, "genome": [[2]]}
        better = better if seed < 3 else same
        runs.append(_entry("a", "noah", seed, 0.51 + 0.01 * seed, **better))
    rows = _cells(study_tables.tables(_study(runs)), "NOAH less random search")
    assert rows == {"a": ["3", "0.87", "1.00"]}


def test_tests_of_few_equal_and_many_pairs():
    assert study_tables.t_test(np.array([1.0])) is None
    assert study_tables.sign_flip_test(np.array([1.0])) == 1
    assert study_tables.t_test(np.array([0.3, 0.3, 0.3])) is None
    assert study_tables.sign_flip_test(np.array([0.3, 0.3, 0.3])) == 2 / 8
    assert study_tables.sign_flip_test(np.zeros(5)) == 1
    many = np.array([1.0] * 14 + [-1.0] * 6)  # at least 14 heads, or tails, of 20: 0.1153
    assert study_tables.sign_flip_test(many) == pytest.approx(0.1153, abs=0.005)


def test_first_or_within_one_standard_error(by_hand):
    """Behind VPT: 5, -1 on a (2 ± 3), 10, 11 on b (10.5 ± 0.5)."""
    rows = _cells(study_tables.tables(_study(by_hand)), "the first of each")
    assert rows["a"] == ["vpt", "83.00", "81.00", "2.00 ± 3.00", "within"]
    assert rows["b"] == ["vpt", "72.50", "62.00", "10.50 ± 0.50", "no"]
    fewer = [run for run in by_hand if run["method"] != "vpt" and run["seed"] == 0]
    fewer += [_entry("b", "lora", 0, 0.60)]  # as NOAH
    rows = _cells(study_tables.tables(_study(fewer)), "the first of each")
    assert rows["a"][0] == rows["b"][0] == "noah" and rows["b"][-1] == "first"
    other_seed = _entry("a", "vpt", 7, 0.99)
    rows = _cells(study_tables.tables(_study([*fewer, other_seed])), "the first of each")
    assert rows["a"][0] == "noah"


def test_tuned_is_what_validates_best():
    """If accuracies are equal, the lower loss wins; a missing loss, like nan, loses."""
    stages = {"tuning": 100.0, "retrain": 10.0, "test": 1.0}
    three = [
        _entry("a", "tuned_vpt", 0, 0.9, val_accuracy=0.7, val_loss=0.5, stages=stages),
        _entry("a", "tuned_lora", 0, 0.6, val_accuracy=0.8, val_loss=0.4, stages=stages),
        _entry("a", "tuned_adapter", 0, 0.7, val_accuracy=0.8, val_loss=0.3, stages=stages),
    ]
    (chosen,) = study_tables.tuned(three)
    assert (chosen["chosen"], chosen["test_accuracy"]) == ("tuned_adapter", 0.7)
    assert chosen["stages"] == {"tuning": 300.0, "retrain": 10.0, "test": 1.0}
    three[2] |= {"val_loss": None}
    (chosen,) = study_tables.tuned(three)
    assert chosen["chosen"] == "tuned_lora"
    rows = _cells(study_tables.tables(_study(three)), "test accuracy")
    assert list(rows) == ["tuned", "tuned_vpt", "tuned_lora", "tuned_adapter"]
    assert not list(study_tables.tuned(three[:2]))


def test_what_cannot_be_compared_is_said(by_hand):
    by_hand[0] |= {"digest": "before"}
    by_hand[1] |= {"inputs": {"images": "others", "weights": "w"}}
    text = study_tables.tables(_study(by_hand))
    assert "Left out: 1 runs with other settings." in text
    assert "Warning: not all runs of a had the same images." in text
    assert _cells(text, "test accuracy")["noah"][0] == "82.00 (1 of 2)"


def test_markdown_has_the_same_cells(by_hand, tmp_path, capsys):
    out = tmp_path / "study.json"
    study._write(out, _study(by_hand))
    study.main([f"--out={out}", "--table"])
    plain = capsys.readouterr().out
    study.main([f"--out={out}", "--table", "--markdown"])
    lines = capsys.readouterr().out.splitlines()
    assert "| noah | 81.00 ± 1.41 | 62.00 ± 2.83 | 71.50 ± 2.12 | 0.1000 |" in lines
    assert sum("---" in line for line in lines) == sum("---" in line for line in plain.splitlines())


def test_config_has_folders_and_digits(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    values = study_config.get_config(f"{tmp_path}/a+digits+{tmp_path}/b,method=lora")
    runs = config_lib.expand(values)
    assert [run.task for run in runs[::3]] == ["a", "digits", "b"]
    assert {run.data_dir for run in runs} == {str(tmp_path.resolve())}
    for method in ("vpt", "lora", "adapter"):  # all as large as the budget asks
        values.method = method
        run = config_lib.expand(values)[0]
        space = derived.search_space(run)
        assert run.search.limits.admits(space.count(space.smallest()))
        values.method = f"tuned_{method}"
        (tuned,) = derived.candidates(config_lib.expand(values)[0]).values()
        assert space.count(tuned) == space.count(space.smallest())
    assert run.search.limits.most < 1.1 * run.search.limits.least  # 5 % up or down
    with pytest.raises(UserError, match="there is no folder .*/c$"):
        study_config.get_config(f"digits+{tmp_path}/c")
    (tmp_path / "digits").mkdir()
    with pytest.raises(UserError, match="digits is scikit-learn's, or"):
        study_config.get_config(f"digits+{tmp_path}/a")


@pytest.fixture
def started(monkeypatch):
    """The runs that were started; the one after `stop_before` of them is stopped by a signal."""

    class Started(list):
        stop_before = 99

    runs, run = Started(), pipeline.run

    def noting(config, workdir):
        if len(runs) == runs.stop_before:
            raise preemption.Preempted(15)
        runs.append(config.name)
        return run(config, workdir)

    monkeypatch.setattr(pipeline, "run", noting)
    return runs


def test_a_study_goes_on_and_runs_nothing_twice(home, tmp_path, ti16, started, capsys):
    out, workdir = tmp_path / "results/study.json", tmp_path / "runs"
    config = f"--config={ROOT}/configs/study.py:{home}/colours,method=linear+random+lora+noah"
    rest = [f"--workdir={workdir}", *TINY]
    rest += ["--config.supernet.batch_size=8", "--config.retrain.batch_size=8"]
    command = [f"--out={out}", config, f"--config.weights={ti16}", *rest]
    started.stop_before = 1
    with pytest.raises(preemption.Preempted):
        study.main(command)
    assert started == ["colours-linear-s0"]
    (first,) = json.loads(out.read_text())["runs"]

    started.stop_before = 99
    study.main(command)
    assert started == [
        *("colours-linear-s0", "colours-lora-s0", "colours-noah-s0", "colours-random-s0")
    ]
    whole = out.read_bytes()
    result = json.loads(whole)
    assert result["runs"][0] == first and result["command"].startswith("python -m bench.study ")
    for entry in result["runs"]:
        name = f"colours-{entry['method']}-s0-{entry['digest'][:8]}"
        kept = json.loads((workdir / name / "result.json").read_text())
        assert all(entry[key] == kept[key] for key in ("test_loss", "genome", "stages", "inputs"))
        assert result["digests"][entry["method"]] == entry["digest"]
    best = json.loads((workdir / name / "best.json").read_text())
    losses = [entry["val_loss"] for entry in result["runs"]]
    assert losses[:2] == [None, None] and losses[3] == best["val_loss"]
    assert [entry["shared_supernet"] for entry in result["runs"]] == [False, False, False, True]

    shutil.rmtree(workdir)
    elsewhere = shutil.copy(ti16, tmp_path / "copy.safetensors")
    capsys.readouterr()
    study.main([f"--out={out}", config, f"--config.weights={elsewhere}", *rest])
    said = capsys.readouterr().out
    assert len(started) == 4 and out.read_bytes() == whole and not workdir.exists()
    assert "4 of 4 runs are in" in said and len(_cells(said, "test accuracy")) == 4

    started.stop_before = 4  # what the search reads, the single modules do not
    with pytest.raises(preemption.Preempted):
        study.main([*command, "--config.search.population=5"])
    assert (
        "run 1 of 2: colours-noah-s0; left: 2 of methods not timed yet" in capsys.readouterr().out
    )


def test_seed_after_seed(ti16):
    flags = [f"--config.weights={ti16}", *TINY[:-1], "--config.seeds=2"]
    configs = study._configs(["--config=configs/study.py:digits,method=lora+noah", *flags])
    assert [(config.seed, config.method) for config in configs] == [
        *((0, "lora"), (0, "noah"), (1, "lora"), (1, "noah"))
    ]
    assert study._digest(configs[1]) == study._digest(configs[3]) != study._digest(configs[0])


def test_random_takes_the_supernet_of_a_finished_noah(tmp_path, ti16):
    flags = ["--config=configs/study.py:digits,method=noah", f"--config.weights={ti16}", *TINY]
    (noah,) = study._configs(flags)
    random = dataclasses.replace(noah, method="random")
    workdir = study._workdir(noah, tmp_path)
    (workdir / "supernet/12").mkdir(parents=True)
    assert study._sharing(random, tmp_path) == random  # NOAH still trains it
    (workdir / "result.json").touch()
    sharing = study._sharing(random, tmp_path)
    assert sharing == dataclasses.replace(random, supernet_from=str(workdir))
    assert study._digest(sharing) == study._digest(random)
    assert study._sharing(noah, tmp_path) == noah


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "expected --config="),
        (["--config=configs/study.py:digits,method=lora,stage=retrain"], "has all stages"),
        (["--config=configs/study.py:digits", "--config.magic=1"], "magic"),
        (["--table"], "there are no results"),
    ],
)
def test_bad_input_is_told_and_nothing_is_written(tmp_path, flags, message):
    with pytest.raises(UserError, match=message):
        study.main([f"--out={tmp_path}/study.json", f"--workdir={tmp_path}/runs", *flags])
    assert not list(tmp_path.iterdir())
