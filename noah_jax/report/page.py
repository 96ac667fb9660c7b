"""A page for people: one HTML file without outside links or scripts, and its figures beside it.

Python gathers what a page says; the templates here, `*.html`, lay it out. They escape all text.
"""

import base64
import csv
import dataclasses
import io
import pathlib
import re
import warnings
from typing import Any

import jinja2

from noah_jax.report.figures import INK, Drawing
from noah_jax.runtime.workdir import make_folder, write_bytes, write_text

_FOLDER = "figures"
_NUMBER = re.compile(r"\d[\d.,]*( ?(%|s|min|MB|h \d+ min|± [\d.]+))?")
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
_templates.tests["numeric"] = lambda cell: isinstance(cell, str) and bool(_NUMBER.fullmatch(cell))


@dataclasses.dataclass(frozen=True)
class Picture:
    """A drawing as a page embeds it.

    Attributes:
      source: a data URI, an SVG.
      alt: what it shows, in words.
    """

    source: str
    alt: str


def write(path: pathlib.Path, template: str, values: dict[str, Any]) -> pathlib.Path:
    """Writes a page.

    Args:
      template: the name of a file in this folder.
      values: what the template asks for.

    Raises:
      UserError: it cannot be written.
    """
    write_text(path, _templates.get_template(template).render(values))
    return path


def picture(drawing: Drawing, folder: pathlib.Path) -> Picture:
    """The drawing for a page in `folder`; in its `figures/` as PNG, SVG and numbers as CSV.

    Raises:
      UserError: these cannot be written.
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
    return Picture(f"data:image/svg+xml;base64,{source}", drawing.alt)


def _saved(drawing: Drawing, kind: str) -> bytes:
    data = io.BytesIO()
    options = {"transparent": True, "metadata": {"Date": None}} if kind == "svg" else {"dpi": 160}
    with warnings.catch_warnings():  # letters that matplotlib's font lacks are boxes in a PNG
        warnings.filterwarnings("ignore", "Glyph .* missing")
        drawing.figure.savefig(data, format=kind, **options)
    return data.getvalue()
