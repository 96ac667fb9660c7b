"""Defaults are the paper's; every complaint at once; nothing unread."""

import dataclasses
import math
import pathlib
import re
import warnings

import numpy as np
import pytest
from absl import flags
from flax.traverse_util import flatten_dict
from ml_collections import config_flags

from configs import demo, domain, fewshot, folder, vtab
from noah_jax import config as config_lib
from noah_jax import main
from noah_jax.config import derived, differences, settings
from noah_jax.errors import UserError
from noah_jax.space.budget import Budget
from noah_jax.space.genomes import MODULES

CONFIGS = ("demo", "domain", "fewshot", "folder", "study", "vtab")


def _expand(config, **changes):
    config.update_from_flattened_dict(changes)
    return config_lib.expand(config)


def test_vtab_defaults_are_the_papers_recipe():
    (config,) = config_lib.expand(vtab.get_config("cifar100"))
    assert (config.supernet.epochs, config.supernet.learning_rate) == (500, 5e-4)
    assert (config.retrain.epochs, config.retrain.learning_rate) == (100, 1e-3)
    for stage in (config.supernet, config.retrain):
        assert (stage.batch_size, stage.weight_decay, stage.warmup_epochs) == (64, 1e-4, 10)
    search = config.search
    assert (search.population, search.generations, search.parents) == (50, 15, 10)
    assert (search.mutations, search.crossovers) == (25, 25)
    assert (search.m_prob, search.s_prob, search.limits) == (0.2, 0.4, Budget(0, 640_000))
    assert (config.drop_path, config.dropout, config.image_size) == (0.1, 0.1, 224)
    space = derived.search_space(config)
    assert space.depths == (3, 6, 9, 12)
    assert all(space.sizes[name] == (1, 5, 10) for name in MODULES)


@pytest.mark.parametrize(
    ("method", "sizes", "params"),
    [
        ("vpt", {"vpt": 100, "lora": 0, "adapter": 0}, 921_600),
        ("lora", {"vpt": 0, "lora": 8, "adapter": 0}, 294_912),
        ("adapter", {"vpt": 0, "lora": 0, "adapter": 8}, 156_768),
        ("linear", {"vpt": 0, "lora": 0, "adapter": 0}, 0),
        ("full", {"vpt": 0, "lora": 0, "adapter": 0}, 0),
    ],
)
def test_a_baseline_is_a_space_with_one_point(method, sizes, params):
    (config,) = config_lib.expand(vtab.get_config(f"cifar100,method={method}"))
    space = derived.search_space(config)
    assert space.max_sizes == sizes | {"parallel": 0} and space.num_genomes == 1
    assert space.count(space.smallest()) == params


def test_the_linear_probe_has_a_rate_and_epochs_of_its_own():
    counts = {"train": 80, "trainval": 100}
    values = vtab.get_config(
        "svhn,method=linear+lora,baseline.linear_rate=8,baseline.linear_epochs=30"
    )
    both = [derived.schedule(run, counts, "retrain")[0] for run in config_lib.expand(values)]
    assert [schedule.learning_rate for schedule in both] == [8e-3, 1e-3]
    assert [schedule.epochs for schedule in both] == [30, 100]
    with pytest.raises(UserError, match="fewer than the 10 baseline.linear_epochs"):
        config_lib.expand(vtab.get_config("svhn,method=linear,baseline.linear_epochs=10"))


def test_config_strings(tmp_path):
    config = vtab.get_config("caltech101,method=lora,seed=3,retrain.learning_rate=0.01")
    (config,) = config_lib.expand(config)
    assert (config.task, config.method, config.seed) == ("caltech101", "lora", 3)
    assert config.retrain.learning_rate == 0.01
    (tmp_path / "cats=dogs").mkdir()
    (config,) = config_lib.expand(folder.get_config(f"{tmp_path}/cats=dogs,seed=1"))
    assert config.task == "cats=dogs" and config.seed == 1
    assert config.backbone == "dinov2_vits14_saliency"  # it needs no download but the wheel
    assert config.data_dir == str(tmp_path.resolve())
    with pytest.raises(UserError, match=r"no folder or file .*/cats \(did you mean cats=dogs\?\)$"):
        folder.get_config(f"{tmp_path}/cats")
    methods = [config.method for config in config_lib.expand(demo.get_config())]
    assert methods == ["linear", "lora", "adapter", "vpt", "noah"]
    assert len(config_lib.expand(demo.get_config("lora+lora"))) == 1


def test_benchmarks_are_expanded(tmp_path):
    runs = config_lib.expand(vtab.get_config("all,method=lora+noah,seeds=3"))
    assert len(runs) == 19 * 2 * 3 and len({run.name for run in runs}) == len(runs)
    assert [run.name for run in runs[:4]] == [
        "cifar100-lora-s0",
        "cifar100-lora-s1",
        "cifar100-lora-s2",
        "cifar100-noah-s0",
    ]
    runs = config_lib.expand(vtab.get_config("specialized+kitti+mine,seed=7"))
    assert [run.task for run in runs] == [
        *("patch_camelyon", "eurosat", "resisc45", "diabetic_retinopathy", "kitti", "mine")
    ]
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
    runs = config_lib.expand(folder.get_config(f"{tmp_path}/cat+{tmp_path}/dog"))
    assert [(run.task, run.data_dir) for run in runs] == [
        (name, str(tmp_path.resolve())) for name in ("cat", "dog")
    ]
    with pytest.raises(UserError, match="several tasks must be in one folder"):
        folder.get_config(f"{tmp_path}/cat+{tmp_path.parent}")


def test_several_runs_have_one_name():
    for values, name in (
        (demo.get_config(), "digits-16shot-5-methods-s0"),
        (vtab.get_config("cifar100+dtd,method=lora+noah,seed=2"), "cifar100+dtd-lora+noah-s2"),
        (vtab.get_config("all,method=lora,seeds=3"), "19-tasks-lora-s0-2"),
        (fewshot.get_config("food101,shots=1+8"), "food101-1+8shot-noah-s0"),
    ):
        assert settings.Config.common_name(config_lib.expand(values)) == name


def test_few_shot_and_imagenet_have_the_papers_recipe():
    runs = config_lib.expand(fewshot.get_config("all,shots=1+16,seed=2"))
    assert [run.name for run in runs[:3]] == [
        "stanford_cars-1shot-noah-s2",
        "stanford_cars-16shot-noah-s2",
        "food101-1shot-noah-s2",
    ]
    (imagenet,) = config_lib.expand(domain.get_config())
    assert (imagenet.task, imagenet.shots) == ("imagenet", 16)
    for run in (*runs, imagenet):
        assert run.augmentation == "randaugment" and run.center_crop and not run.whole_val
        assert (run.supernet.epochs, run.supernet.learning_rate) == (300, 5e-4)
        assert (run.retrain.epochs, run.retrain.learning_rate) == (100, 5e-3)
        sizes = derived.search_space(run).sizes
        assert all(sizes[name] == (5, 10, 50, 100) for name in MODULES) and not sizes["parallel"]
    with pytest.raises(
        UserError, match=r"(?s)shots='two': expected numbers.*seeds=0: expected how"
    ):
        config_lib.expand(fewshot.get_config("food101,shots=two,seeds=0"))
    for text in ("shots=1", "food101+,shots=1"):
        with pytest.raises(UserError, match="task is empty"):
            config_lib.expand(fewshot.get_config(text))
    with pytest.raises(UserError, match="lists and whole_val are for few-shot runs: set shots"):
        config_lib.expand(vtab.get_config("svhn,whole_val=True"))
    with pytest.raises(UserError, match="search.folds=2: few-shot runs have too few images"):
        config_lib.expand(fewshot.get_config("food101,search.folds=2"))
    with pytest.raises(UserError, match="calibrate needs weights that have not seen val"):
        config_lib.expand(vtab.get_config("svhn,calibrate=True,search.folds=5,retrain.inherit=0.5"))
    with pytest.raises(UserError, match="retrain.inherit needs a supernet, but a run with"):
        config_lib.expand(vtab.get_config("svhn,genome=g.json,retrain.inherit=0.5"))


@pytest.mark.parametrize("task", ["/data/mine", "../mine", "mine/", ".", ".."])
def test_a_path_is_no_task(task):
    """It would become a part of the workdir's path, and lead out of the folder that was given."""
    with pytest.raises(UserError, match="expected the name of a folder"):
        config_lib.expand(vtab.get_config(f"cifar100+{task}"))


@pytest.mark.parametrize(
    "text",
    ["cifar100,whole_val=1", "cifar100,sed=1", "cifar100,seed=one", "cifar100,1", "a,space=1"],
)
def test_bad_config_strings(text):
    with pytest.raises(UserError, match="config string"):
        vtab.get_config(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("cifar100,seeds=1000000000", "it stands for 1000000000 runs: expected at most 10000"),
        ("+".join(map(str, range(200))) + ",seeds=200", "it stands for 40000 runs"),
        (f"food101,shots={'9' * 5000}", "expected numbers of images joined by +"),
        ("food101,shots=٣", "expected numbers of images joined by +"),
        (f"cifar100,genome={'x' * 300}", "no such file"),
        ("cifar100,weights=~nobody/w.npz", "weights=~nobody/w.npz: no such file"),
        ("food101,shots=1,lists=~nobody/x", "lists=~nobody/x: no such file"),
    ],
)
def test_odd_values_are_told_at_once(text, message):
    """Runs without number, numbers without end, paths that the system cannot even look for."""
    with pytest.raises(UserError) as error:
        config_lib.expand(fewshot.get_config(text))
    assert message in str(error.value)
    with pytest.raises(UserError, match="there is no folder .*/xxx"):
        folder.get_config("x" * 300)


def test_a_misspelt_backbone_suggests_the_nearest():
    with pytest.raises(UserError, match="did you mean vit_b16_in21k"):
        config_lib.expand(vtab.get_config("svhn,backbone=vit_b16_in21"))


def test_all_complaints_in_one_message():
    changes = {
        "method": "noah+magic",
        "stage": "retrian",
        "image_size": 225,
        "dtype": "float16",
        "attention": "flash",
        "genome": "no_such.json",
        "weight_shards": 0,
        "supernet.epochs": 5,
        "retrain.batch_size": 0,
        "space.lora": (1, -1),
        "search.mutations": 40,
        "search.operators": "magic",
        "supernet.genomes_per_step": 7,
    }
    with pytest.raises(UserError) as error:
        _expand(vtab.get_config("cifar100"), **changes)
    message = str(error.value)
    for expected in (
        "method='magic': expected one of noah",
        "stage='retrian'",
        "image_size 225 is not divisible by the patch size 16; use 224 or 240",
        "dtype='float16'",
        "attention='flash': expected auto or plain",
        "genome=no_such.json: no such file",
        "weight_shards=0: expected at least 1",
        "supernet.warmup_epochs=10: expected fewer than the 5",
        "retrain.batch_size=0: expected at least 1",
        "sizes of lora must not be negative",
        "search.mutations + search.crossovers exceed",
        "search.operators='magic'",
        "divisible by supernet.genomes_per_step",
    ):
        assert message.count(expected) == 1, expected


def test_unknown_and_missing_keys_of_a_config_file_of_ones_own():
    config = config_lib.defaults()
    del config.seed
    with config.unlocked():
        config.sede = 1
        del config.search.generations
        config.search.generations = "15"
        del config.space.vpt, config.baseline
        config.space.vpt = config.baseline = 5
    with pytest.raises(UserError) as error:
        config_lib.expand(config)
    for expected in (
        "unknown key sede",
        "seed is missing",
        "search.generations='15': expected int",
        "space.vpt=5: expected integers",
        "baseline=5: expected the keys baseline.…",
    ):
        assert expected in str(error.value)


def test_backbones_without_weights_or_normalisation(tmp_path):
    with pytest.raises(UserError, match=f"genome={tmp_path}: a folder, name the file in it"):
        _expand(vtab.get_config("cifar100"), genome=str(tmp_path))
    with pytest.raises(UserError, match="backbone='vit_l16' has no weights of its own"):
        _expand(vtab.get_config("cifar100"), backbone="vit_l16", **{"space.depths": (24,)})
    weights = tmp_path / "w.npz"
    weights.touch()
    changes = {"backbone": "vit_l16", "weights": str(weights), "space.depths": (6, 24)}
    with pytest.raises(UserError, match="weights need a normalisation: one of half, imagenet"):
        _expand(vtab.get_config("cifar100"), **changes)
    (config,) = _expand(vtab.get_config("cifar100"), normalisation="half", **changes)
    assert derived.search_space(config).blocks == 24


def test_what_a_method_does_not_read_makes_no_difference():
    """A tuned run may go on with another search, not with another budget."""
    saved = dataclasses.asdict(_expand(vtab.get_config("svhn,method=tuned"))[0])
    read = {"search.budget_millions": 0.3, "baseline.tuned": (1, 2), "retrain.epochs": 50}
    unread = {"search.population": 90, "space.lora": (1, 2), "baseline.lora": 4}
    changes = read | unread | {"supernet.epochs": 20}
    for method, more in (("tuned", set()), ("uniform", {"baseline.tuned"})):
        (changed,) = _expand(vtab.get_config(f"svhn,method={method}"), **changes)
        found = {line.split(":")[0] for line in differences.differences(saved, changed)}
        assert found - {"method"} == read.keys() - more
    (changed,) = _expand(vtab.get_config("svhn"), **changes)
    found = {line.split(":")[0] for line in differences.differences(saved, changed)}
    assert {"search.population", "space.lora", "supernet.epochs"} < found


def test_help_lists_every_setting_with_its_default(capsys):
    """Without --config; each line is a flag that sets what is set already."""
    with pytest.raises(SystemExit) as stopped:
        main._parse(["main", "--help"])
    assert not stopped.value.code
    text = capsys.readouterr().out
    for expected in (
        "--workdir",
        "how the genome is found (one of noah, random",
        "how many runs, with seed, seed + 1, … (at least 1)",
        "(more than 0 and finite)",
        "(0 to 4294967295)",
        "The training of the supernet.\n  --config.supernet.epochs=500\n      passes through the",
    ):
        assert expected in text, expected
    lines = re.findall(r"^  (--config\.\S+=.*)$", text, re.MULTILINE)
    assert not any(len(line) > 100 for line in text.splitlines())
    listed = re.findall(r"^  (\S+)  +\w", text, re.MULTILINE)
    assert listed[:7] == [*(f"configs/{name}.py" for name in CONFIGS), "noah"]
    assert listed[6:] == [*settings.METHODS]
    keys = [line.partition("=")[0].removeprefix("--config.") for line in lines]
    known = flatten_dict(config_lib.defaults().to_dict(), sep=".")
    assert sorted(keys) == sorted(known)
    values, argv = flags.FlagValues(), ["main", f"--config={vtab.__file__}"]
    argv += [line.replace('"', "") for line in lines]
    holder = config_flags.DEFINE_config_file("config", flag_values=values, sys_argv=argv)
    with warnings.catch_warnings(action="ignore"):  # of ml_collections, which loads configs
        values(argv)
    assert holder.value.to_dict() == config_lib.defaults().to_dict()


def test_bounds_are_told():
    """NaN and infinity are no numbers; each item of a tuple counts."""
    changes = {
        "seed": -1,
        "drop_path": 1.0,
        "dropout": math.nan,
        "checkpoint_seconds": -1.0,
        "normalisation": "imagnet",
        "trackers": "wandb+tensorbord",
        "space.lora": (5, 10_001),
        "baseline.vpt": 10**21,
        "baseline.tuned": (0, 8),
        "supernet.learning_rate": math.inf,
        "retrain.learning_rate": 0.0,
        "retrain.weight_decay": -0.1,
        "search.m_prob": 1.5,
        "search.budget_millions": math.inf,
        "search.least_millions": math.nan,
    }
    with pytest.raises(UserError) as error:
        _expand(vtab.get_config("cifar100,method=tuned"), **changes)
    assert str(error.value).splitlines()[1:] == [
        "  seed=-1: expected 0 to 4294967295",
        "  normalisation='imagnet': expected one of half, imagenet, clip (did you mean imagenet?)",
        "  drop_path=1.0: expected at least 0 and less than 1",
        "  dropout=nan: expected at least 0 and less than 1",
        "  checkpoint_seconds=-1.0: expected at least 0",
        "  trackers='wandb+tensorbord': no tensorbord: expected tensorboard or wandb, "
        "or several joined by + (did you mean tensorboard?)",
        "  space.lora=(5, 10001): expected at most 10000 for each",
        "  baseline.vpt=1000000000000000000000: expected at most 10000",
        "  baseline.tuned=(0, 8): expected 1 to 10000 for each",
        "  supernet.learning_rate=inf: expected more than 0 and finite",
        "  retrain.learning_rate=0.0: expected more than 0 and finite",
        "  retrain.weight_decay=-0.1: expected at least 0 and finite",
        "  search.m_prob=1.5: expected 0 to 1",
        "  search.budget_millions=inf: expected more than 0 and finite",
        "  search.least_millions=nan: expected at least 0 and finite",
    ]
    with pytest.raises(UserError, match=r"baseline.tuned=\(\): expected sizes of at least 1"):
        _expand(vtab.get_config("cifar100"), **{"baseline.tuned": ()})
    _expand(vtab.get_config("cifar100"), trackers="wandb+tensorboard", **{"retrain.inherit": 1.0})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("search.budget_millions=0.001", "0.0000 to 0.0010 M .* no genome: the smallest .*0.0184"),
        ("search.least_millions=0.7,search.budget_millions=0.8", "no genome: the largest .*0.6545"),
        ("method=tuned_vpt,search.budget_millions=0.009", "admits none of vpt-1, .*baseline.tuned"),
        ("search.least_millions=1", "least_millions=1.0: expected at most search.budget_millions"),
    ],
)
def test_a_budget_without_genomes_is_told_with_all_else(text, message):
    """The advice is to change it, and a changed one is taken."""
    with pytest.raises(UserError, match=f"(?s){message}.*") as error:
        config_lib.expand(vtab.get_config(f"cifar100,drop_path=2,{text}"))
    assert "drop_path=2.0" in str(error.value) and len(str(error.value).splitlines()) == 3
    changed = "search.budget_millions=0.64,search.least_millions=0.1"
    assert config_lib.expand(vtab.get_config(f"cifar100,{text},{changed}"))


def test_a_budget_admits_numbers_and_arrays():
    budget = Budget(73_500, 78_500)
    assert budget.admits(73_500) and budget.admits(78_500) and not budget.admits(78_501)
    assert budget.admits(np.array([73_499, 75_000])).tolist() == [False, True]
    assert f"{budget}" == "0.0735 to 0.0785 M parameters"


def test_every_key_is_read():
    """Each field of the checked settings is used somewhere in the package."""
    rooms = pathlib.Path(settings.__file__).parents[1]
    files = {path.name: path.read_text() for path in rooms.rglob("*.py")}
    del files["validation.py"], files["differences.py"]
    code = "".join(files.values())
    for kind in (settings.Config, settings.Search, settings.SupernetSchedule):
        for field in dataclasses.fields(kind):
            use = rf"\b(config|settings|schedule|self|supernet|config\.search)\.{field.name}\b"
            assert re.search(use, code), field.name
