"""Genomes in files: NOAH's subnet YAMLs, and JSON."""

import json

import pytest

from noah_jax.errors import UserError
from noah_jax.space.files import read_genome


def test_genomes_that_would_grow(tmp_path, no_memory):
    """NumPy gives every string of a list the room of the longest."""
    strings = ["x" * 100_000, *[""] * 200_000]
    for text in (
        json.dumps(strings),
        "[" * 500_000,
        "9" * 500_000,
        '{"genome": ' * 50_000,
        json.dumps([[0, 0, 0]] * 11 + [[0, 0, 2**31 - 1]]),
        json.dumps([[0, 0, 0]] * 11 + [[0, 0, 2**40]]),
        " " * (1 << 21),
    ):
        (tmp_path / "genome.json").write_text(text)
        with pytest.raises(UserError, match="no genome in .*genome.json") as error:
            read_genome(tmp_path / "genome.json", 12)
        assert len(str(error.value)) < 1000
