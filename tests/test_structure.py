"""The plan of the house: rooms, floors, faces, and functions that fit on a screen."""

import ast
import pathlib
import subprocess
import sys

import pytest

from tests.helpers import rooms

TESTS = pathlib.Path(__file__).parent
LONGEST, MOST_ARGUMENTS = 50, 6
# Functions that are longer or take more, each with its reason.
ALLOWED = {"vit.network.make_network": "each argument is of another kind, and it has two callers"}


def test_every_room_has_its_floor_and_few_files():
    found = {rooms.room(module) for module in rooms.imports()}
    assert found == {name for row in rooms.FLOORS for name in row}
    for folder in filter(pathlib.Path.is_dir, rooms.PACKAGE.iterdir()):
        files = [path for path in folder.glob("*.py") if path.name != "__init__.py"]
        assert len(files) <= 12, folder
        assert folder.name == "__pycache__" or folder.name in found or not files


def test_imports_go_down():
    floor = {name: number for number, row in enumerate(rooms.FLOORS) for name in row}
    upwards = [
        f"{module} imports {other}"
        for module, others in rooms.imports().items()
        for other in sorted(others)
        if rooms.room(module) != rooms.room(other)
        and floor[rooms.room(other)] >= floor[rooms.room(module)]
    ]
    assert upwards == []


def test_no_circle():
    assert rooms.circle(rooms.imports()) == []
    assert rooms.circle(rooms.between_rooms()) == []
    assert rooms.circle({"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": set()}) == ["a", "b", "c"]


def test_a_face_and_its_modules_have_no_name_in_common():
    """`from noah_jax.room import name` would give either, by what was imported before."""
    for path in rooms.PACKAGE.glob("*/__init__.py"):
        faces = {name.rpartition(".")[2] for name in rooms.imported(path)}
        assert not faces & {module.stem for module in path.parent.glob("*.py")}, path.parent.name


def test_the_drawing_is_of_today():
    """`python -m tests.helpers.rooms --write` draws it again."""
    assert rooms.drawn() == rooms.drawing()
    arrows = rooms.between_rooms()
    assert len(arrows) <= 20 and sum(map(len, arrows.values())) <= 80


@pytest.mark.parametrize(
    ("room", "absent"),
    [
        ("space", {"jax", "flax"}),
        ("data", {"jax", "grain", "tensorflow_datasets", "sklearn"}),
        ("vit", {"grain", "tensorflow_datasets", "sklearn", "matplotlib", "tqdm"}),
    ],
)
def test_a_room_loads_what_it_needs(room, absent):
    program = f"import sys, noah_jax.{room}; print(*sorted({absent!r} & sys.modules.keys()))"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=TESTS.parent
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "\n"


def _functions(node: ast.AST, name: str):
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.ClassDef):
            inner = f"{name}.{child.name}"
            if isinstance(child, ast.FunctionDef):
                yield inner, child
            yield from _functions(child, inner)
        else:
            yield from _functions(child, name)


def _size(function: ast.FunctionDef) -> tuple[int, int]:
    """Lines without the docstring, and arguments without self."""
    docstring = function.body[0] if ast.get_docstring(function) else None
    lines = function.end_lineno - function.lineno + 1
    if docstring:
        lines -= docstring.end_lineno - docstring.lineno + 1
    spec = function.args
    names = [a.arg for a in (*spec.posonlyargs, *spec.args, *spec.kwonlyargs)]
    return lines, len([name for name in names if name not in ("self", "cls")])


def test_functions_fit_on_a_screen():
    large = {}
    for module, path in rooms.modules().items():
        for name, function in _functions(ast.parse(path.read_text()), module):
            lines, arguments = _size(function)
            if lines > LONGEST or arguments > MOST_ARGUMENTS:
                large[name.removeprefix("noah_jax.")] = f"{lines} lines, {arguments} arguments"
    unknown = {name: size for name, size in large.items() if name not in ALLOWED}
    assert not unknown and not ALLOWED.keys() - large.keys(), unknown


def test_no_test_imports_another():
    for path in TESTS.rglob("*.py"):
        for name in rooms.imported(path):
            parts = name.split(".")
            assert parts[0] != "tests" or parts[1] == "helpers", (path.name, name)


def test_genomes_and_settings_are_tested_without_torch():
    """A change of these is then tested within seconds, with few packages."""
    heavy = {"torch", "torchvision", "transformers", "peft", "onnxruntime", "tensorflow_datasets"}
    files = [TESTS / "conftest.py", *(TESTS / "helpers").glob("*.py")]
    files += [*(TESTS / "space").glob("*.py"), *(TESTS / "config").glob("*.py")]
    for path in files:
        assert not {name.split(".")[0] for name in rooms.imported(path)} & heavy, path
