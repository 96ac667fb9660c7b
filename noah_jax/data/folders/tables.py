"""Tables of images: a CSV, or the metadata of a Hugging Face image folder.

<folder>/<any>.csv                        columns path, label and, if there is one, split
<folder>/{train,val,test}.csv             one for each split
<folder>/[train/]metadata.{csv,jsonl}     file_name and a column of labels

Columns are known by the names below. A table without a header has path, label and maybe split, in
this order. Labels are numbers or names.
"""

import csv
import io
import json
import pathlib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from noah_jax.data.folders.classes import split_of, split_of_file
from noah_jax.data.folders.files import Contents, described, is_junk, placed, subfolders, walk
from noah_jax.data.folders.lists import INSIDE, leaves, short, text_of
from noah_jax.errors import UserError, joined, listed

_COLUMNS = {  # as they are without case, spaces and signs
    "path": "path filename file filepath filepaths image imagepath imagename img imgpath",
    "label": "label labels class classname classes category target y",
    "split": "split set subset dataset partition",
}


_Labelled = list[tuple[pathlib.Path, str]]  # path inside the folder, label


class _Record(NamedTuple):
    """An image of a table; `where` is its line, for messages."""

    where: str
    path: str
    label: str
    split: str


def read_tables(place: pathlib.Path, label_column: str = "") -> Contents | None:
    """Reads the table `place`, or those in that folder; None if it holds none with labels.

    Args:
      label_column: the name of the column of labels; empty = one of the usual names.

    Raises:
      UserError: a table or a row of it cannot be read, or there are several tables whose names do
        not say which split each is for.
    """
    folder = place.parent if place.is_file() else place
    paths = [place] if place.is_file() else _in_folder(place)
    tables = {path: found for path in paths if (found := _records(path, label_column))}
    if not tables and (place.is_file() or (paths and label_column)):
        raise UserError(_no_columns(paths, label_column))
    classes = place.is_dir() and len(subfolders(folder)) > 1  # it may be a table of something else
    if not tables or (classes and not any(map(_has_images, tables.items()))):
        return None
    rows = _rows(folder, tables)
    labels = numbered({label for some in rows.values() for _, label in some})
    numbers = {split: [(path, labels[label]) for path, label in x] for split, x in rows.items()}
    notes = [f"the labels are from {_shown(folder, tables)}"]
    if place.is_dir():
        there = {path for some in rows.values() for path, _ in some}
        left = [("not in the table", str(path)) for path in walk(folder)[0] if path not in there]
        left += [("without labels", path.name) for path in paths if path not in tables]
        notes += described(left)
    return Contents(numbers, class_names(labels), tuple(notes))


def _shown(folder: pathlib.Path, tables: Iterable[pathlib.Path]) -> str:
    return joined([str(path.relative_to(folder)) for path in tables])


def _rows(
    folder: pathlib.Path, tables: Mapping[pathlib.Path, list[_Record]]
) -> dict[str, _Labelled]:
    """Puts together the images of all tables, by split; UserError if that cannot be done."""
    names = _shown(folder, tables)
    splits = {path: split_of_file(path.relative_to(folder)) for path in tables}
    if len(tables) > 1 and len({*splits.values()} - {""}) < len(tables):
        raise UserError(
            f"{folder} holds several tables, {names}, whose names do not say which split each is "
            "for: give one of them in the place of the folder"
        )
    several = len(tables) > 1 or next(iter(tables)).parent != folder
    rows: dict[str, _Labelled] = {}
    problems: list[str] = []
    for path, records in tables.items():
        default = splits[path] if several else ""
        for split, some in _by_split(folder, path, records, default, problems).items():
            rows.setdefault(split, []).extend(some)
    if "all" in rows and len(rows) > 1:
        problems.append(f"{len(rows['all'])} images have no split, and others have one")
    if problems:
        raise UserError(f"cannot read {names} in {folder}:{listed(problems)}")
    return rows


def numbered(labels: set[str]) -> dict[str, int]:
    """Label as written → class: numbers in their order, else names in that of the alphabet.

    "3" and "3.0" are the same number.
    """
    if all(re.fullmatch(r"-?\d+(\.0*)?", label) for label in labels):
        numbers = sorted({int(label.split(".")[0]) for label in labels})
        return {label: numbers.index(int(label.split(".")[0])) for label in labels}
    return {label: place for place, label in enumerate(sorted(labels))}


def class_names(labels: dict[str, int]) -> tuple[str, ...]:
    """The names of the classes that `numbered` numbers, in their order."""
    names = {place: label for label, place in sorted(labels.items(), reverse=True)}
    return tuple(names[place] for place in range(len(names)))


def _in_folder(folder: pathlib.Path) -> list[pathlib.Path]:
    """The tables in a folder: the metadata in it or its splits if there is any, else all."""
    inner = [folder / name for name in subfolders(folder) if split_of(name)]
    for places in ([folder], inner):
        for name in ("metadata.csv", "metadata.jsonl"):
            if found := [place / name for place in places if (place / name).is_file()]:
                return found
    files = sorted(folder.iterdir()) if folder.is_dir() else []
    return [
        path for path in files if path.suffix.lower() in (".csv", ".tsv") and not is_junk(path.name)
    ]


def _has_images(table: tuple[pathlib.Path, list[_Record]]) -> bool:
    """Tells whether the first image of a table is there."""
    path, records = table
    (first,) = placed(path.parent, [pathlib.Path(records[0].path)], path.stem)
    return (path.parent / first).is_file()


def _by_split(folder, path, records, default, problems) -> dict[str, _Labelled]:
    """The paths inside `folder` and the labels of a table's images; appends what is wrong."""
    found: dict[str, _Labelled] = {}
    for record in records:
        image = pathlib.Path(record.path)
        if image.is_absolute() and image.is_relative_to(path.parent):
            image = image.relative_to(path.parent)
        split = split_of(record.split) if record.split else default or "all"
        if leaves(str(image)) or not record.path:
            problems.append(f"{record.where}: {INSIDE}, got {short(record.path)}")
        elif not record.label:
            problems.append(f"{record.where}: {short(record.path)} has no label")
        elif not split:
            problems.append(
                f"{record.where}: expected train, val or test, got {short(record.split)}"
            )
        else:
            found.setdefault(split, []).append((image, record.label))
    inside = path.parent.relative_to(folder)
    for split, some in found.items():
        images = placed(path.parent, [image for image, _ in some], path.stem, split)
        labels = [label for _, label in some]
        found[split] = [(inside / x, label) for x, label in zip(images, labels, strict=True)]
    return found


# --- One table -----------------------------------------------------------------------------------


def _records(path: pathlib.Path, label_column: str) -> list[_Record]:
    """Reads the rows of a table; empty if it has no columns of paths and of labels."""
    text = text_of(path)
    try:
        rows = list(_json_lines(text) if path.suffix == ".jsonl" else _csv_lines(text))
    except (csv.Error, ValueError, AttributeError) as error:
        raise UserError(f"cannot read the table {path}: {error}") from error
    if not rows:
        return []
    (_, header), *body = rows
    columns = _columns(header, label_column)
    if columns is None and not label_column and 1 < len(header) < 4:
        if (path.parent / header[0]).is_file():  # the first row is an image's
            columns, body = [0, 1, 2], rows
    if columns is None:
        return []
    return [
        _Record(where, *(row[i].strip() if i is not None and i < len(row) else "" for i in columns))
        for where, row in body
    ]


def _csv_lines(text: str) -> Iterator[tuple[str, list[str]]]:
    """Yields the place and the cells of each row that is not empty."""
    first = text.lstrip().partition("\n")[0]
    delimiter = max(",;\t|", key=first.count)
    reader = csv.reader(io.StringIO(text), delimiter=delimiter, strict=True)
    yield from ((f"line {reader.line_num}", row) for row in reader if any(row))


def _json_lines(text: str) -> Iterator[tuple[str, list[str]]]:
    """Yields a header, and the place and the cells of each line of JSON."""
    rows = [(n, json.loads(line)) for n, line in enumerate(text.split("\n"), 1) if line.strip()]
    header = list(dict.fromkeys(key for _, row in rows for key in row.keys()))
    yield "", header
    for number, row in rows:
        yield f"line {number}", [str(row.get(key, "")) for key in header]


def _columns(header: Sequence[str], label_column: str) -> list[int | None] | None:
    """The places of path, label and split; None if there are no paths or no labels."""
    plain = [re.sub("[^a-z]", "", name.lower()) for name in header]

    def place(kind):
        return next((plain.index(name) for name in _COLUMNS[kind].split() if name in plain), None)

    path, label, split = map(place, _COLUMNS)
    if label_column:
        label = header.index(label_column) if label_column in header else None
    elif label is None and path is not None and len(header) == 2:
        label = 1 - path
    return None if path is None or label is None else [path, label, split]


def _no_columns(paths: Sequence[pathlib.Path], label_column: str) -> str:
    wanted = f"a column {label_column}" if label_column else "columns path and label"
    shown = listed(f"{path}: {short(text_of(path).partition(chr(10))[0])}" for path in paths)
    return f"expected a header with {wanted}, and split if it says the splits:{shown}"
