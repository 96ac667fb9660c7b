"""The benchmarks count what XLA counts, and run."""

import contextlib
import json
import time
import types

import jax
import numpy as np
import pytest
import torch

from bench import against_torch, cost, equal_size, gpu, machine, throughput, timesplit
from noah_jax.runtime import sharding
from noah_jax.vit import ViTConfig, flops
from noah_jax.vit import config as vit_config

_SIZES = {"vpt": 4, "lora": 8, "adapter": 6}


def _config(depth):
    return ViTConfig(width=384, depth=depth, heads=4, patch_size=16, image_size=64, num_classes=10)


def _xla_flops(depth, training):
    """The operations of one image by XLA's own analysis, in a batch of 4."""
    network = machine.abstract_network(_config(depth), _SIZES, sharding.make_mesh())

    def forward(params, frozen, images, genome):
        return network.logits(params, frozen, images, genome).sum()

    function = jax.jit(jax.grad(forward) if training else forward)
    images = jax.ShapeDtypeStruct((4, 64, 64, 3), np.float32)
    genome = jax.ShapeDtypeStruct((depth, 3), np.int32)
    compiled = function.lower(network.params, network.frozen, images, genome).compile()
    return compiled.cost_analysis()["flops"] / 4


@pytest.mark.parametrize("training", [False, True])
def test_flops_are_those_of_xla(training):
    """They agree to 4 %: XLA also counts norms, softmax and GELUs, which the arithmetic leaves out.

    Blocks but the last run in a loop, whose body XLA counts once: exact with one such block, and
    each further costs what the first did.
    """
    last, two = _xla_flops(1, training), _xla_flops(2, training)
    count = flops.training_step if training else flops.forward
    for depth in (2, 12):
        ratio = (two + (depth - 2) * (two - last)) / count(_config(depth), _SIZES)
        assert 1 < ratio < 1.04


def test_vit_b_costs_what_is_known():
    """17.6 GFLOP multiply-adds of ViT-B/16 at 224 px (DeiT's paper), less the last block's MLP."""
    config = ViTConfig.named("vit_b16", image_size=224, num_classes=1000)
    bare = dict.fromkeys(_SIZES, 0)
    n, d = 197, 768
    saved = 196 * 2 * 9 * d * d + 196 * 4 * n * d  # the last block's for the patches
    assert flops.tokens(config, bare) == n
    assert (flops.forward(config, bare) + saved) / 2e9 == pytest.approx(17.6, abs=0.05)


def test_throughput_measures_every_stage(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(machine, "compiling_anew", contextlib.nullcontext)  # slower than the rest
    out, trace = tmp_path / "results" / "throughput.json", tmp_path / "trace"
    flags = "--backbone=vit_ti32 --image_size=32 --batch=4 --dtype=float32 --steps=2 --repeats=2 "
    flags += "--population=3 --val_images=5 --eval_batch=4 --genomes_per_call=1 "
    throughput.main([*flags.split(), f"--out={out}", f"--profile={trace}"])
    result = json.loads(out.read_text())
    assert result["command"].startswith(f"python -m bench.throughput {flags}")
    stages = result["stages"]
    assert set(stages) == {"supernet", "population", "retraining", "test"}
    for stage in stages.values():
        speed = stage["images_per_second"]
        assert 0 < speed["min"] <= speed["median"] <= speed["max"] and speed["repeats"] == 2
        assert 0 < stage["mfu"] < 1.5 and stage["memory"]["compiler_mb"] > 10
        assert stage["compile_seconds"]["total"] > 0
    whole, step = result["whole_task_computed"], stages["supernet"]["step_seconds"]["median"]
    assert whole["seconds"]["supernet"] == pytest.approx(6000 * step, rel=1e-2)
    assert whole["total_seconds"] == pytest.approx(sum(whole["seconds"].values()), rel=1e-2)
    assert list(trace.rglob("*.xplane.pb"))
    kernels = stages["supernet"]["milliseconds_of_kernels"]
    assert any("dot" in name for name in kernels), kernels
    assert not any(name.startswith("$") for name in kernels)  # Python's functions
    table = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in table] == ["stage", *stages]


def test_cost_is_tabulated_and_genomes_compile_nothing(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(machine, "compiling_anew", contextlib.nullcontext)
    monkeypatch.setattr(cost, "_PER_CALL", (5,))
    monkeypatch.setattr(cost, "_DEPTHS", (2,))
    monkeypatch.setitem(vit_config._SHAPES, "ti", (32, 12, 2))  # the figures are not looked at
    out = tmp_path / "cost.json"
    flags = "--backbone=vit_ti32 --image_size=32 --batch=2 --doublings=1 --genomes=60 --repeats=1 "
    flags += "--compile_backbone=vit_ti32 --compile_image_size=32 --compile_batch=2"
    cost.main([*flags.split(), f"--out={out}"])
    result = json.loads(out.read_text())
    linear = result["linear"]
    assert set(linear) == {"epochs", "training images", "population", "validation images"}
    for row in linear.values():
        small, large = (time["median"] for time in row["seconds"])
        assert row["sizes"][1] == 2 * row["sizes"][0]
        assert row["ratio_per_doubling"] == [pytest.approx(large / small, abs=1e-3)]
        assert 2 ** row["exponent"] == pytest.approx(large / small, rel=1e-2)
    for row in result["genomes"].values():
        assert row["distinct_genomes"] > 60
        assert (row["compilations_after_first_call"], row["programs"]) == (0, 1)
    (population,) = result["population_over_single"]
    assert 0 < population["ratio"]["median"] < 5
    assert [row["blocks"] for row in result["compile_seconds"]] == [2, 2]
    assert "exponent" in capsys.readouterr().out.splitlines()[0]


def test_pytorch_beside_ours_does_the_same(tmp_path, capsys, monkeypatch):
    compiled = []  # without the compiler, which takes a minute
    monkeypatch.setattr(torch.nn.Module, "compile", lambda block: compiled.append(block))
    out = tmp_path / "against_torch.json"
    flags = "--backbone=vit_ti16 --image_size=32 --batch=2 --steps=2 --genomes=2 --pairs=2"
    against_torch.main([*flags.split(), "--compile", f"--out={out}"])
    assert len(compiled) == 12  # the blocks
    result = json.loads(out.read_text())
    assert set(result["largest_differences_of_logits"]) == {"sliced", "compiled"}
    assert max(result["largest_differences_of_logits"].values()) < 1e-4
    for stage in result["stages"].values():
        ours = stage.pop("noah_jax")["seconds"]
        for side in stage.values():
            theirs, ratio = side["seconds"], side["ratio"]
            assert ratio["repeats"] == 2
            assert ours["min"] / theirs["max"] <= ratio["median"] <= ours["max"] / theirs["min"]
    table = capsys.readouterr().out.splitlines()
    assert [line.split("  ")[0] for line in table[1:]] == [
        f"{stage}, {name}"
        for stage in ("supernet step", "evaluation")
        for name in ("sliced", "compiled")
    ]


def test_a_gpu_is_measured_until_the_time_is_up(tmp_path, capsys, monkeypatch):
    """What ended is kept; what is stopped takes the processes with it that it has started."""
    sleep = "import subprocess, sys; subprocess.run([sys.executable, '-c', {!r}])"
    child = f"import time; time.sleep(4); open({str(tmp_path / 'alive')!r}, 'w')"
    parts = {
        "good": ["-c", f"open({str(tmp_path / 'good')!r}, 'w')"],
        "broken": ["-c", "raise SystemExit(3)"],
        "slow": ["-c", sleep.format(child)],
        "late": ["-c", "raise AssertionError('there is no time left')"],
    }
    monkeypatch.setattr(gpu, "commands", lambda arguments: parts)
    with pytest.raises(SystemExit, match="missing: broken, slow, late"):
        gpu.main(["--seconds=3", f"--out={tmp_path}", "--", "--config=configs/demo.py"])
    said = [line.partition(" after")[0] for line in capsys.readouterr().out.splitlines()]
    assert said == [
        *("good: done", "broken: failed with exit code 3", "slow: stopped", "late: not started")
    ]
    time.sleep(4)
    assert (tmp_path / "good").exists() and not (tmp_path / "alive").exists()


def test_what_measures_a_gpu_takes_its_flags(monkeypatch):
    """Each command is parsed as its module parses it, and none is run."""
    arguments = types.SimpleNamespace(out="o", noah="n", flags=["--config=configs/demo.py"])
    seen = {}
    for module, work in ((throughput, "measure"), (against_torch, "measure")):

        def note(arguments, name=module.__name__):
            seen[name] = vars(arguments)
            raise KeyboardInterrupt

        monkeypatch.setattr(module, work, note)
    monkeypatch.setattr(timesplit, "measure", lambda flags, workdir: seen.update(flags=flags) or {})
    monkeypatch.setattr(machine, "finish", lambda *_: None)
    monkeypatch.setattr(timesplit, "_table", lambda result: [])
    modules = {"throughput": throughput, "against_torch": against_torch, "task": timesplit}
    for part, (_, _, *flags) in gpu.commands(arguments).items():
        with contextlib.suppress(KeyboardInterrupt):
            modules[part].main(flags)
    assert seen["bench.throughput"]["profile"] == "o/profile_gpu"
    assert seen["bench.against_torch"]["compile"] and seen["bench.against_torch"]["noah"] == "n"
    assert seen["flags"] == ["--config=configs/demo.py"]


def test_every_moment_counts_once():
    """Overlaps go to the part that is named first, what lies outside the run is cut off."""
    spans = {
        "computing": [(2.0, 5.0), (4.0, 6.0)],
        "compiling": [(1.5, 3.0), (1.0, 2.0), (9.0, 12.0)],
        "starting": [(-1.0, 1.5)],
    }
    result = timesplit.split(spans, 0.0, 10.0)
    parts = {part: value for part, value in result["parts"].items() if value}
    assert parts == {"computing": 4.0, "compiling": 2.0, "starting": 1.0, "rest": 3.0}
    assert (result["seconds"], result["outside"]) == (10.0, 0.6)


def test_a_run_is_split_into_parts(tmp_path, home, capsys):
    """The real command on the photos of three colours."""
    flags = f"--config=configs/folder.py:{home}/colours,method=linear --config.image_size=32 "
    flags += f"--config.weights={home}/ti16.safetensors --config.backbone=vit_ti16 "
    flags += "--config.normalisation=half --config.retrain.epochs=3 --config.retrain.batch_size=8 "
    flags += "--config.retrain.warmup_epochs=1"
    out = tmp_path / "timesplit.json"
    timesplit.main([f"--out={out}", "--", *flags.split()])
    result = json.loads(out.read_text())
    assert result["command"].endswith(f"-- {flags}")
    for run in (result["first"], result["second"]):
        assert sum(run["parts"].values()) == pytest.approx(run["seconds"], abs=0.05)
        assert all(run["parts"][part] > 0 for part in timesplit._PARTS)
        assert run["parts"]["starting"] > 0.3 and run["parts"]["rest"] < run["seconds"] / 2
        inside = run["parts"]["computing"] / run["seconds"]
        assert run["outside"] == pytest.approx(1 - inside, abs=0.01)
    assert "outside computing" in capsys.readouterr().out


def test_the_best_genome_is_counted_on_other_images():
    """The last of three genomes is best on all parts but the first; losses prefer the first one."""
    accuracies = np.tile([0.5, 0.6, 0.7], (6, 1))
    accuracies[0] = [0.7, 0.5, 0.6]
    losses = np.tile([1.0, 2.0, 3.0], (6, 1))
    gains = equal_size.summary(accuracies, losses)["gain_of_the_best"]
    one, five = gains["by_accuracy"][0], gains["by_accuracy"][4]
    assert one == pytest.approx((-0.1 + 5 * (4 * 0.1 + 0) / 5) / 6)  # misled by the first part
    assert five == pytest.approx((0 + 5 * 0.1) / 6)
    assert gains["by_loss"][0] == pytest.approx((-0.1 + 5 * (0.1 - 4 * 0.1) / 5) / 6)
