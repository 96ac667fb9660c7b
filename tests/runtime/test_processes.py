"""State that lasts as long as the process: it is where it is looked for, and nowhere else."""

import ast
import pathlib

import noah_jax

PACKAGE = pathlib.Path(noah_jax.__file__).parent


def test_no_function_gives_a_modules_name_another_value():
    """Signals and joined processes stand in objects; of a run nothing outlives it."""
    found = [
        str(path.relative_to(PACKAGE))
        for path in PACKAGE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Global)
    ]
    assert found == []


def test_what_is_private_to_jax_is_reached_in_one_place():
    found = [
        str(path.relative_to(PACKAGE))
        for path in PACKAGE.rglob("*.py")
        if "jax._src" in path.read_text()
    ]
    assert found == ["runtime/processes.py"]
