"""Genome files: a value or one message comes of thousands that are nearly right.

`pytest -m long tests/space/test_fuzz_genomes.py -rP` takes 10,000 of each and shows the counts.
"""

import json

import numpy as np
import pytest

from noah_jax.errors import UserError
from noah_jax.space.files import read_genome
from noah_jax.space.genomes import ALL_MODULES, MODULES
from tests.helpers.fuzzing import NUMBERS, corrupt, pick, report, try_all

BLOCKS = 12
_ROWS = [[5, 0, 1]] * BLOCKS
_LISTS = {"VISUAL_PROMPT_DIM": [5] * BLOCKS, "LORA_DIM": [0] * BLOCKS, "ADAPTER_DIM": [1] * BLOCKS}
_YAML = "MODEL_NAME: vit\nRETRAIN:\n" + "".join(
    f"  {key}: {row}\n" if i else f"  {key}:\n" + "".join(f"    - {size}\n" for size in row)
    for i, (key, row) in enumerate(_LISTS.items())
)
_JSONS = [
    json.dumps({"genome": rows, "params": 7, "val_accuracy": 0.5})
    for rows in (_ROWS, [[5, 0, 1, 8, -1, 0, 2]] * BLOCKS)
]

_COMMON = ["[", "]", "{", "}", ",", ":", '"', "'", "\\", "\n", "\r\n", "\t", "\0", "é", "\ud800"]
_COMMON += ["-1", "0", "1", "5.0", "1e5", "1e999", "NaN", "Infinity", ".inf", "true", "null", "~"]
_COMMON += ["10000", "10001", "2147483648", "1" + "0" * 30, "9" * 5000, "[" * 300, "{" * 300, "#"]
_YAML_PIECES = ["&a ", "*a", "<<: ", "<<: *a\n", "!!int ", "!!python/object/apply:os.getcwd []"]
_YAML_PIECES += ["!!timestamp ", "!", "!!binary ", "---\n", "...\n", "%TAG ! tag:x,2000:\n", "? "]
_YAML_PIECES += ["- ", "- - - ", "|\n", ">-\n", "2001-01-01", "2001-99-99", "1:60:60", "1:1:1.5"]
_YAML_PIECES += [
    "0x",
    "0x1F",
    "010",
    "0b_",
    "1_0",
    "=",
    ": ",
    "  ",
    "RETRAIN:\n",
    "PREFIX_DIM: 1\n",
]
_JSON_PIECES = ['"genome"', '"genome":', "[5, 0, 1]", "[[", "]]", "\\u12", '"\\ud800"', "\ufeff"]


def _edit(text, pieces, rng):
    """A few pieces put in, put in place of something, or cut out; then some bytes damaged."""
    for _ in range(rng.integers(0, 4)):
        a, b = sorted(rng.integers(0, len(text) + 1, 2).tolist())
        b = pick(rng, (a, a, a + 1, a + int(rng.integers(1, 9)), b))
        text = text[:a] + pick(rng, [*pieces, ""]) + text[b:]
    data = text.encode(errors="surrogatepass")
    for _ in range(pick(rng, (0, 0, 1, 3))):
        data = corrupt(data, rng)
    return data


@pytest.mark.parametrize("number", NUMBERS)
@pytest.mark.parametrize("suffix", ["yaml", "json"])
def test_genomes(suffix, number, tmp_path):
    rng, path = np.random.default_rng(3), tmp_path / f"genome.{suffix}"
    texts, pieces = {"yaml": ([_YAML], _YAML_PIECES), "json": (_JSONS, _JSON_PIECES)}[suffix]

    def read(data):
        path.write_bytes(data)
        try:
            genome = read_genome(path, BLOCKS)
        except UserError as error:
            assert str(path) in str(error)
            raise
        assert genome.dtype == np.int32 and len(genome) == BLOCKS
        assert len(MODULES) <= genome.shape[1] <= len(ALL_MODULES)
        assert genome.min() >= 0 and genome.max() <= 10_000

    inputs = (_edit(pick(rng, texts), [*_COMMON, *pieces], rng) for _ in range(number))
    report(f"{suffix} genomes", try_all(inputs, read), number)
