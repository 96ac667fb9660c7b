"""The package as others install and import it, as far as this shows without building it."""

import ast
import importlib
import importlib.metadata
import pathlib
import re
import runpy
import signal
import subprocess
import sys
import tomllib

import pytest
from packaging.requirements import Requirement

import noah_jax
from noah_jax.config import installed

ROOT = pathlib.Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
SETUPTOOLS = PROJECT["tool"]["setuptools"]
DOCUMENTS = [*ROOT.glob("*.md"), *ROOT.glob("[!.]*/*.md")]


def test_a_type_checker_sees_what_a_program_imports():
    (block,) = [
        node
        for node in ast.parse(pathlib.Path(noah_jax.__file__).read_text()).body
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
    ]
    seen = {}
    for node in block.body:
        for name in node.names:
            seen[name.asname or name.name] = importlib.import_module(node.module), name.name
    assert seen.keys() == set(noah_jax.__all__) and len(seen) == 11
    for name, (module, attribute) in seen.items():
        assert getattr(noah_jax, name) is getattr(module, attribute)
    assert {*seen, "__version__"} <= set(dir(noah_jax))
    with pytest.raises(AttributeError, match="noah_jax.*nothing"):
        noah_jax.nothing  # noqa: B018
    assert (ROOT / "noah_jax/py.typed").exists()


def test_all_of_it_is_installed():
    folders = {path.parent for path in (ROOT / "noah_jax").rglob("*.py")}
    packages = {".".join(folder.relative_to(ROOT).parts) for folder in folders}
    assert {*SETUPTOOLS["packages"]} == packages | SETUPTOOLS["package-dir"].keys()
    data = {
        path
        for package, patterns in SETUPTOOLS["package-data"].items()
        for pattern in patterns
        for path in (ROOT / package.replace(".", "/")).glob(pattern)
    }
    others = (path for path in (ROOT / "noah_jax").rglob("*") if path.is_file())
    assert data == {path for path in others if path.suffix not in (".py", ".pyc", ".md")}
    for pattern in PROJECT["project"]["license-files"]:
        assert (ROOT / pattern).is_file()


def test_the_version_stands_once():
    assert SETUPTOOLS["dynamic"]["version"] == {"attr": "noah_jax.__version__"}
    assert re.fullmatch(r"\d+\.\d+\.\d+", noah_jax.__version__)
    assert f"## [{noah_jax.__version__}]" in (ROOT / "CHANGELOG.md").read_text()


def _required(files):
    lines = [line for file in files for line in (ROOT / file).read_text().splitlines()]
    return [Requirement(line.split(" #")[0]) for line in lines if line and line[0] != "#"]


def test_requirements_are_read_by_setuptools():
    """setuptools knows neither `-r` nor other options."""
    dynamic = SETUPTOOLS["dynamic"]
    core = {each.name for each in _required(dynamic["dependencies"]["file"])}
    extras = {
        extra: {each.name for each in _required(files["file"])}
        for extra, files in dynamic["optional-dependencies"].items()
    }
    assert extras.keys() == {"tpu", "cuda", "images", "prepare", "serve", "docs", "test"}
    assert "jax" in core and "tensorflow-cpu" not in core | extras["tpu"] | extras["cuda"]
    assert "tensorflow-cpu" in extras["prepare"]
    assert extras["prepare"] | extras["images"] | extras["serve"] | extras["docs"] < extras["test"]
    for name in core:
        importlib.metadata.version(name)


def test_the_script_is_the_program(monkeypatch):
    module, function = PROJECT["project"]["scripts"]["noah-jax"].split(":")
    ran = []
    monkeypatch.setattr(runpy, "run_module", lambda name, **how: ran.append((name, how)))
    getattr(importlib.import_module(module), function)()
    assert ran == [("noah_jax.main", {"run_name": "__main__", "alter_sys": True})]


INTERRUPTED = """
import os, runpy, signal, sys

program, interrupted_by = sys.argv.pop(1), sys.argv.pop(1)

class Interrupt:
    def find_spec(name, path, target=None):
        if name == interrupted_by:
            os.kill(os.getpid(), signal.SIGINT)

sys.meta_path.insert(0, Interrupt)
runpy.run_module(program, run_name="__main__", alter_sys=True)
"""


@pytest.mark.parametrize("program", ["noah_jax", "noah_jax.main"])
@pytest.mark.parametrize(
    ("module", "code", "said"),
    [
        ("absl", -signal.SIGINT, ""),
        ("jax", 130, "stopped by SIGINT; the same command goes on\n"),
    ],
)
def test_ctrl_c_while_it_is_loaded(program, module, code, said):
    config = "--config=configs/demo.py:linear"
    command = [sys.executable, "-c", INTERRUPTED, program, module, config]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (code, "", said)


WITHOUT_JAX = """
import runpy, sys

sys.modules["jax"] = None  # to import it is an error
runpy.run_module(sys.argv.pop(1), run_name="__main__", alter_sys=True)
"""


@pytest.mark.parametrize(
    "words",
    [
        ["noah_jax.main", "--help"],
        ["noah_jax.main", "--status=."],
        *([f"noah_jax.{room}", "--help"] for room in ("data", "interop", "pretrained", "search")),
    ],
)
def test_some_answers_need_no_jax(words, tmp_path):
    """JAX alone takes longer to load than a user likes to wait for help."""
    (tmp_path / "config.json").write_text("{}")
    command = [sys.executable, "-c", WITHOUT_JAX, *words]
    environment = {"PYTHONPATH": str(ROOT), "PATH": ""}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.strip()


@pytest.mark.parametrize("program", ["noah_jax", "noah_jax.main"])
def test_configs_are_found_from_another_folder(program, tmp_path):
    command = [sys.executable, "-m", program, "--config=configs/demo.py:lora+none"]
    environment = {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu", "PATH": ""}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 2 and "method='none': expected one of" in done.stderr


def test_which_arguments_name_a_config(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for before in ("--config=", "-config=", ""):
        for after in ("", ":cifar100,data_dir=a:b"):
            whole = f"{before}{ROOT}/configs/vtab.py{after}"
            assert installed.find([f"{before}configs/vtab.py{after}"]) == [whole]
    others = [
        "--workdir=configs/vtab.py",
        "--config=vtab.py",
        "--config=configs/none.py",
        "--config",
    ]
    assert installed.find(others) == others
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs/vtab.py").write_text("")  # one's own comes first
    assert installed.find(["--config=configs/vtab.py:dtd"]) == ["--config=configs/vtab.py:dtd"]


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_documents_name_files_that_exist(path):
    text = path.read_text()
    linked = {link for link in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", text)}
    named = set(re.findall(r"\bnoah_jax/[\w/]+\.py\b", text))
    if path.name == "CONTRIBUTING.md":
        in_rooms = set(re.findall(r"`((?!noah_jax|tests|configs)\w+/\w+\.py)`", text))
        assert len(in_rooms) > 5
        named |= {f"noah_jax/{name}" for name in in_rooms}
    missing = [link for link in linked if not (path.parent / link).exists()]
    assert missing + [name for name in named if not (ROOT / name).exists()] == []
