"""The launch scripts, with stand-ins for gcloud, sbatch and the program on the PATH."""

import fnmatch
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import time
import tomllib

import pytest
import yaml

from tests.helpers.commands import run_module

ROOT = pathlib.Path(__file__).parents[2]

# Stands for python3, for the .venv's python and for uv, which that python's pip brings: makes the
# .venv, and of noah_jax runs something that takes 1.5 s, goes on where its workdir is, and can be
# told to stop.
_PYTHON = r"""#!/usr/bin/env bash
[ "$1" != -c ] || exec @PYTHON@ "$@"
[ "$1" != venv ] || echo "$@" >uv
case "$1 $2" in
  "-m pip") [ "${*: -1}" != uv ] || { mkdir -p ~/.local/bin; cp "$0" ~/.local/bin/uv; } ;;
  "venv "* | "-m venv")
    mkdir -p .venv/bin
    cp "$0" .venv/bin/python
    echo "PATH=$PWD/.venv/bin:\$PATH" >.venv/bin/activate ;;
esac
case "$2" in
  noah_jax.data) echo "${@:3}" >>prepared ;;
  noah_jax.main)
    printf '%s\n' "${@:3}" >arguments
    mkdir -p runs/bucket
    trap 'echo told to stop; exit 143' TERM
    while [ "$(cat runs/bucket/steps 2>/dev/null | wc -l)" -lt 15 ]; do
      pwd >>runs/bucket/steps
      sleep 0.1
    done
    echo "the end"
    exit "${FAKE_CODE:-0}" ;;
esac
"""


@pytest.fixture
def clone(tmp_path, monkeypatch):
    """A clone with the launch scripts, and a PATH on which all they call is a stand-in."""
    folder, programs = tmp_path / "clone", tmp_path / "bin"
    shutil.copytree(ROOT / "launch", folder / "launch")
    shutil.copy(ROOT / "requirements.txt", folder)
    subprocess.run(["git", "init", "-q"], cwd=folder, check=True)
    subprocess.run(["git", "add", "-A"], cwd=folder, check=True)
    programs.mkdir()
    _program(programs / "python3", _PYTHON.replace("@PYTHON@", sys.executable))
    fake = f'#!/usr/bin/env bash\nexec {sys.executable} {ROOT}/tests/helpers/fake_gcloud.py "$@"\n'
    _program(programs / "gcloud", fake)
    (tmp_path / "cloud").mkdir()
    for name, value in (
        ("PATH", f"{programs}:{os.environ['PATH']}"),
        ("FAKE_CLOUD", str(tmp_path / "cloud")),
        ("FAKE_WORKERS", "2"),
        ("NOAH_JAX_POLL_SECONDS", "0.1"),
        ("NOAH_JAX_SAVE_SECONDS", "0.2"),
    ):
        monkeypatch.setenv(name, value)
    return folder


def _program(path, text):
    path.write_text(text)
    path.chmod(0o755)


def _tpu(clone, *arguments, code=0):
    command = ["bash", "launch/tpu_vm.sh", *arguments]
    done = subprocess.run(command, cwd=clone, capture_output=True, text=True, timeout=60)
    assert done.returncode == code, done.stdout + done.stderr
    return done


def test_a_tpu_that_is_taken_away_is_replaced(clone, tmp_path):
    cloud, flags = tmp_path / "cloud", ["--config=configs/vtab.py:a b", "--config.space.lora=(0,2)"]
    command = ["bash", "launch/tpu_vm.sh", "--bucket=gs://b/run", "--type=v4-16", "--prepare=x y"]
    with subprocess.Popen(
        [*command, "all", *flags], cwd=clone, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as running:
        steps = cloud / "buckets/b/run/steps"
        while not steps.is_file() or len(steps.read_text().split()) < 3:
            assert running.poll() is None, running.stdout.read()
            time.sleep(0.05)
        for worker in (0, 1):
            os.killpg(int((cloud / f"workers/{worker}/noah_jax/pid").read_text()), signal.SIGKILL)
        (cloud / "state").write_text("SUSPENDING\nSUSPENDED\n")
        first = (cloud / "workers").rename(tmp_path / "gone")
        said = running.communicate(timeout=60)[0].decode()
        assert running.returncode == 0, said
    for worker in (0, 1):
        home = first / str(worker) / "noah_jax"
        assert (home / "arguments").read_text().split("\n")[:-1] == [
            "--workdir=runs/bucket",
            *flags,
        ]
        assert (home / "prepared").read_text() == "prepare x y\n"
        assert "--python 3.12 .venv" in (home / "uv").read_text()
    calls = (cloud / "log").read_text()
    assert calls.count("queued-resources create") == 2 and "--spot" in calls
    assert "--runtime-version=tpu-ubuntu2204-base" in calls
    assert "was taken away: another one goes on" in said and "the end" in said
    assert not (cloud / "state").exists()  # given back
    found = (clone / "runs/run/steps").read_text().split()
    assert 15 == len(found) and found == steps.read_text().split()  # what the first did is kept


def test_steps_of_a_tpu(clone, tmp_path, monkeypatch):
    cloud = tmp_path / "cloud"
    _tpu(clone, "--on-demand", "create")
    assert "--spot" not in (cloud / "log").read_text()
    _tpu(clone, "create")  # it is there
    assert (cloud / "log").read_text().count("queued-resources create") == 1
    _tpu(clone, "setup")
    _tpu(clone, "--bucket=gs://b/run", "run", "--config=x")
    again = _tpu(clone, "--bucket=gs://b/run", "run", "--config=x")
    assert again.stdout.count("going on here already") == 2
    assert "the end" in _tpu(clone, "follow").stdout
    _tpu(clone, "--bucket=gs://b/run", "fetch")
    assert len((clone / "runs/run/steps").read_text().split()) == 15
    _tpu(clone, "delete")
    assert not (cloud / "workers").exists()

    _tpu(clone, "create")
    _tpu(clone, "setup")
    _tpu(clone, "--bucket=gs://b/run", "run", "--config=x")
    assert "the end" in _tpu(clone, "follow").stdout
    kept = sorted((cloud / "buckets").rglob("*"))
    other = _tpu(clone, "--bucket=gs://b/else", "run", "--config=x", code=1)
    assert "here is the workdir of gs://b/run" in other.stderr
    assert sorted((cloud / "buckets").rglob("*")) == kept
    _tpu(clone, "delete")

    monkeypatch.setenv("FAKE_CODE", "2")  # the machine stays, so that one can look
    failed = _tpu(clone, "--bucket=gs://b/other", "all", "--config=x", code=2)
    assert "ended with code 2; noah-jax stays" in failed.stderr and (cloud / "workers").exists()


def test_a_tpu_costs_nothing_to_ask_about(clone, tmp_path):
    planned = _tpu(clone, "--dry-run", "--bucket=gs://b/run", "all", "--config=x").stderr
    verbs = "create", "scp", "setup", "restore", "start", "follow", "rsync", "delete"
    places = [planned.index(verb) for verb in verbs]
    assert places == sorted(places) and not any((tmp_path / "cloud").iterdir())
    for arguments, message in (
        (["all", "--config=x"], "--bucket=gs://BUCKET/FOLDER is missing"),
        (["--bucket=gs://b/run", "all"], "flags are missing"),
        (["--bucket=gs://b/run", "run", "--config=x", "--workdir=y"], "leave it out"),
        (["--spots", "create"], "no option --spots, did you mean --spot?"),
        (["--subnet=a", "create"], "did you mean --subnetwork?"),
        (["--accelerator-type=a", "create"], "did you mean --type?"),
        (["--dry-run=yes", "create"], "--dry-run takes no value"),
        (["--zone", "--dry-run", "create"], "--zone has no value"),
        (["start"], "no step start"),
        (["--type=v99-8", "create"], "--runtime=… is needed"),
    ):
        assert message in _tpu(clone, *arguments, code=2).stderr
    assert "--on-demand" in _tpu(clone, code=2).stdout


def test_options_that_go_on_to_gcloud(clone):
    flags = "--network vpc --labels=a=b --reserved --internal-ips --zone z --account me"
    calls = _tpu(clone, "--dry-run", *flags.split(), "--bucket", "gs://b/run", "all", "--config=x")
    (create,) = re.findall(r".* queued-resources create .*", calls.stderr)
    for option in "--network=vpc", "--labels=a=b", "--reserved", "--internal-ips", "--zone=z":
        assert f" {option} " in f"{create} "
    assert "--spot" not in create
    reached = re.findall(r".* tpu-vm .*", calls.stderr)
    assert len(reached) > 4 and all(" --internal-ip " in call for call in reached)
    assert all("--account=me" in call for call in calls.stderr.splitlines() if "gcloud" in call)

    flags = ["--internal-ips", "--tunnel-through-iap", "--ssh-key-file=key"]
    (follow,) = _tpu(clone, "--dry-run", *flags, "follow").stderr.splitlines()
    assert "gcloud alpha compute tpus tpu-vm ssh" in follow and "--internal-ip " not in follow
    assert "--tunnel-through-iap --ssh-key-file=key" in follow


ENDS = ["", "/", "//", "/.", "/a/..", "/a//", "/a/../..", "//a", "/ ", "/a ", "/*", "/a?", "/[a]"]


def test_nothing_but_a_folder_of_a_bucket_is_written_to(clone, tmp_path):
    """Where the copy of the workdir deletes what else is there."""
    kept = tmp_path / "cloud/buckets/b/a/precious"
    kept.parent.mkdir(parents=True)
    kept.touch()
    on_vm = ["bash", "launch/on_tpu_vm.sh"]
    for number, url in enumerate(f"gs://b{end}" for end in ENDS):
        step = ("create", "setup", "follow", "fetch", "delete", "all")[number % 6]
        assert "expected gs://" in _tpu(clone, "--bucket", url, step, "--config=x", code=2).stderr
        (clone / "runs/bucket").mkdir(parents=True, exist_ok=True)
        (clone / "bucket").write_text(url)
        for command in (["save"], ["restore", url]):
            done = subprocess.run([*on_vm, *command], cwd=clone, capture_output=True, text=True)
            assert done.returncode == 1 and "is not gs://BUCKET/FOLDER" in done.stderr
    assert not (tmp_path / "cloud/log").exists() and kept.exists()


_SBATCH = r"""#!/usr/bin/env bash
echo "$@" >sbatch
cat >script
n=0
for option in "$@"; do case $option in --array=0-*) n=${option#--array=0-} ;; esac; done
for i in $(seq 0 "$n"); do
  SLURM_JOB_ID=7$i SLURM_ARRAY_TASK_ID=$i bash script || echo "job $i ended with $?" >>ends
done
"""


@pytest.mark.parametrize(
    ("flags", "runs"),
    [
        ((), ["--config=configs/demo.py"]),
        (("--workdir=w",), ["--config=configs/demo.py", "--workdir=w"]),
        (("--config=c.py:a b", "--fresh"), ["--config=c.py:a b", "--fresh"]),
    ],
)
def test_this_machine(clone, flags, runs):
    """`local.sh` makes .venv and runs the demo, or what the flags say."""
    command = ["bash", "launch/local.sh", *flags]
    subprocess.run(command, cwd=clone, check=True, timeout=60, capture_output=True)
    assert (clone / ".venv/bin/activate").is_file()
    assert (clone / "arguments").read_text().splitlines() == runs


@pytest.mark.parametrize("flag", ["--help", "-h"])
def test_help_on_this_machine_installs_nothing(clone, tmp_path, flag):
    def help_():
        command = ["bash", "launch/local.sh", "--fresh", flag]
        done = subprocess.run(command, cwd=clone, capture_output=True, text=True, timeout=60)
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout

    before = sorted(clone.iterdir())
    assert "$NOAH_JAX_REQUIREMENTS" in help_() and "#" not in help_()
    assert sorted(clone.iterdir()) == before
    (clone / ".venv/bin").mkdir(parents=True)
    _program(clone / ".venv/bin/python", _PYTHON)
    (clone / ".venv/installed-1").touch()
    help_()
    assert (clone / "arguments").read_text() == "--help\n"


def test_a_run_of_a_sweep(clone, tmp_path, monkeypatch):
    """As W&B's agent starts it, with the first value of each setting; the program takes them."""
    sweep = yaml.safe_load((clone / "launch/wandb_sweep.yaml").read_text())
    values = [f"--{name}={of['values'][0]}" for name, of in sweep["parameters"].items()]
    command = [w for word in sweep["command"] for w in (values if word == "${args}" else [word])]
    shutil.copy(tmp_path / "bin/python3", tmp_path / "bin/python")
    monkeypatch.setenv("WANDB_RUN_ID", "abc")
    subprocess.run(command, cwd=clone, check=True, timeout=60, capture_output=True)
    flags = (clone / "arguments").read_text().splitlines()
    assert "--workdir=runs/sweep/abc" in flags and flags[-len(values) :] == values
    assert (ROOT / sweep["program"]).is_file()
    wrong = run_module("noah_jax.main", *flags, "--config.method=none", code=2).stderr
    assert re.fullmatch(r"error: [^\n]+\n  method='none': [^\n]+\n", wrong)


@pytest.mark.parametrize("accelerator", ["tpu", "cuda"])
def test_skypilot(clone, tmp_path, monkeypatch, accelerator):
    task = yaml.safe_load((clone / "launch/skypilot.yaml").read_text())
    given = {"BUCKET": "b", "PREPARE": "x y", "FLAGS": "--fresh", "HOME": str(tmp_path)}
    for name, value in (task["envs"] | given).items():
        monkeypatch.setenv(name, value)
        assert name == "HOME" or f"${name}" in str(task).replace("{", "")
    if accelerator == "cuda":
        _program(tmp_path / "bin/nvidia-smi", "#!/bin/sh\n")
    setup, run = (
        subprocess.run(
            ["bash", "-c", task[part] + "echo this waits for the upload"],
            cwd=clone,
            check=True,
            capture_output=True,
            text=True,
        )
        for part in ("setup", "run")
    )
    assert run.stdout.endswith("the end\nthis waits for the upload\n")
    assert f"launch/requirements-{accelerator}.txt into .venv" in setup.stdout
    assert (clone / "prepared").read_text() == "prepare x y\n"
    (mount,) = task["file_mounts"]
    workdir = f"--workdir={tmp_path}/{pathlib.Path(mount).name}/run"
    flags = ["--config=configs/demo.py", workdir, "--fresh"]
    assert (clone / "arguments").read_text().splitlines() == flags


def test_the_image_gets_all_that_the_package_is_made_of():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    extras = project["tool"]["setuptools"]["dynamic"]["optional-dependencies"].values()
    needed = {"pyproject.toml", project["project"]["readme"], *project["project"]["license-files"]}
    needed |= {"requirements.txt", *(file for extra in extras for file in extra["file"])}
    needed |= {str(path.relative_to(ROOT)) for path in (ROOT / "noah_jax").rglob("*.html")}
    needed |= {str(path.relative_to(ROOT)) for path in (ROOT / "configs").glob("*.py")}
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    kept = [line[1:] for line in lines if line.startswith("!")]
    assert "*" in lines
    missing = {
        path
        for path in needed
        if not any(fnmatch.fnmatch(path, k) or path.startswith(f"{k}/") for k in kept)
    }
    assert missing == set()
    dockerfile = (ROOT / "launch/Dockerfile").read_text()
    (entry,) = re.findall(r'^ENTRYPOINT \["(.*)"\]$', dockerfile, re.MULTILINE)
    assert entry in project["project"]["scripts"]
    for names in re.findall(r'WITH="?([\w ]+)', dockerfile):
        for name in names.split():
            assert (ROOT / f"launch/requirements-{name}.txt").is_file()


def test_slurm_jobs(clone, tmp_path, monkeypatch):
    programs = tmp_path / "bin"
    _program(programs / "sbatch", _SBATCH)
    _program(programs / "srun", '#!/bin/bash\nprintf "%s|" "$@" >>ran\necho >>ran\n')
    _program(programs / "scontrol", '#!/bin/bash\necho "$@" >>requeued\n')

    def slurm(*arguments, code=0):
        command = ["bash", "launch/slurm.sh", *arguments]
        done = subprocess.run(command, cwd=clone, capture_output=True, text=True, timeout=60)
        assert done.returncode == code, done.stdout + done.stderr
        return done

    flags = ["--config.method=lora", "--config.space.lora=(0, 2)"]
    slurm("--tasks=a+b", "--seeds=2", "--time=1:00:00", "--config=configs/vtab.py", *flags)
    ran = [line.split("|") for line in (clone / "ran").read_text().splitlines()]
    names = [f"--config=configs/vtab.py:{task},seed={seed}" for task in "ab" for seed in (0, 1)]
    assert ran == [["python", "-m", "noah_jax.main", name, *flags, ""] for name in names]
    options = (clone / "sbatch").read_text()
    assert "--time=1:00:00 --array=0-3" in options and "--gpus-per-node=1" in options
    assert not (clone / "requeued").exists() and not (clone / "ends").exists()

    words = "--cpus-per-task 8 --mem 64G -p gpu --tasks a --seeds 1 --config configs/vtab.py"
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "8")
    _program(programs / "srun", '#!/bin/bash\necho "$SRUN_CPUS_PER_TASK ${@: -2}" >ran_on\n')
    slurm(*words.split(), "--fresh")
    assert " --cpus-per-task 8 --mem 64G -p gpu --array=0-0\n" in (clone / "sbatch").read_text()
    assert (clone / "ran_on").read_text() == "8 --config=configs/vtab.py:a,seed=0 --fresh\n"

    _program(programs / "srun", "#!/bin/bash\nexit 143\n")
    slurm("--nodes=2", "--config=configs/vtab.py:all")
    assert (clone / "requeued").read_text() == "requeue 70\n"
    assert "--nodes=1" in (clone / "sbatch").read_text().split(" --nodes=2")[0]

    before = sorted(clone.iterdir())
    printed = slurm("--dry-run", "--tasks=a", "--config=c.py").stdout
    assert printed.startswith("sbatch ") and "srun python -m noah_jax.main" in printed
    assert sorted(clone.iterdir()) == before
    for arguments, message in (
        (["--tasks=a"], "--config is missing"),
        (["--tasks=a", "--config=c.py:b"], "a file alone"),
        (["--seeds=2", "--config=c.py"], "--tasks is missing"),
        (["--tasks=a", "--seeds=none", "--config=c.py"], "expected how many"),
        (["gpu", "--config=c.py"], "gpu belongs to no option"),
        (["--mem=64G", "gpu", "--config=c.py"], "gpu belongs to no option"),
        (["--tasks", "--config=c.py"], "--tasks has no value"),
    ):
        assert message in slurm(*arguments, code=2).stderr
