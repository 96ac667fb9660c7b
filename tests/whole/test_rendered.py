"""The documentation as Sphinx renders it: no warning, no broken link, nothing left out."""

import pathlib
import re
import subprocess
import sys
import urllib.parse

import pytest
from flax.traverse_util import flatten_dict

import noah_jax

ROOT = pathlib.Path(__file__).parents[2]


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """The name of each page → its HTML."""
    out = tmp_path_factory.mktemp("rendered")
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-n", "-q", "-b", "html"]
    done = subprocess.run(
        [*command, "-d", out / "doctrees", ROOT / "docs", out / "html"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return {path: path.read_text() for path in (out / "html").glob("*.html")}


def _named(pages, name):
    (html,) = [html for path, html in pages.items() if path.stem == name]
    return html


def test_every_setting_and_public_name_has_its_entry(pages):
    entries = set(re.findall(r'id="confval-([\w.]+)"', _named(pages, "settings")))
    assert entries == flatten_dict(noah_jax.defaults().to_dict(), sep=".").keys()
    entries = set(re.findall(r'<dt [^>]*id="noah_jax\.(\w+)"', _named(pages, "api")))
    assert entries == set(noah_jax.__all__)


def test_every_page_is_reached_and_no_mark_is_left(pages):
    written = {path.stem for path in (ROOT / "docs").glob("*.md")}
    assert written < {path.stem for path in pages}
    menu = set(re.findall(r'class="reference internal" href="(\w+)\.html"', _named(pages, "index")))
    assert written - {"index"} <= menu
    for html in pages.values():
        assert not re.search(r"\{(readme|docstring|settings|drawing)\}", html)


def test_links_lead_somewhere(pages):
    anchors = {path: set(re.findall(r'\bid="([^"]+)"', html)) for path, html in pages.items()}
    broken, seen = [], 0
    for path, html in pages.items():
        for link in re.findall(r'\b(?:href|src)="([^"]+)"', html):
            address = urllib.parse.urlsplit(link)
            if address.scheme or path.stem in ("search", "genindex"):
                continue
            target = (path.parent / urllib.parse.unquote(address.path)) if address.path else path
            anchor = urllib.parse.unquote(address.fragment)
            seen += 1
            if not target.exists() or anchor and anchor not in anchors[target]:
                broken.append(f"{path.name}: {link}")
    assert seen > 500 and not broken


def test_the_drawings_show_what_is_there(pages):
    html = _named(pages, "how_it_works")
    drawings = re.findall(r'<svg class="drawing".*?</svg>', html, re.DOTALL)
    assert len(drawings) == 3
    for word in ("LoRA", "visual prompts", "parallel adapter", ">supernet<", ">training<"):
        assert sum(word in drawing for drawing in drawings) >= 1, word
