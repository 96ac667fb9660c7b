"""Lists as all sorts of programs write them."""

import pytest

from noah_jax.data.folders.lists import read_list
from noah_jax.errors import UserError


def _rows(tmp_path, text):
    (tmp_path / "test.txt").write_bytes(text.encode())
    return [(str(path), label) for path, label in read_list(tmp_path / "test.txt")]


@pytest.mark.parametrize(
    "text",
    [
        "images/a b.png 3\nc.png 12\n",
        "images/a b.png 3\nc.png 12",
        "\ufeffimages/a b.png 3\r\n\r\nc.png 12\r\n",
        "images/a b.png 3\rc.png 12\r",
        "\n \t\n  images/a b.png\t3  \n./c.png  0012\n\n",
    ],
)
def test_line_ends_blanks_and_tabs(tmp_path, text):
    assert _rows(tmp_path, text) == [("images/a b.png", 3), ("c.png", 12)]


@pytest.mark.parametrize("name", ["a  b.png", "5", "é\u2028\x85.png", "a 1", "ab:c.png", "..png"])
def test_names_are_kept_as_they_are(tmp_path, name):
    assert _rows(tmp_path, f"{name} 1\n") == [(name, 1)]


@pytest.mark.parametrize(
    "line",
    ["a.png", "5", "a.png x", "a.png 1.5", "a.png ٣", "a.png 1234567890", "a.png1", "a.png,1"],
)
def test_what_is_no_path_with_a_label(tmp_path, line):
    with pytest.raises(UserError, match="test.txt:\n  line 2: expected `path label`, got "):
        _rows(tmp_path, f"a.png 0\n{line}\nb.png 1")


def test_a_list_in_another_encoding(tmp_path):
    (tmp_path / "test.txt").write_bytes("a.png 0".encode("utf-16"))  # as PowerShell writes it
    with pytest.raises(UserError, match="test.txt: .*; expected text in UTF-8"):
        read_list(tmp_path / "test.txt")
