"""Genomes in files: NOAH's subnet YAMLs, and JSON."""

import json
import re

import numpy as np
import pytest

from noah_jax.errors import UserError
from noah_jax.space.files import read_genome, read_noah_yaml

UNIX = """\
MODEL_NAME: vit_base_patch16_224_in21k
SUPERNET:
  DEPTH: 3
  PREFIX_DIM: 100
RETRAIN:
  PREFIX_DIM:
    - 0
    - 0
    - 0
  VISUAL_PROMPT_DIM:
    - 10
    - 5
    - 0
  LORA_DIM:
    - 1
    - 10
    - 5
  ADAPTER_DIM:
    - 0
    - 0
    - 50
"""
DOS = (
    "RETRAIN: \n  LORA_DIM: \n    - 8\n    - 0\n  ADAPTER_DIM: [0, 1]\n  VISUAL_PROMPT_DIM: [2, 3]"
)


def test_reads_subnet_yamls(tmp_path):
    (tmp_path / "unix.yaml").write_text(UNIX)
    genome = read_noah_yaml(tmp_path / "unix.yaml")
    assert genome.dtype == np.int32
    assert genome.tolist() == [[10, 1, 0], [5, 10, 0], [0, 5, 50]]
    (tmp_path / "dos.yml").write_bytes(DOS.replace("\n", "\r\n").encode())
    assert read_noah_yaml(str(tmp_path / "dos.yml")).tolist() == [[2, 8, 0], [3, 0, 1]]


@pytest.mark.parametrize(
    ("old", "new", "messages"),
    [
        ("RETRAIN:", "SEARCH_SPACE:", ["no section RETRAIN"]),
        ("- 50", "- -1", ["RETRAIN.ADAPTER_DIM: expected a list of sizes"]),
        ("- 50", "- 5.0", ["RETRAIN.ADAPTER_DIM"]),
        ("- 50", "- true", ["RETRAIN.ADAPTER_DIM"]),
        ("- 50", "- 10001", ["RETRAIN.ADAPTER_DIM: expected a list of sizes 0 … 10000"]),
        ("    - 50\n", "", ["RETRAIN.ADAPTER_DIM 2", "RETRAIN.LORA_DIM 3"]),
        ("- 0\n  VISUAL", "- 7\n  VISUAL", ["RETRAIN.PREFIX_DIM", "prefix tuning"]),
        ("LORA_DIM:\n    - 1\n", "LORA: 1\n  L:\n", ["RETRAIN.LORA_DIM: expected a list"]),
        ("vit_base", "!!python/object/apply:os.getcwd [] #", ["cannot read a genome"]),
        ("MODEL_NAME:", "M: !!timestamp 2001-01-01 #", ["it has a tag 'tag:yaml.org,2002:timest"]),
        ("- 50", "- !!int 50", ["it has a tag 'tag:yaml.org,2002:int'"]),
        ("- 50", "- ! 50", ["it has a tag '!'"]),
        ("- 50", "- !%1b[2J 50", [r"it has a tag '!\x1b[2J'"]),
        ("- 50", "- &a 50", ["it has an anchor or alias a"]),
        ("RETRAIN:", "RETRAIN: &a", ["it has an anchor or alias a"]),
        ("- 50", "- *a", ["it has an anchor or alias a"]),
        ("MODEL_NAME:", "<<: {A: 1}\nM:", ["it has a merge key <<"]),
        ("MODEL_NAME:", "M: " + "[" * 11 + "]" * 11 + " #", ["nested more than 10 deep"]),
        ("MODEL_NAME:", "M: " + "[" * 5000, ["nested more than 10 deep"]),
        ("MODEL_NAME:", "- " * 5000, ["nested more than 10 deep"]),
        ("MODEL_NAME:", "? " * 5000, ["nested more than 10 deep"]),
        ("MODEL_NAME:", "M: 1" + ":1" * 1000 + ".5 #", ["cannot read a genome"]),
        ("MODEL_NAME:", "M: 2001-99-99 #", ["cannot read a genome"]),
        ("MODEL_NAME:", "M: " + "9" * 5000 + " #", ["cannot read a genome"]),
        ("MODEL_NAME:", "M: = #", ["cannot read a genome"]),
        ("MODEL_NAME:", "#" * (1 << 16) + "\nM:", ["more than 65536 bytes"]),
        ("MODEL_NAME", "\x00", ["cannot read a genome"]),
    ],
)
def test_refuses_other_yamls(tmp_path, old, new, messages):
    assert UNIX.count(old) >= 1
    path = tmp_path / "odd.yaml"
    path.write_text(UNIX.replace(old, new))
    with pytest.raises(UserError) as error:
        read_noah_yaml(path)
    assert all(message in str(error.value) for message in [str(path), *messages])


def test_all_complaints_about_a_yaml_in_one_message(tmp_path):
    path = tmp_path / "empty.yaml"
    path.write_text("RETRAIN: {LORA_DIM: 8, ADAPTER_DIM: [], PREFIX_DIM: [1]}")
    with pytest.raises(UserError) as error:
        read_noah_yaml(path)
    named = re.findall(r"RETRAIN\.(\w+)", str(error.value))
    assert named == ["VISUAL_PROMPT_DIM", "LORA_DIM", "ADAPTER_DIM", "PREFIX_DIM"]
    with pytest.raises(UserError, match="no_such.yaml"):
        read_noah_yaml(tmp_path / "no_such.yaml")


def test_a_genome_comes_from_json_or_yaml(tmp_path):
    """That a run takes one is tested with the real command."""
    lists = {"VISUAL_PROMPT_DIM": [5] * 12, "LORA_DIM": [0] * 12, "ADAPTER_DIM": [1] * 12}
    yaml = "RETRAIN:\n" + "".join(f"  {key}: {row}\n" for key, row in lists.items())
    rows = [[5, 0, 1]] * 12
    for name, text in {
        "subnet.yaml": yaml,
        "best.json": json.dumps({"genome": rows, "params": 7}),
        "bare.json": json.dumps(rows),
    }.items():
        (tmp_path / name).write_text(text)
        assert read_genome(tmp_path / name, 12).tolist() == rows
        with pytest.raises(UserError, match=rf"{name} .*\[12, 3\].*24 rows"):
            read_genome(tmp_path / name, 24)


def test_a_genome_may_have_a_parallel_adapter(tmp_path):
    rows = [[5, 0, 1, 8], [0, 10000, 0, 10000]]
    (tmp_path / "g.json").write_text(json.dumps({"genome": rows}))
    genome = read_genome(tmp_path / "g.json", 2)
    assert genome.tolist() == rows and genome.dtype == np.int32
    with pytest.raises(UserError, match=r"\[2, 4\].*3 rows.* or 4 .*'parallel'"):
        read_genome(tmp_path / "g.json", 3)


@pytest.mark.parametrize(
    "text",
    [
        "[[5, 0, 1.0], [5, 0, 1]]",
        "[[5, 0, true], [5, 0, 1]]",
        "[[5, 0, NaN], [5, 0, 1]]",
        "[[5, 0, -1], [5, 0, 1]]",
        "[[5, 0, 10001], [5, 0, 1]]",
        "[[5, 0, 4294967296], [5, 0, 1]]",  # would be 0 in 32 bits
        f"[[5, 0, 1{'0' * 5000}], [5, 0, 1]]",
        '[[5, 0, "1"], [5, 0, 1]]',
        "[[5, 0, [1]], [5, 0, 1]]",
        "[[5, 0], [5, 0]]",
        "[[5, 0, 1], [5, 0]]",
        "[[5, 0, 1, 8, 0], [5, 0, 1, 8, 0]]",
        "[[5, 0, 1, 8], [5, 0, 1]]",
        "[[5, 0, 1, -1], [5, 0, 1, 8]]",
        "[[5, 0, 1, 8.0], [5, 0, 1, 8]]",
        "[[5, 0, 1, true], [5, 0, 1, 8]]",
        "[[5, 0, 1, null], [5, 0, 1, 8]]",
        "[[5, 0, 1]]",
        "[5, 0, 1]",
        "[]",
        "7",
        "Infinity",
        '{"genome": {"genome": 1}}',
        '{"Genome": [[5, 0, 1], [5, 0, 1]]}',
        '{"genome": [[5, 0, 1], [5, 0, 1]]',
        "",
        "\x00",
    ],
)
def test_refuses_other_json(tmp_path, text):
    path = tmp_path / "odd.json"
    path.write_text(text)
    with pytest.raises(UserError, match="no genome in .*odd.json") as error:
        read_genome(path, 2)
    assert len(str(error.value)) < 600


def test_json_with_more_in_it_is_read(tmp_path):
    """Not-a-numbers elsewhere, of two equal keys the last, a byte-order mark."""
    text = '{"loss": NaN, "genome": 7, "genome": [[5, 0, 1], [0, 10000, 0]]}'
    (tmp_path / "g.json").write_text(text, encoding="utf-8-sig")
    assert read_genome(tmp_path / "g.json", 2).tolist() == [[5, 0, 1], [0, 10000, 0]]


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
