"""Writes a page for people: one HTML file without outside links or scripts, and its figures.

Python gathers the contents of a page. The templates here, `*.html`, lay them out and escape all
text.
"""

import base64
import csv
import io
import pathlib
import re
import warnings
from typing import Any

import jinja2

from noah_jax.report.figures import INK, Drawing
from noah_jax.runtime.workdir import make_folder, write_bytes, write_text

_FOLDER = "figures"
_NUMBER = re.compile(r"(< |[+-])?\d[\d.,]*( ?(%|s|min|MB|h \d+ min))?")
_DARK = (
    "<style>@media (prefers-color-scheme: dark) {"
    f'[style*="fill: {INK}"] {{ fill: #dddddd !important; }}'
    f'[style*="stroke: {INK}"] {{ stroke: #dddddd !important; }}'
    "}</style>"
)
_templates = jinja2.Environment(
    loader=jinja2.PackageLoader("noah_jax.report", ""),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    keep_trailing_newline=True,
)
_templates.tests["pair"] = lambda cell: isinstance(cell, tuple)
_templates.tests["numeric"] = lambda cell: (
    isinstance(cell, tuple) or isinstance(cell, str) and bool(_NUMBER.fullmatch(cell))
)


def write(path: pathlib.Path, template: str, values: dict[str, Any]) -> pathlib.Path:
    """Writes a page.

    Args:
      template: the name of a file in this folder.
      values: the values that the template uses, by name.

    Raises:
      UserError: the page cannot be written.
    """
    write_text(path, _templates.get_template(template).render(values))
    return path


def picture(drawing: Drawing, folder: pathlib.Path) -> dict[str, str]:
    """Prepares a drawing for a page in `folder`, and writes it to `figures/` there.

    It is written as PNG and SVG, and its numbers as CSV.

    Returns:
      `source`, a data URI of the SVG, and `alt`, a description in words.

    Raises:
      UserError: a file cannot be written.
    """
    make_folder(folder / _FOLDER)
    path = folder / _FOLDER / drawing.name
    vector = _saved(drawing, "svg")
    drawing.figure.set_layout_engine("none")  # it has done its work
    write_bytes(path.with_suffix(".png"), _saved(drawing, "png"))
    write_bytes(path.with_suffix(".svg"), vector)
    table = io.StringIO()
    csv.writer(table, lineterminator="\n").writerows(drawing.numbers)
    write_text(path.with_suffix(".csv"), table.getvalue())
    adaptive = re.sub(r"(<svg\b[^>]*>)", lambda tag: tag[1] + _DARK, vector.decode(), count=1)
    source = base64.b64encode(adaptive.encode()).decode()
    return {"source": f"data:image/svg+xml;base64,{source}", "alt": drawing.alt}


def _saved(drawing: Drawing, kind: str) -> bytes:
    data = io.BytesIO()
    options = {"transparent": True, "metadata": {"Date": None}} if kind == "svg" else {"dpi": 160}
    with warnings.catch_warnings():  # letters that matplotlib's font lacks are boxes in a PNG
        warnings.filterwarnings("ignore", "Glyph .* missing")
        drawing.figure.savefig(data, format=kind, **options)
    return data.getvalue()
