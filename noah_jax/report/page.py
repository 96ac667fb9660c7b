"""A page for people: one HTML file without outside links or scripts, and its figures beside it."""

import base64
import csv
import html
import io
import pathlib
import re
import warnings
from collections.abc import Iterable, Sequence

from noah_jax.report.figures import INK, Drawing
from noah_jax.runtime.workdir import make_folder, write_bytes, write_text

FOLDER = "figures"
_NUMBER, _A_NUMBER = "<td class=number>", r"\d[\d.,]*( ?(%|s|min|MB|h \d+ min|± [\d.]+))?"
_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
:root {{ color-scheme: light dark; --paper: #ffffff; --ink: #222222; --soft: #5c6370;
  --line: #d9dce1; --card: #f6f7f9; --bar: #3b76c4; --good: #2e8b57; --bad: #d0453a; }}
@media (prefers-color-scheme: dark) {{ :root {{ --paper: #15181d; --ink: #dddddd;
  --soft: #9aa3af; --line: #333a44; --card: #1d2128; --bar: #5a93dd; }} }}
* {{ box-sizing: border-box; }}
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 72rem; margin: 0 auto;
  padding: 1.2rem 1rem 4rem; color: var(--ink); background: var(--paper); }}
h1 {{ font-size: 1.5rem; line-height: 1.25; margin: .6rem 0; overflow-wrap: anywhere; }}
h2 {{ font-size: 1.2rem; margin: 2.4rem 0 .6rem; padding-top: .6rem;
  border-top: 1px solid var(--line); }}
h3 {{ font-size: 1rem; margin: 1rem 0 .4rem; }}
p {{ margin: .5rem 0; max-width: 46rem; }}
.soft {{ color: var(--soft); }}
.big {{ font-size: 2.6rem; line-height: 1.1; font-weight: 650; }}
.grid {{ display: grid; gap: 1rem 2rem; align-items: start;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 24rem), 1fr)); }}
.grid > * {{ min-width: 0; }}
.grid h3:first-child {{ margin-top: 0; }}
figure {{ margin: 0; max-width: 36rem; }}
figure img {{ display: block; width: 100%; height: auto; }}
figcaption {{ color: var(--soft); font-size: .9rem; margin-top: .3rem; }}
.scroll {{ overflow-x: auto; }}
table {{ border-collapse: collapse; width: 100%; max-width: 46rem; font-size: .95rem; }}
th, td {{ padding: .25rem .9rem .25rem 0; vertical-align: top; }}
th {{ text-align: left; font-weight: 600; color: var(--soft); vertical-align: bottom; }}
@media (max-width: 30rem) {{ table {{ font-size: .86rem; }} th, td {{ padding-right: .5rem; }} }}
tr + tr > * {{ border-top: 1px solid var(--line); }}
table.facts td:first-child {{ color: var(--soft); width: 7.2rem; }}
table.facts td:last-child {{ overflow-wrap: anywhere; }}
.number {{ text-align: right; font-variant-numeric: tabular-nums; }}
td.number {{ white-space: nowrap; }}
.bar {{ width: 32%; vertical-align: middle; }}
.bar i {{ display: block; height: .7rem; background: var(--bar); border-radius: 2px; }}
.photos {{ display: grid; gap: .8rem;
  grid-template-columns: repeat(auto-fill, minmax(6.4rem, 1fr)); }}
.photos figure {{ font-size: .82rem; line-height: 1.3; overflow-wrap: anywhere; }}
.photos img {{ aspect-ratio: 1; object-fit: contain; background: var(--card); border-radius: 4px;
  border-bottom: 3px solid var(--good); margin-bottom: .25rem; }}
.photos .wrong img {{ border-color: var(--bad); }}
pre {{ background: var(--card); padding: .8rem; border-radius: 6px; overflow-x: auto;
  font-size: .88rem; }}
.note {{ background: var(--card); border-left: 4px solid var(--bad); padding: .5rem .8rem;
  overflow-wrap: anywhere; max-width: none; }}
summary {{ cursor: pointer; }}
ul {{ padding-left: 1.2rem; overflow-wrap: anywhere; }} a {{ color: var(--bar); }}
</style></head><body>
{body}
</body></html>
"""
_DARK = (
    "<style>@media (prefers-color-scheme: dark) {"
    f'[style*="fill: {INK}"] {{ fill: #dddddd !important; }}'
    f'[style*="stroke: {INK}"] {{ stroke: #dddddd !important; }}'
    "}</style>"
)


def write(path: pathlib.Path, title: str, parts: Iterable[str]) -> pathlib.Path:
    """Writes the page.

    Args:
      parts: HTML, in order; empty ones count for nothing.

    Raises:
      UserError: it cannot be written.
    """
    body = "\n".join(filter(None, parts))
    write_text(path, _PAGE.format(title=html.escape(title), body=body))
    return path


def picture(drawing: Drawing, folder: pathlib.Path, caption: str = "") -> str:
    """The drawing inside the page; beside it, in `folder`, as PNG, SVG and numbers as CSV.

    Raises:
      UserError: these cannot be written.
    """
    make_folder(folder)
    path = folder / drawing.name
    vector = _saved(drawing, "svg")
    drawing.figure.set_layout_engine("none")  # it has done its work
    write_bytes(path.with_suffix(".png"), _saved(drawing, "png"))
    write_bytes(path.with_suffix(".svg"), vector)
    table = io.StringIO()
    csv.writer(table, lineterminator="\n").writerows(drawing.numbers)
    write_text(path.with_suffix(".csv"), table.getvalue())
    adaptive = re.sub(r"(<svg\b[^>]*>)", lambda tag: tag[1] + _DARK, vector.decode(), count=1)
    source = base64.b64encode(adaptive.encode()).decode()
    below = f"<figcaption>{html.escape(caption)}</figcaption>" if caption else ""
    image = f'<img alt="{html.escape(drawing.alt)}" src="data:image/svg+xml;base64,{source}">'
    return f"<figure>{image}{below}</figure>"


def _saved(drawing: Drawing, kind: str) -> bytes:
    data = io.BytesIO()
    options = {"transparent": True, "metadata": {"Date": None}} if kind == "svg" else {"dpi": 160}
    with warnings.catch_warnings():  # letters that matplotlib's font lacks are boxes in a PNG
        warnings.filterwarnings("ignore", "Glyph .* missing")
        drawing.figure.savefig(data, format=kind, **options)
    return data.getvalue()


def facts(values: dict[str, str]) -> str:
    """A table of what and what of it."""
    cells = (
        f"<tr><td>{html.escape(key)}</td><td>{html.escape(value)}</td></tr>"
        for key, value in values.items()
    )
    return f'<table class="facts">{"".join(cells)}</table>'


def table(header: Sequence[str], rows: Sequence[Sequence[str | float]]) -> str:
    """Text to the left, numbers to the right, shares as bars."""
    lines = ["".join(map(_cell, row)) for row in rows]
    kinds = [cell.startswith(_NUMBER) for row in rows[:1] for cell in map(_cell, row)]
    titles = zip(header, kinds or [False] * len(header), strict=True)
    first = "".join(
        f"<th{' class=number' * number}>{html.escape(name)}</th>" for name, number in titles
    )
    lines = "".join(f"<tr>{line}</tr>" for line in [first, *lines])
    return f'<div class="scroll"><table>{lines}</table></div>'


def _cell(value: str | float) -> str:
    if isinstance(value, float):
        return f'<td class="bar"><i style="width: {100 * value:.2f}%"></i></td>'
    kind = _NUMBER if re.fullmatch(_A_NUMBER, value) else "<td>"
    return f"{kind}{html.escape(value)}</td>"


def grid(*parts: str) -> str:
    """Side by side where there is room."""
    return f'<div class="grid">{"".join(f"<div>{part}</div>" for part in parts if part)}</div>'


def note(text: str) -> str:
    """What the reader must not miss."""
    return f'<p class="note">{html.escape(text)}</p>'


def kept() -> str:
    """Where else the figures are."""
    return text(f"{FOLDER}/ beside this page has the figures as PNG and SVG, numbers as CSV.")


def text(words: str) -> str:
    return f'<p class="soft">{html.escape(words)}</p>'
