"""Every command of the READMEs, pages and configs' docstrings, run as it stands but tiny.

`bash launch/test.sh` is what runs this, `bash launch/local.sh` is in `test_launch.py`, the prepare
commands are in `test_tfds.py`, the Python of README and pages in `test_api.py`.
"""

import json
import os
import re
import shlex
import shutil
import subprocess
import tomllib

import numpy as np
import PIL.Image
import pytest
import yaml
from flax.traverse_util import flatten_dict
from scipy import stats

import noah_jax
from bench.study_tables import current, scores
from tests.helpers.commands import ROOT, TINY_FLAGS, run_module
from tests.helpers.documents import PAGES, documented, programs
from tests.helpers.images import write_photo

ELSEWHERE = r"source |(\S+=\S+ )?bash launch/(local|test)\.sh|python -m noah_jax\.data prepare "
# One task, number of shots and seed instead of 19, five and three.
FEWER = [
    (r"vtab\.py:all", "vtab.py:cifar100"),
    (r"fewshot\.py:all", "fewshot.py:stanford_cars"),
    (r"shots=[\d+]+", "shots=1"),
    (r"seeds=3", "seeds=1"),
    (r"\+digits", ""),
]


COMMANDS = [c for c in documented() if not re.match(ELSEWHERE, c)]
RUNS = [c for c in COMMANDS if re.match(r"python -m (noah_jax\.main --config|bench\.study)", c)]
ON_A_RUN = [c for c in COMMANDS if re.match(r"python -m noah_jax\.(interop|main --status)", c)]
FIRST = {re.search(r"configs/\w+", c)[0]: c for c in reversed(RUNS)}  # of each config
BY_HAND = [c for c in COMMANDS if re.match(r"(docker|sky|wandb|xpk) ", c)]  # need a cloud
LAUNCHED = [c for c in COMMANDS if re.match(r"bash launch/(tpu_vm|slurm)\.sh --", c)]
INSTALLED = [c for c in COMMANDS if c.startswith("pip install ")]


@pytest.fixture(scope="module")
def place(tmp_path_factory, ti16, imagenet):
    """A folder to run the commands in: the configs, and tiny images under the documented names."""
    place, rng = tmp_path_factory.mktemp("place"), np.random.default_rng(0)
    (place / "configs").symlink_to(ROOT / "configs")
    (place / "ti16.safetensors").symlink_to(ti16)
    own, rows = place / "path/to/your/images", []
    for label, name in enumerate(("red", "green", "blue")):
        (own / name).mkdir(parents=True)
        for i in range(20):
            write_photo(own / name / f"{i}.jpg", label, rng)
            rows.append((f"images/{name}/{i}.jpg", label))
    parts = {"train": rows[::2], "val": rows[1::4], "test": rows[3::4]}
    lists = {"train800": parts["train"], "val200": parts["val"], "test": parts["test"]}
    lists["train800val200"] = parts["train"] + parts["val"]
    for task in ("cifar100", "caltech101", "cifar10", "stanford_cars"):
        shutil.copytree(own, place / "data" / task / "images")
        for name, files in lists.items() if task != "stanford_cars" else ():
            lines = "".join(f"{file} {label}\n" for file, label in files)
            (place / "data" / task / f"{name}.txt").write_text(lines)
    cars = {part: [[*row, "a car"] for row in rows] for part, rows in parts.items()}
    (place / "lists").mkdir()
    (place / "lists/stanford_cars.json").write_text(json.dumps(cars))
    for folder in imagenet.iterdir():
        (place / "data" / folder.name).symlink_to(folder)
    return place


def _run(words, place):
    """The command in that folder: a module's in this process, a script's in one of its own."""
    if words[:2] == ["python", "-m"]:
        done = run_module(*words[2:], folder=place)
        return done.stdout + done.stderr
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(words, cwd=place, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
    return done.stdout + done.stderr


def _tiny(command):
    """The command with the documented names made real, fewer runs, and the settings of `TINY`."""
    for pattern, fewer in FEWER:
        command = re.sub(pattern, fewer, command)
    for name, real in (("DIR", "data"), ("<dir>", "data"), ("<lists>", "lists")):
        command = command.replace(name, real)
    changed = {"weights": "ti16.safetensors", "search.generations": 1, "search.least_millions": 0.0}
    if "folder.py" not in command and "study.py" not in command:
        changed |= {"data_dir": "data"}
    if "fewshot.py" in command:
        changed |= {"lists": "lists"}
    if "domain.py" in command:
        changed |= {"shots": 1, "method": "linear"}
    if "bench.study" in command:
        changed |= {"method": "lora", "seeds": 1}
    for stage in ("supernet", "retrain"):
        batch_size = 250 if "domain.py" in command else 2 if "shots" in command else 8
        few = {"epochs": 1, "warmup_epochs": 0, "batch_size": batch_size}
        changed |= {f"{stage}.{key}": value for key, value in few.items()}
    flags = [f"--config.{key}={value}" for key, value in changed.items()]
    return [*shlex.split(command), *TINY_FLAGS, *flags]


def test_every_command_is_run_somewhere():
    """So is every program: those of these three pages are."""
    with_programs = {str(page.relative_to(ROOT)) for page in PAGES if programs(page)}
    assert with_programs == {"README.md", "noah_jax/README.md", "docs/subnet.md"}
    assert len(RUNS) >= 10
    assert sorted(COMMANDS) == sorted([*RUNS, *ON_A_RUN, *LAUNCHED, *INSTALLED, *BY_HAND])


@pytest.mark.parametrize(
    "command",
    [pytest.param(c, marks=[] if c in FIRST.values() else pytest.mark.long) for c in RUNS],
)
def test_training(command, place):
    before = set(place.glob("runs/**/result.json"))
    assert "test accuracy (%)" in _run(_tiny(command), place)
    assert set(place.glob("runs/**/result.json")) - before


def test_what_comes_after_a_run(place, monkeypatch, capsys):
    config = "--config=configs/folder.py:path/to/your/images,method=lora"
    workdir = "--workdir=runs/demo-digits-16shot-noah-s0"
    _run([*_tiny(f"python -m noah_jax.main {config}"), workdir], place)
    printed = [
        _run(shlex.split(command.replace("IMAGE_OR_FOLDER", "path/to/your/images/red")), place)
        for command in sorted(ON_A_RUN)  # export before predict
    ]
    assert (place / "runs/demo-digits-16shot-noah-s0/export/model.stablehlo").is_file()
    assert len(re.findall(r"red/\d+\.jpg +(?:red|green|blue) [\d.]+ %", printed[1])) == 20
    assert re.search("demo-digits-16shot-noah-s0 +finished: test accuracy", printed[2])
    monkeypatch.chdir(place)
    *_, program = programs("docs/subnet.md")
    exec(program, {})
    assert len(re.findall(r"-?\d+\.\d+", capsys.readouterr().out)) == 3  # logits of the classes
    for name in ("a.png", "b.jpg"):
        PIL.Image.new("RGB", (9, 9), "red").save(name)
    names = {}
    *_, serving = programs("noah_jax/README.md")
    exec(serving, names)
    assert names["answers"].probabilities.shape == (2, 3)


def test_benchmarks_have_the_flags_of_their_commands():
    """They are run in tiny form by `test_bench.py`, `test_study.py` and `test_end_to_end.py`."""
    text = (ROOT / "bench/README.md").read_text().replace("\\\n", " ")
    commands = re.findall(r"python -m (bench\.\w+)([^`|]*?)(?:[`|]|\n\S)", text)
    assert len(commands) > 12
    for module, words in commands:
        source = (ROOT / f"{module.replace('.', '/')}.py").read_text()
        for flag in re.findall(r" --(?!config)(\w+)", words.split(" -- ")[0]):
            assert f'"{flag}"' in source or f'"--{flag}"' in source, (module, flag)


def test_installing():
    """Of these commands only the names of extras could be wrong."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    extras = project["tool"]["setuptools"]["dynamic"]["optional-dependencies"]
    for command in INSTALLED:
        (named,) = re.fullmatch(r"pip install '?\.(?:\[([\w,]+)\])?'?", command).groups()
        assert named is None or set(named.split(",")) <= extras.keys(), command


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_settings_that_are_named_exist(page):
    known = flatten_dict(noah_jax.defaults().to_dict(), sep=".")
    pattern = r"--config\.([\w.]+)|`((?:search|space|supernet|retrain|baseline)\.\w+)"
    named = re.findall(pattern, page.read_text())
    assert {flag or key for flag, key in named} <= known.keys()


def test_the_readmes_table():
    """Means of five seeds, and half of the 95 % interval by Student's t."""
    rows = {}
    for file in ("study_h200", "study_lora40_h200"):
        study = json.loads((ROOT / f"bench/results/{file}.json").read_text())
        for method, own in scores(current(study)).items():
            tasks, seeds = (list(dict.fromkeys(each)) for each in zip(*own, strict=True))
            by_task = np.array([[own[task, seed] for seed in seeds] for task in tasks])
            every = [*by_task, by_task.mean(axis=0)]
            rows[method, file] = " | ".join(
                f"{x.mean():.2f} ± {stats.t.ppf(0.975, len(x) - 1) * stats.sem(x):.2f}"
                for x in every
            )
            assert len(seeds) == 5
    text = (ROOT / "README.md").read_text()
    shown = re.findall(r"^\| [^|]+ \| (\d.* ± .*) \|$", text, re.MULTILINE)
    assert sorted(shown) == sorted(rows.values()) and len(shown) == 7


def test_commands_of_others_name_what_is_there():
    task = yaml.safe_load((ROOT / "launch/skypilot.yaml").read_text())
    assert len({c.split()[0] for c in BY_HAND}) == 4
    for command in BY_HAND:
        for name in re.findall(r"(?:launch|configs)/\w[\w.]*", command):
            assert (ROOT / name).is_file(), command
        assert {*re.findall(r"--env (\w+)=", command)} <= task["envs"].keys()
        for extra in re.findall(r'WITH="([^"]*)"', command):
            assert all((ROOT / f"launch/requirements-{n}.txt").is_file() for n in extra.split())


@pytest.mark.parametrize("command", LAUNCHED)
def test_launching(command):
    script, config = command.split()[1], re.search(r"--config=(\S+)", command)[1]
    printed = _run(shlex.split(command.replace(script, f"{script} --dry-run")), ROOT)
    assert config in printed
