"""Reads one table of images: its columns of paths, labels and splits.

Columns are known by the names below. A table without a header has path, label and maybe split, in
this order. A column whose values all say a split is one of splits, whatever its name.
"""

import csv
import dataclasses
import io
import json
import os
import pathlib
import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from noah_jax.data.folders.classes import split_of
from noah_jax.data.folders.lists import short, text_of
from noah_jax.errors import UserError, listed

COLUMNS = {  # as they are without case, spaces and signs
    "path": "path filename file filepath filepaths image imagepath imagename img imgpath imageid "
    "id",
    "label": "label labels class classname classes category target y",
    "split": "split set subset dataset partition usage",
}
_Row = tuple[str, list[str]]  # its place, for messages, and its cells


class Record(NamedTuple):
    """An image of a table; `where` is its line, for messages."""

    where: str
    path: str
    label: str
    split: str


@dataclasses.dataclass(frozen=True)
class Table:
    """A table of images.

    Attributes:
      split_column: the name of its column of splits; empty if it has none.
    """

    path: pathlib.Path
    records: list[Record]
    split_column: str = ""


def read_table(path: pathlib.Path, label_column: str = "") -> Table | None:
    """Reads a table; None if it has no columns of paths and of labels, or no rows.

    Raises:
      UserError: it is no text, or a row cannot be read.
    """
    text = text_of(path)
    try:
        rows = list(_json_lines(text) if path.suffix == ".jsonl" else _csv_lines(text))
    except (csv.Error, ValueError, AttributeError, RecursionError) as error:
        raise UserError(f"cannot read the table {path}: {error}") from error
    if len(rows) < 2:
        if rows and _columns(rows[0][1], label_column):
            raise UserError(f"{path} has no rows below its header")
        return None
    (_, header), *body = rows
    columns = _columns(header, label_column)
    if columns is None and not label_column and 1 < len(header) < 4:
        if os.path.isfile(path.parent / header[0]):  # the first row is an image's
            columns, body = [0, 1, 2 if len(header) == 3 else None], rows
            header = ["1", "2", "3"][: len(header)]
    if columns is None:
        return None
    if columns[2] is None:
        columns[2] = _splits(body, {*columns})
    records = [
        Record(where, *("" if i is None else row[i].strip() for i in columns))
        for where, row in _even(path, body, len(header))
    ]
    return Table(path, records, "" if columns[2] is None else header[columns[2]])


def expected(paths: Sequence[pathlib.Path], label_column: str) -> str:
    """Says which columns a table must have, and which those at `paths` have."""
    wanted = f"a column {label_column}" if label_column else "columns path and label"
    shown = listed(f"{path}: {short(text_of(path).partition(chr(10))[0])}" for path in paths)
    return f"expected a header with {wanted}, and split if it says the splits:{shown}"


def _csv_lines(text: str) -> Iterator[_Row]:
    """Yields the place and the cells of each row that is not empty."""
    first = text.lstrip().partition("\n")[0]
    delimiter = max(",;\t|", key=first.count)
    reader = csv.reader(io.StringIO(text), delimiter=delimiter, strict=True)
    yield from ((f"line {reader.line_num}", row) for row in reader if any(row))


def _json_lines(text: str) -> Iterator[_Row]:
    """Yields a header, and the place and the cells of each line of JSON."""
    rows = [(n, json.loads(line)) for n, line in enumerate(text.split("\n"), 1) if line.strip()]
    header = list(dict.fromkeys(key for _, row in rows for key in row.keys()))
    yield "", header
    for number, row in rows:
        cells = ["" if row.get(key) is None else row[key] for key in header]
        yield (
            f"line {number}",
            # What is neither a number nor a text is no label.
            [str(x) if isinstance(x, str | int | float) else "" for x in cells],
        )


def _even(path: pathlib.Path, rows: Sequence[_Row], width: int) -> Iterator[_Row]:
    """Yields rows with as many cells as the header; UserError if one has more."""
    longer = [
        f"{where} has {len(row)} cells, expected {width}"
        for where, row in rows
        if any(row[width:])  # a delimiter at the end of each line does no harm
    ]
    if longer:
        raise UserError(
            f"cannot read the table {path}: a cell with a delimiter inside is put in quotes:"
            f"{listed(longer)}"
        )
    yield from ((where, row[:width] + [""] * (width - len(row))) for where, row in rows)


def _columns(header: Sequence[str], label_column: str) -> list[int | None] | None:
    """The places of path, label and split; None if there are no paths or no labels."""
    plain = [re.sub("[^a-z]", "", name.lower()) for name in header]

    def place(kind):
        return next((plain.index(name) for name in COLUMNS[kind].split() if name in plain), None)

    path, label, split = map(place, COLUMNS)
    if label_column:
        label = header.index(label_column) if label_column in header else None
    elif label is None and path is not None and len(header) == 2 and plain[path][-2:] != "id":
        label = 1 - path
    return None if path is None or label is None else [path, label, split]


def _splits(rows: Sequence[_Row], taken: set[int | None]) -> int | None:
    """The place of another column whose values all say a split, and not all the same."""
    width = max(len(row) for _, row in rows)
    for i in [i for i in range(width) if i not in taken]:
        values = {row[i] if i < len(row) else "" for _, row in rows}
        if len(values) > 1 and all(map(split_of, values)):
            return i
    return None
