"""A user's own path made tiny: the real command, a fabricated checkpoint, a folder of JPEGs."""

import ast
import html
import json
import os
import pathlib
import re
import shlex
import shutil
import subprocess
import sys

import jax
import numpy as np
import pytest
import safetensors.numpy

from noah_jax.data import loader, open_source
from noah_jax.interop import subnet
from tests.helpers.commands import ROOT, main_command, run_main, run_module

RESULT_KEYS = set(
    "task method seed test_accuracy val_accuracy genome params params_noah_count head_params "
    "stages memory images normalisation encoding backbone versions devices".split()
)
_OURS = os.environ | {"PYTHONPATH": str(ROOT)}  # for a process in another folder


def _lines(workdir):
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def _right(workdir, result):
    """Counts the kept predictions that are right, which must be as many as the result says."""
    test = json.loads((workdir / "predictions.json").read_text())["tests"]["test"]
    assert test["labels"] == 5 * [0, 1, 2]
    right = int(np.equal(test["labels"], test["predictions"]).sum())
    assert right == round(15 * result["test_accuracy"])
    return right


def test_noah_from_folder_to_report(home, tmp_path):
    """All stages, what they leave, and that a finished stage is not run again."""
    workdir = tmp_path / "run"
    run_main(home, workdir, "--config.stage=supernet")
    assert (workdir / "supernet").is_dir() and not (workdir / "best.json").exists()
    run_main(home, workdir, "--config.stage=search")
    best = json.loads((workdir / "best.json").read_text())
    assert not (workdir / "retrain").exists()
    done = run_main(home, workdir, render=True)
    assert "supernet …" not in done.stdout and "retrain …" in done.stdout
    result = json.loads((workdir / "result.json").read_text())
    assert RESULT_KEYS <= result.keys()
    assert result["genome"] == best["genome"] and result["params"] == best["params"] <= 50_000
    assert result["val_accuracy"] == best["val_accuracy"] > 1 / 3
    assert result["test_accuracy"] > 0.6  # three plain colours
    assert set(result["stages"]) == {"supernet", "search", "retrain", "test"}
    memory = result["memory"]  # of stages that earlier starts have run, too
    assert 100 < memory["host_peak_mb"] < 20_000
    assert set(memory["stages"]) == set(result["stages"])
    backbone_mb = 4 * 5.3  # at least the backbone's 5.3 M float32 parameters
    assert all(backbone_mb < stage["device_mb"] < 2000 for stage in memory["stages"].values())
    assert {stage["source"] for stage in memory["stages"].values()} == {"compiler"}
    assert result["images"] == {"train": 24, "val": 9, "trainval": 33, "test": 15}
    assert result["encoding"] == "jpeg" and result["head_params"] == 3 * 193
    page = (workdir / "report.html").read_text()
    assert page.count("data:image/svg+xml;base64") == 8 and "://" not in page
    right = _right(workdir, result)
    assert page.count("data:image/jpeg;base64") == min(8, right) + min(8, 15 - right)
    assert f"--workdir={workdir} \\\n" in page and "--config.stage=supernet" in page
    assert {path.name for path in workdir.iterdir()} == {
        ".lock",
        "config.json",
        "metrics.jsonl",
        "supernet",
        "search",
        "best.json",
        "retrain",
        "predictions.json",
        "subnet.json",
        "subnet.safetensors",
        "subnet.safetensors.sha256",
        "result.json",
        "report.html",
        "figures",
    }
    assert [path.name for path in sorted((workdir / "search").iterdir())] == [
        f"gen_{i:03d}.json" for i in range(3)
    ]

    lines = len(_lines(workdir))
    again = run_main(home, workdir)
    assert f"{100 * result['test_accuracy']:.2f}" in again.stdout
    assert len(_lines(workdir)) == lines  # nothing was computed
    answers = (workdir / "predictions.json").read_text()
    (workdir / "result.json").unlink()
    run_main(home, workdir)
    new = json.loads((workdir / "result.json").read_text())
    assert (workdir / "predictions.json").read_text() == answers
    assert new["test_loss"] == result["test_loss"]  # from the checkpoint, to the last bit
    assert new["memory"]["stages"] == result["memory"]["stages"]  # though nothing was trained
    (workdir / "report.html").unlink()
    run_main(home, workdir, "--config.stage=report")
    assert (workdir / "report.html").is_file()

    run_main(home, workdir, "--config.stage=supernet", "--config.baseline.lora=4")  # nothing to do
    other = run_main(home, workdir, "--config.seed=1", code=2)
    assert "seed: 0 there, 1 now" in other.stderr

    keys = ("VISUAL_PROMPT_DIM", "LORA_DIM", "ADAPTER_DIM")  # NOAH's own file of that genome
    columns = zip(keys, np.transpose(best["genome"]).tolist(), strict=True)
    lines = "".join(f"  {key}: {column}\n" for key, column in columns)
    (tmp_path / "subnet.yaml").write_text(f"RETRAIN:\n{lines}")
    given = run_main(home, tmp_path / "given", f"--config.genome={tmp_path / 'subnet.yaml'}")
    assert "supernet" not in given.stdout and not (tmp_path / "given/search").exists()
    value = json.loads((tmp_path / "given/result.json").read_text())
    assert value["genome"] == best["genome"] and value["test_loss"] == result["test_loss"]


def _typed(command, folder):
    """What a command of a page prints that is typed in that folder."""
    python, flag, module, *words = shlex.split(command)
    assert (python, flag) == ("python", "-m")
    return run_module(module, *words, folder=folder).stdout


def test_a_subnet_leaves_its_run(home, tmp_path):
    """The page's own commands use and export it; read back it tests as the run did."""
    run_main(home, tmp_path / "run", "--config.method=lora")
    page = html.unescape((tmp_path / "run/report.html").read_text())
    predicting, program, exporting, _ = re.findall('<pre class="copy">(.*?)</pre>', page, re.S)
    shutil.copytree(home / "colours/images/test", tmp_path / "my_images")
    shutil.copy(home / "colours/images/test/000001.jpg", tmp_path / "my_image.jpg")
    said = _typed(predicting, tmp_path).splitlines()
    assert len(said) == 15
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=tmp_path, env=_OURS
    )
    assert done.returncode == 0, done.stderr
    (((name, probability), *_),) = ast.literal_eval(done.stdout)
    shown = f"my_images/000001.jpg  {name} {100 * probability:.1f} %"
    assert any(line.startswith(shown) for line in said)

    found, folder = _typed(exporting, tmp_path), tmp_path / "run/export"
    assert "peft.PeftModel" in found and (folder / "timm/model.safetensors").is_file()
    assert "; 15 images)" in (folder / "README.md").read_text()
    assert (folder / "architecture.png").is_file() == (tmp_path / "run/figures").is_dir()
    exported, config = subnet.read(folder), json.loads((tmp_path / "run/config.json").read_text())
    source = open_source("colours", str(home), config["split_seed"])
    images, labels = loader.load(source.splits["test"], config["image_size"])
    images = images / np.float32(255)
    mean, std = (np.float32(exported.facts[name]) for name in ("mean", "std"))
    logits = np.asarray(jax.jit(exported.model())((images - mean) / std))
    result = json.loads((tmp_path / "run/result.json").read_text())
    assert (logits.argmax(axis=1) == labels).mean() == result["test_accuracy"]
    losses = np.log(np.exp(logits).sum(axis=1)) - logits[np.arange(len(labels)), labels]
    assert losses.mean() == pytest.approx(result["test_loss"], abs=1e-4)

    lines = run_module("noah_jax.interop", "predict", folder, home / "colours").stdout.splitlines()
    right = []
    for line in lines:
        path, best, *_ = line.split("  ")
        right.append(int(best.split()[0]) == int(pathlib.Path(path).stem) % 3)
    assert len(lines) == 48 and np.mean(right) > 0.6
    missing = run_module("noah_jax.interop", "export", tmp_path / "no_run", code=2)
    assert "holds no subnet.json" in missing.stderr

    done = run_main(home, tmp_path / "run", "--config.method=lora", "--config.calibrate=True")
    assert "calibration …" in done.stdout and "retrain goes on after step 12 of 12" in done.stdout
    calibrated = json.loads((tmp_path / "run/result.json").read_text())
    found = json.loads((tmp_path / "run/calibration.json").read_text())
    assert found["images"] == 9 and found["loss"] <= found["loss_before"]
    assert (
        calibrated["temperature"]
        == found["temperature"]
        == subnet.read(tmp_path / "run").temperature
    )
    for key in ("test_accuracy", "test_loss", "genome"):
        assert calibrated[key] == result[key]
    trained = {line["stage"]: line["step"] for line in _lines(tmp_path / "run") if "step" in line}
    assert trained == {"retrain": 12, "calibration": 9}  # of 33 and 24 images
    test = json.loads((tmp_path / "run/predictions.json").read_text())["tests"]["test"]
    sure = np.exp(logits / found["temperature"])
    sure = (sure / sure.sum(axis=1, keepdims=True)).max(axis=1)
    np.testing.assert_allclose(test["confidences"], sure, atol=1e-3)
    again = run_main(home, tmp_path / "run", "--config.method=lora", "--config.calibrate=True")
    assert "…" not in again.stdout


def test_baselines_in_one_go(home, tmp_path):
    done = run_main(
        home, tmp_path / "all", "--config.method=linear+lora+adapter+vpt+full", render=True
    )
    rows = [line.split() for line in done.stdout.splitlines() if line.startswith("colours ")]
    table = {row[1]: (float(row[3]), float(row[4])) for row in rows}
    assert set(table) == {"linear", "lora", "adapter", "vpt", "full"}
    places = [(-accuracy, params) for params, accuracy in table.values()]
    assert places == sorted(places) and rows[0][-1] == "best"
    assert table["linear"][0] == 0 and table["full"][0] > 5
    assert table["vpt"][0] == round(12 * 3 * 192 / 1e6, 4)
    for method in table:
        workdir = tmp_path / "all" / f"colours-{method}-s0"
        result = json.loads((workdir / "result.json").read_text())
        assert result["method"] == method and result["val_accuracy"] is None
        assert (workdir / "report.html").is_file() and not (workdir / "supernet").exists()
        _right(workdir, result)
    page = (tmp_path / "all/comparison.html").read_text()
    assert "5 methods on colours" in page and "colours-vpt-s0/report.html" in page
    assert "--config.method=linear+lora+adapter+vpt+full</pre>" in page  # the command
    (tmp_path / "all/comparison.html").unlink()
    flags = "--config.method=linear+full", "--config.stage=report"
    run_main(home, tmp_path / "all", *flags)
    assert "2 methods on colours" in (tmp_path / "all/comparison.html").read_text()


def test_rivals_and_a_front(home, tmp_path):
    """Each way to find a genome, a front from four columns, and a point of it by its name."""
    budget, flags = 40_000, ["--config.search.budget_millions=0.04"]
    flags += ["--config.baseline.tuned=(1,300)", "--config.space.depths=(0,12)"]
    flags += ["--config.retrain.epochs=2", "--config.supernet.genomes_per_step=4"]
    flags += ["--config.search.folds=2", "--config.retrain.inherit=0.5"]
    methods = ["noah", "random", "tuned", "tuned_lora", "uniform", "sensitivity"]
    run_main(home, tmp_path, *flags, f"--config.method={'+'.join(methods)}")
    results, seen = {}, {}
    for method in methods:
        workdir = tmp_path / f"colours-{method}-s0"
        results[method] = json.loads((workdir / "result.json").read_text())
        best = json.loads((workdir / "best.json").read_text())
        assert best["genome"] == results[method]["genome"] and best["params"] <= budget
        seen[method] = [
            point["genome"]
            for path in sorted(workdir.glob("search/gen_*.json"))
            for point in json.loads(path.read_text())["candidates"]
        ]
    for one in ("noah", "random"):  # a supernet for each half of the 33 images
        folds = tmp_path / f"colours-{one}-s0" / "supernet"
        assert {path.name for path in folds.iterdir()} == {"fold_0", "fold_1"}
        accuracy = 33 * results[one]["val_accuracy"]
        assert abs(accuracy - round(accuracy)) < 1e-4  # of all 33
    assert len(seen["noah"]) == len(seen["random"]) == 18
    assert seen["noah"][:6] == seen["random"][:6] and seen["noah"] != seen["random"]
    tried = [np.array(genome).max(axis=0).tolist() for genome in seen["tuned"]]
    assert tried == [[1, 0, 0], [0, 1, 0], [0, 0, 1]]  # 300 are too many
    assert seen["tuned_lora"] == seen["tuned"][1:2]
    (uniform,) = {tuple(row) for row in results["uniform"]["genome"]}
    assert min(uniform) > 0 and results["uniform"]["params"] > 0.8 * budget
    uneven = np.array(results["sensitivity"]["genome"])
    assert len({tuple(row) for row in uneven.tolist()}) > 1 and uneven.max() <= 3
    assert results["sensitivity"]["params"] > 0.9 * budget

    noah = tmp_path / "colours-noah-s0"
    few = "--genomes=3", "--images=10", "--retrain=1", f"--out={tmp_path}/averaged.json"
    printed = run_module("bench.averaged", noah, *few).stdout
    (found,) = json.loads((tmp_path / "averaged.json").read_text())["runs"]
    assert list(found["accuracies"]) == ["supernet 1", "supernet 2", "mean"]
    for accuracies in found["accuracies"].values():
        assert len(accuracies) == 3 and all(round(10 * x, 3) % 1 == 0 for x in accuracies)
    assert f"{100 * found['retrained'][0]:.2f}" in printed

    flags[0] = "--config.search.objective=pareto"
    flags += ["--config.space.parallel=(2,)"]
    front = tmp_path / "front"
    run_main(home, front, *flags, "--config.stage=search", "--config.search.folds=1")
    points = json.loads((front / "front.json").read_text())["points"]
    params = [point["params"] for point in points]
    assert len(points) >= 2 and params == sorted(params)
    within = [point for point in points if point["params"] <= 50_000]
    best = json.loads((front / "best.json").read_text())
    assert best["genome"] == within[-1]["genome"] and np.shape(best["genome"]) == (12, 4)
    last = points[-1]
    run_main(home, tmp_path / "last", f"--config.genome={front}/front.json:{last['name']}")
    result = json.loads((tmp_path / "last/result.json").read_text())
    assert result["genome"] == last["genome"] and result["params"] == last["params"]
    done = run_main(home, tmp_path / "none", f"--config.genome={front}/front.json:p0", code=2)
    assert f"{last['name']} ({last['params']})" in done.stderr


def test_a_supernet_of_another_run_is_the_same(home, tmp_path):
    run_main(home, tmp_path / "first")
    flags = f"--config.supernet_from={tmp_path / 'first'}", "--config.search.budget_millions=0.03"
    other = run_main(home, tmp_path / "other", *flags)
    assert "supernet goes on after step 9 of 9" in other.stdout
    run_main(home, tmp_path / "alone", flags[1])
    results = [json.loads((tmp_path / n / "result.json").read_text()) for n in ("other", "alone")]
    for key in ("test_loss", "val_accuracy", "genome"):
        assert results[0][key] == results[1][key]
    run_main(home, tmp_path / "heir", *flags, "--config.retrain.inherit=1.0")
    first = [
        next(line["loss"] for line in _lines(tmp_path / name) if line.get("stage") == "retrain")
        for name in ("heir", "other")
    ]
    assert first[0] < first[1]  # it begins with what the supernet has learnt
    wrong = run_main(home, tmp_path / "wrong", flags[0], "--config.seed=1", code=2)
    assert "seed: 0 there, 1 now" in wrong.stderr and not (tmp_path / "wrong").exists()

    ranked = run_module("noah_jax.search", "rank", tmp_path / "first", "--genomes=4")
    found = json.loads((tmp_path / "first/rank.json").read_text())
    params = [point["params"] for point in found["points"]]
    assert len(params) == 4 and params == sorted(params) and params[-1] <= 50_000
    assert ranked.stdout.count("Kendall's tau") == 2 and len(found["tau"]) == 3
    assert (tmp_path / "first/rank.png").read_bytes().startswith(b"\x89PNG")

    flags = ["--seeds=1", "--images=10", f"--out={tmp_path}/gain.json"]
    flags += ["--budgets", "0.02", "0.03", "0.04"]
    run_module("bench.search_gain", tmp_path / "first", *flags)
    gain = json.loads((tmp_path / "gain.json").read_text())
    for curve in (gain["curves"]["search"][0], gain["curves"]["random"][0]):
        assert len(curve) == 18 and curve == sorted(curve) and 9 * curve[-1] % 1 == 0
    for (tested,) in gain["test_accuracies"].values():
        assert len(tested) == 5 and all(round(10 * value, 4) % 1 == 0 for value in tested)
    (front,) = gain["fronts"]
    assert front["0.04"]["front"] >= gain["curves"]["random"][0][-1] - 1 / 9
    assert front["0.02"]["front_params"] <= 20_000 and (tmp_path / "gain.png").is_file()

    flags = ["--genomes=6", "--images=10", f"--out={tmp_path}/equal.json"]
    printed = run_module("bench.equal_size", tmp_path / "first", *flags).stdout
    found = json.loads((tmp_path / "equal.json").read_text())
    assert np.shape(found["accuracies"]) == np.shape(found["losses"]) == (6, 6)
    halves = 2 * np.array(found["accuracies"][1:])  # of five parts of two images
    assert (halves % 1 == 0).all() and len(np.unique(found["losses"])) > 30
    between = found["between_parts"]["loss"]
    assert -1 <= between <= 1 and f"{between:.2f}" in printed


def test_a_benchmark_that_was_killed_gives_the_same_table(home, tmp_path):
    """Three tasks × two methods × two seeds, killed in the fifth of the twelve runs."""
    for name in ("hues", "tints"):
        shutil.copytree(home / "colours", home / name)
    config = f"configs/vtab.py:colours+hues+tints,data_dir={home}"
    flags = ["--config.method=linear+lora", "--config.seeds=2"]
    flags += ["--config.retrain.epochs=1", "--config.retrain.warmup_epochs=0"]
    whole = run_main(home, tmp_path / "whole", *flags, config=config).stdout

    command = main_command(home, tmp_path / "killed", *flags, config=config)
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as running:
        finished = (line for line in running.stdout if "test accuracy" in line)
        for _ in range(4):
            next(finished)
        while "retrain …" not in running.stdout.readline():
            pass
        running.kill()
    runs = tmp_path / "killed"
    assert len(list(runs.glob("*/result.json"))) == 4 and len(list(runs.iterdir())) == 5
    assert not (runs / "comparison.html").exists()
    again = run_main(home, tmp_path / "killed", *flags, config=config).stdout
    assert again.count("retrain …") == 8

    table = _from_title(whole)
    assert _from_title(again) == table and set(table[1].split()) == {"linear", "lora"}
    rows = ["colours", "hues", "tints", "parameters"]
    assert [line.split()[0] for line in table[3:7]] == rows
    assert any(line.split()[1:2] == ["6"] for line in table[10:12])  # pairs of task and seed
    for method in ("linear", "lora"):
        results = (runs / f"hues-{method}-s{seed}/result.json" for seed in (0, 1))
        scores = [100 * json.loads(path.read_text())["test_accuracy"] for path in results]
        assert f"  {np.mean(scores):.2f}" in table[4]


def _from_title(printed):
    """The lines from the title of the last table on."""
    lines = printed.splitlines()
    titles = [i for i, line in enumerate(lines) if line.startswith("test accuracy (%), mean")]
    return lines[titles[-1] :]


def test_few_shots_of_imagenet_tested_on_other_domains(home, imagenet, tmp_path):
    config = f"configs/domain.py:imagenet,data_dir={imagenet},shots=1,method=linear"
    flags = "--config.retrain.batch_size=250", "--config.calibrate=True"
    done = run_main(home, tmp_path / "run", *flags, config=config)
    assert "not there, so not tested: imagenet_sketch, imagenet_a" in done.stdout
    result = json.loads((tmp_path / "run/result.json").read_text())
    assert result["temperature"] > 0  # of the tested subnet, which has not seen val
    assert not (tmp_path / "run/calibration").exists()
    assert result["images"] == {"train": 1000, "val": 1000, "trainval": 1000, "test": 1000}
    tests = result["more_tests"]
    assert tests["imagenet_v2"]["accuracy"] == result["test_accuracy"]  # the same grey images
    assert tests["imagenet_v2"]["images"] == 1000 and "classes" not in tests["imagenet_v2"]
    assert tests["imagenet_r"]["classes"] == 200
    assert tests["imagenet_r"]["accuracy"] == 1 / 200  # all are told to be the same one of the 200
    rows = [line.split("  ") for line in _from_title(done.stdout)[3:7]]
    assert [row[0].removesuffix(", 1-shot") for row in rows] == [
        *("imagenet", "imagenet_v2", "imagenet_r", "imagenet_r among all classes")
    ]
    assert rows[2][-1].startswith("0.50 [")


def test_one_run_that_fails_does_not_stop_the_others(home, tmp_path):
    done = run_main(
        *(home, tmp_path / "runs", "--config.method=linear+lora", "--config.retrain.epochs=1"),
        *("--config.retrain.warmup_epochs=0", "--config.retrain.learning_rate=1e30"),
        code=2,
    )
    assert done.stdout.count("retrain …") == done.stderr.count("the loss is nan") == 2
    assert "2 of 2 runs failed" in done.stderr and "Traceback" not in done.stderr


def _without_warning(done):
    """What a command says is wrong; the tiny settings are for all methods, which is said before."""
    return re.sub(r"\Awarning: not read by .*\n", "", done.stderr)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--config.image_size=40"], "image_size 40 is not divisible by the patch size 16"),
        (["--config.weights=no_such.npz"], "weights=no_such.npz: no such file"),
        (["--config.magic=1"], "no setting magic"),
        (["--config.backbone=vit_s16"], "do not fit the model"),
        (
            ["--config.search.budget_millions=0.001", "--config.method=linear+noah"],
            "admits no genome",
        ),
        (["--config.retrain.batch_size=64", "--config.method=lora"], "only 33 training images"),
    ],
)
def test_bad_input_gives_one_message_and_leaves_nothing(home, tmp_path, flags, message):
    done = run_main(home, tmp_path / "run", *flags, code=2)
    assert message in done.stderr and "Traceback" not in done.stderr
    assert _without_warning(done).startswith("error: ") and not (tmp_path / "run").exists()


def test_what_is_odd_about_weights_is_said_and_kept(home, tmp_path):
    """A folder with a model in two parts, a prefix, a head, and a config that says 6 heads."""
    tensors = safetensors.numpy.load_file(home / "ti16.safetensors")
    tensors = {f"module.{name}": x for name, x in tensors.items()} | {"fc.bias": np.ones(3)}
    names, folder = sorted(tensors), tmp_path / "weights"
    folder.mkdir()
    for i in (0, 1):
        part = {name: tensors[name] for name in names[i::2]}
        safetensors.numpy.save_file(part, folder / f"model-0000{i + 1}-of-00002.safetensors")
    (folder / "config.json").write_text('{"patch_size": 16, "num_attention_heads": 6}')
    flags = (f"--config.weights={folder}", "--config.method=linear", "--config.retrain.epochs=1")
    flags = (*flags, "--config.retrain.warmup_epochs=0")
    done = run_main(home, tmp_path / "run", *flags)
    result = json.loads((tmp_path / "run/result.json").read_text())
    assert result["heads"] == 6 and len(result["warnings"]) == 3
    for warning in result["warnings"]:
        assert f"  warning: {warning}\n" in done.stdout
    (folder / "config.json").unlink()  # the subnet knows its heads
    photo = next((home / "colours").rglob("*.jpg"))
    assert run_module("noah_jax.interop", "predict", tmp_path / "run", photo).stdout
    changed = run_main(home, tmp_path / "run", *flags, "--config.seed=1", code=2)
    assert "seed: 0 there, 1 now" in changed.stderr


def test_all_tasks_that_are_not_prepared_are_named_at_once(home, tmp_path):
    config = f"configs/vtab.py:svhn+colours+dtd,method=lora,seeds=2,data_dir={home}"
    done = run_main(home, tmp_path / "run", config=config, code=2)
    assert _without_warning(done).startswith("error: svhn is not prepared in ")
    for task in ("svhn", "dtd"):
        command = f"`python -m noah_jax.data prepare {task} --data_dir={home}`"
        assert done.stderr.count(command) == 1
    assert not (tmp_path / "run").exists() and "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("name", "added", "messages"),
    [
        (
            "test",
            "images/test/broken.jpg 1\nnone.jpg 0\n",
            ["images/test/broken.jpg", "none.jpg"],
        ),
        ("test", "images/test/000000.jpg 3\n", ["000000.jpg has label 3, expected 0 … 2"]),
        ("val200", None, ["val has no images"]),
    ],
)
def test_bad_lists_are_told_of_and_nothing_is_written(home, tmp_path, name, added, messages):
    path = home / "colours" / f"{name}.txt"
    lines = path.read_text()
    broken = home / "colours/images/test/broken.jpg"
    broken.write_bytes(b"no image")
    try:
        path.write_text("" if added is None else lines + added)
        done = run_main(home, tmp_path / "run", "--config.method=linear", code=2)
    finally:
        path.write_text(lines)
        broken.unlink()
    assert all(message in done.stderr for message in messages)
    assert "Traceback" not in done.stderr and not (tmp_path / "run").exists()


def test_augmentation_reaches_the_training(home, tmp_path):
    """Smoothed labels of 3 classes cannot be fitted to a loss under 0.29; plain ones are (0.01)."""
    flags = "--config.method=lora", "--config.stage=retrain", "--config.augmentation=randaugment"
    run_main(home, tmp_path, *flags)
    losses = [line["loss"] for line in _lines(tmp_path) if "loss" in line]
    assert len(losses) == 3 and min(losses) > 0.29
