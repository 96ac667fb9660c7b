"""A Sphinx extension: puts texts that stand elsewhere into the pages, so that none stands twice.

A page holds marks, fenced blocks of a kind and at most a line:

    {readme}     configs/README.md#methods   a section of a file, or without # all but its title
    {docstring}  configs/vtab.py             the docstring of a file
    {drawing}    rooms                       a function of drawings.py, which returns an SVG
    {settings}                               all settings, from their fields

Links between files, which are right on GitHub, become links between pages. A file that is on no
page is linked in the repository, if pyproject.toml names one, or else copied beside the pages.
"""

import ast
import os
import pathlib
import re
from collections.abc import Iterator

import drawings
from mdit_py_plugins.anchors.index import slugify

from noah_jax.config import Config, overview
from noah_jax.config.fields import walk

ROOT = pathlib.Path(__file__).parents[1]
DOCS = ROOT / "docs"
_MARK = re.compile(r"```\{(readme|docstring|settings|drawing)\}\n(?:(.*)\n)?```\n")
_LINK = re.compile(r"(?<=\]\()(?!\w+:)([^)#\s]*)(#[^)\s]+)?(?=\))")


def setup(app):
    app.add_config_value("repository", "", "env")
    app.connect("source-read", lambda app, name, source: _fill(app, source))
    return {"parallel_read_safe": True}


def _fill(app, source):
    """Replaces the marks of a page, and the links of it all."""
    places, text, end, parts = _places(), source[0], 0, []
    for mark in _MARK.finditer(text):
        own = text[end : mark.start()]
        parts += [_linked(own, DOCS / "page.md", places, app), _filled(*mark.groups(), places, app)]
        end = mark.end()
    source[0] = "".join([*parts, _linked(text[end:], DOCS / "page.md", places, app)])


def _filled(kind, argument, places, app) -> str:
    if kind == "readme":
        name, _, slug = argument.partition("#")
        return _linked(section((ROOT / name).read_text(), slug), ROOT / name, places, app) + "\n"
    if kind == "docstring":
        return (ast.get_docstring(ast.parse((ROOT / argument).read_text())) or "") + "\n"
    if kind == "drawing":
        return f"```{{raw}} html\n{getattr(drawings, argument)()}\n```\n"
    return settings()


# --- Sections and links --------------------------------------------------------------------------


def headings(text: str) -> Iterator[tuple[int, str, int]]:
    """Yields level, slug and position of each heading outside of code."""
    code = False
    for line in re.finditer(r"^.*$", text, re.MULTILINE):
        code ^= line[0].startswith("```")
        if not code and (found := re.match(r"(#+) (.+)", line[0])):
            yield len(found[1]), slugify(found[2]), line.start()


def section(text: str, slug: str) -> str:
    """The section with that heading; all but the title, if `slug` is empty."""
    found = [*headings(text)]
    if not slug:
        return text[text.index("\n", found[0][2]) :]
    (level, start), *_ = [(level, start) for level, name, start in found if name == slug]
    ends = [after for other, _, after in found if after > start and other <= level]
    return text[start : min(ends, default=len(text))]


def _places() -> dict[tuple[str, str], str]:
    """(file, slug of a heading) → the page that shows it.

    The slug is empty for a whole file, which is where its first section is.
    """
    places, starts = {("README.md", ""): "index"}, {"README.md": 0}
    for page in sorted(DOCS.glob("*.md")):
        for kind, argument in _MARK.findall(page.read_text()):
            if kind == "readme":
                name, _, slug = argument.partition("#")
                whole = (ROOT / name).read_text()
                text = section(whole, slug)
                if (start := whole.index(text)) < starts.get(name, len(whole)):
                    places[name, ""], starts[name] = page.stem, start
                places |= {(name, anchor): page.stem for _, anchor, _ in headings(text)}
    return places


def _linked(text, origin, places, app) -> str:
    """Makes the links of a text, which are relative to the file `origin`, right for a page."""

    def target(match):
        path, anchor = match[1], match[2] or ""
        file = pathlib.Path(os.path.normpath(origin.parent / path)) if path else origin
        if file.parent == DOCS and file.suffix == ".md":
            return (file.name if path else "") + anchor
        if (file / "README.md").is_file():
            file = file / "README.md"
        name = file.relative_to(ROOT).as_posix()
        if page := places.get((name, anchor[1:])) or places.get((name, "")):
            return f"{page}.md{anchor}"
        if app.config.repository and not file.suffix == ".png":
            return f"{app.config.repository}/blob/main/{name}{anchor}"
        return f"../{name}" if file.is_file() else ""

    text = _LINK.sub(target, text)
    return re.sub(r"(?<!!)\[([^][]+)\]\(\)", r"\1", text)  # a folder, and no repository


# --- Settings ------------------------------------------------------------------------------------

_KINDS = {
    **{int: "whole number", float: "number", str: "text", bool: "True or False"},
    tuple: "whole numbers",
}


def settings() -> str:
    """A heading for each group of settings, and an entry for each setting."""
    groups: dict[str, list[str]] = {}
    of_a_run = {key: value for key, value, _ in walk(Config())}
    for key, (default, known) in overview.settings().items():
        kind = _KINDS[type(of_a_run.get(key, default))]
        shown = f'"({",".join(map(str, default))})"' if isinstance(default, tuple) else default
        entry = [
            f"```{{confval}} {key}",
            f":type: {kind}{', ' if known.expected else ''}{known.expected}",
            f":default: {'empty' if shown == '' else f'`{shown}`'}",
            f"\n{known.explanation}\n```\n",
        ]
        groups.setdefault(key.rpartition(".")[0], []).append("\n".join(entry))
    parts = []
    for group, entries in groups.items():
        explanation = (getattr(Config(), group) if group else Config()).__doc__
        parts += [
            f"## `{group}`\n" if group else "## Of the run\n",
            explanation.replace("--config", "`--config`") + "\n",
            *entries,
        ]
    return "\n".join(parts)
