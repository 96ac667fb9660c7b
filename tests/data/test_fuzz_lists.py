"""Damaged lists: rows that stay in the folder, or one clear message, and nothing else.

pytest -m long tests/data/test_fuzz_lists.py -s        all inputs; prints the counts
"""

import json
import os
import random

import pytest

from noah_jax.data.folders import lists
from noah_jax.errors import UserError

_INPUTS, _FEW = 10_000, 500
_LINES = "images/train 1/000001.jpg 3\r\nimages/b.png 12\n\n  images/c d.png\t-1\nx.tif 007"
_COOP = json.dumps(
    {
        name: [[f"{name}/{i}.jpg", i, "a class"] for i in range(4)]
        for name in ("train", "val", "test")
    }
)
_AIRCRAFT = "0000001 707-320\n0000002 Boeing 717\n0000003 DC-3\n"
_PIECES = [
    *(
        "../",
        "/",
        "\\",
        "C:",
        "..",
        ".",
        " ",
        "\t",
        "\0",
        "\r",
        "\n",
        "\n\n",
        "\x0b",
        "\x85",
        "\u2028",
    ),
    *(
        "\ufeff",
        "\x1b[2J",
        "٣",
        "é",
        "\udc80",
        "-",
        "--1",
        "9" * 12,
        "1e999",
        "NaN",
        "null",
        "true",
    ),
    *("[", "]", "{", "}", '"', ",", ":", "\\ud800", "[" * 3000, " " * 3000, "a" * 5000, "9" * 5000),
]


def _mutated(text: str, rng: random.Random) -> bytes:
    for _ in range(rng.randrange(1, 6)):
        a, b = sorted(rng.randrange(len(text) + 1) for _ in range(2))
        match rng.randrange(5):
            case 0:
                text = text[:a] + text[b:]
            case 1:
                text = text[:b] + text[a:]
            case 2:
                text = text[:a]
            case _:
                text = text[:a] + rng.choice(_PIECES) + text[a:]
    raw = bytearray(text.encode("utf-8", "surrogateescape" if rng.random() < 0.5 else "replace"))
    if raw and rng.random() < 0.2:
        raw[rng.randrange(len(raw))] = rng.randrange(256)
    if rng.random() < 0.02:
        return bytes(raw).decode("latin-1").encode("utf-16")
    return bytes(raw)


def _line_list(folder, rng):
    (folder / "test.txt").write_bytes(_mutated(_LINES, rng))
    return lists.read_list(folder / "test.txt")


def _few_shot_lists(folder, rng):
    paths = {name: folder / f"{name}_meta.list" for name in ("train", "val", "test")}
    for path in paths.values():
        path.write_bytes(_mutated(_LINES, rng) if rng.random() < 0.5 else _LINES.encode())
    return sum(lists.read_lists(paths).values(), [])


def _coop(folder, rng):
    (folder / "split.json").write_bytes(_mutated(_COOP, rng))
    return sum(lists.read_coop(folder / "split.json")[0].values(), [])


def _fgvc(folder, rng):
    (folder / "variants.txt").write_text("707-320\nBoeing 717\nDC-3\n")
    for name in ("train", "val", "test"):
        path = folder / f"images_variant_{name}.txt"
        path.write_bytes(_mutated(_AIRCRAFT, rng) if rng.random() < 0.5 else _AIRCRAFT.encode())
    return sum(lists.read_fgvc(folder)[0].values(), [])


@pytest.mark.parametrize("count", [_FEW, pytest.param(_INPUTS, marks=pytest.mark.long)])
@pytest.mark.parametrize("reader", [_line_list, _few_shot_lists, _coop, _fgvc])
def test_rows_inside_the_folder_or_one_message(reader, count, tmp_path):
    images, accepted, rows = str(tmp_path / "images"), 0, 0
    for seed in range(count):
        try:
            found = reader(tmp_path, random.Random(seed))
        except UserError as error:
            assert str(tmp_path) in str(error) and len(str(error)) < 20_000
            continue
        for path, label in found:
            place = os.path.normpath(os.path.join(images, path))
            assert place == images or place.startswith(images + os.sep), seed
            assert isinstance(label, int)
        accepted, rows = accepted + 1, rows + len(found)
    print(
        f"{reader.__name__}: {count} inputs, {accepted} read with {rows} rows, the others refused"
    )
    assert 0 < accepted < count


def test_lists_too_large_or_too_deep(tmp_path):
    deep, large = tmp_path / "deep.json", tmp_path / "large.txt"
    for content in ("[" * 1_000_000, '{"train": ' + "[" * 100_000 + "]" * 100_000 + "}"):
        deep.write_text(content)
        with pytest.raises(UserError, match="deep.json .*RecursionError.*: expected JSON"):
            lists.read_coop(deep)
    with open(large, "wb") as file:
        file.truncate(1 << 34)
    for read in (lists.read_list, lists.read_coop):
        with pytest.raises(UserError, match="large.txt: the file has 17,179,869,184 bytes"):
            read(large)
    os.mkfifo(tmp_path / "pipe.txt")
    with pytest.raises(UserError, match="pipe.txt: not a file, but a folder, a pipe"):
        lists.read_list(tmp_path / "pipe.txt")
    large.unlink()
    large.write_text("a" + " " * 5_000_000 + "b")  # no pattern that tries every place twice
    with pytest.raises(UserError, match="line 1: expected `path label`, got 'a    ") as error:
        lists.read_list(large)
    assert len(str(error.value)) < 1000
