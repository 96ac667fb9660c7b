"""NOAH's own files: subnet YAMLs."""

import dataclasses
import re

import numpy as np
import pytest

from noah_jax import pipeline
from noah_jax.config import defaults, expand
from noah_jax.errors import UserError
from noah_jax.interop import read_noah_yaml

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


# --- Genomes -------------------------------------------------------------------------------------


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
        ("- 50", "- 5000000000", ["RETRAIN.ADAPTER_DIM"]),
        ("    - 50\n", "", ["RETRAIN.ADAPTER_DIM 2", "RETRAIN.LORA_DIM 3"]),
        ("- 0\n  VISUAL", "- 7\n  VISUAL", ["RETRAIN.PREFIX_DIM", "prefix tuning"]),
        ("LORA_DIM:\n    - 1\n", "LORA: 1\n  L:\n", ["RETRAIN.LORA_DIM: expected a list"]),
        ("vit_base", "!!python/object/apply:os.getcwd [] #", ["cannot read a genome"]),
        ("MODEL_NAME:", "M: " + "[" * 5000, ["cannot read a genome"]),
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


def test_a_run_takes_a_yaml_as_genome(tmp_path):
    path = tmp_path / "subnet.yaml"
    lists = {"VISUAL_PROMPT_DIM": [5] * 12, "LORA_DIM": [0] * 12, "ADAPTER_DIM": [1] * 12}
    path.write_text("RETRAIN:\n" + "".join(f"  {key}: {row}\n" for key, row in lists.items()))
    values = defaults()
    values.update(task="digits", genome=str(path))
    (config,) = expand(values)
    space = config.search_space()
    assert pipeline._read_genome(config, space).tolist() == [[5, 0, 1]] * 12
    with pytest.raises(UserError, match=r"subnet.yaml .*\[12, 3\].*24 rows"):
        pipeline._read_genome(config, dataclasses.replace(space, blocks=24))
    values.update(genome=str(tmp_path / "subnet.json"))
    (tmp_path / "subnet.json").write_text(f'{{"genome": {[[5, 0, 1]] * 12}}}')
    (config,) = expand(values)
    assert pipeline._read_genome(config, space).tolist() == [[5, 0, 1]] * 12
