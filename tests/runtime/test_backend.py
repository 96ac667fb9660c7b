"""The cache: where it is, and half a program in it, as a killed process leaves it."""

import os
import pathlib
import subprocess
import sys

from noah_jax.runtime import backend

PROGRAM = """
import jax, jax.numpy as jnp
from noah_jax.runtime import backend
backend.keep_compiled_programs()
jax.jit(lambda x: x * {})(jnp.ones(3)).block_until_ready()
"""


def _run(cache, factor):
    program = PROGRAM.format(factor)
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        env=os.environ | {"NOAH_JAX_CACHE": str(cache)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return {path.name for path in (cache / "compiled").glob("*-cache")}


def test_a_program_that_was_half_written_is_deleted_and_others_are_kept(tmp_path):
    first = _run(tmp_path, 2)
    assert first
    cut = tmp_path / "compiled/jit_f-0-cache"
    cut.write_bytes(b"half")
    second = _run(tmp_path, 3)  # JAX would warn, and keep nothing
    assert first < second and not cut.exists()


def test_an_empty_variable_is_none(monkeypatch, tmp_path):
    monkeypatch.setenv("NOAH_JAX_CACHE", "")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert backend.cache_dir() == tmp_path / "noah_jax"
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    assert backend.cache_dir() == pathlib.Path("~/.cache/noah_jax").expanduser()
