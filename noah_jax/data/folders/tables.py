"""Tables of images: a CSV, or the metadata of a Hugging Face image folder; see records.py.

<folder>/<any>.csv                        columns path, label and, if there is one, split
<folder>/{train,val,test}.csv             one for each split; also inside the splits' folders
<folder>/[train/]metadata.{csv,jsonl}     file_name and a column of labels
"""

import os
import pathlib
import re
from collections.abc import Iterator, Sequence

from noah_jax.data.folders.classes import split_of, split_of_file, unwrapped
from noah_jax.data.folders.files import (
    Contents,
    LeftOut,
    described,
    placed,
    sample,
    subfolders,
    walk,
)
from noah_jax.data.folders.lists import INSIDE, leaves, short
from noah_jax.data.folders.records import Record, Table, expected, read_table
from noah_jax.errors import UserError, joined, listed

_METADATA = ("metadata.csv", "metadata.jsonl")
_SUFFIXES = (".csv", ".tsv")
_Placed = tuple[str, pathlib.Path, str]  # split, path inside the folder, label
_Labelled = list[tuple[pathlib.Path, str]]  # path inside the folder, label


def read_tables(place: pathlib.Path, label_column: str = "") -> Contents | None:
    """Reads the table `place`, or those in that folder; None if it holds none with labels.

    Args:
      label_column: the name of the column of labels; empty = one of the usual names.

    Raises:
      UserError: a table or a row of it cannot be read, or there are several tables whose names do
        not say which split each is for.
    """
    if place.is_file():
        table = read_table(place, label_column)
        if table is None:
            raise UserError(expected([place], label_column))
        return _contents(place.parent, [table], [])
    paths = tables_in(place)
    classes = len(subfolders(place)) > 1  # then it may be a table of something else
    found = []
    for path in paths:
        try:
            found.append(read_table(path, label_column))
        except UserError:
            if not classes:
                raise
    tables = [table for table in found if table]
    tables = [table for table in tables if _has_images(table)] or tables * (not classes)
    if not tables:
        return None
    named = [table for table in tables if split_of_file(table.path.relative_to(place))]
    if any(split_of_file(table.path.relative_to(place)) == "train" for table in named):
        tables = named
    images, left = walk(place)
    used = {str(table.path.relative_to(place)) for table in tables}
    left = [(why, path) for why, path in left if path not in used]
    return _contents(place, tables, left, images)


def tables_in(folder: pathlib.Path) -> list[pathlib.Path]:
    """The tables in a folder or, if it has none, in its splits; metadata before others."""
    folder = unwrapped(folder, but=split_of)
    inner = [folder / name for name in subfolders(folder) if split_of(name)]
    for places in ([folder], inner):
        if found := [x for place in places for name in _METADATA if (x := place / name).is_file()]:
            return found
    for places in ([folder], inner):
        files = sorted(path for place in places if place.is_dir() for path in place.iterdir())
        if found := [x for x in files if x.suffix.lower() in _SUFFIXES and x.name[0] != "."]:
            return found
    return []


def numbered(labels: set[str]) -> tuple[dict[str, int], tuple[str, ...]]:
    """Numbers classes: numbers in their order, else names in that of the alphabet.

    Returns:
      Label as written → class, and the names of the classes. "3" and "3.0" are the same number.
    """
    if all(re.fullmatch(r"-?(0|[1-9]\d*)(\.0*)?", label) for label in labels):
        whole = {label: int(label.split(".")[0]) for label in labels}
    else:
        whole = {label: label for label in labels}
    classes = {value: place for place, value in enumerate(sorted({*whole.values()}))}
    return {label: classes[value] for label, value in whole.items()}, tuple(map(str, classes))


def _contents(
    folder: pathlib.Path,
    tables: Sequence[Table],
    left: LeftOut,
    images: Sequence[pathlib.Path] = (),
) -> Contents:
    """Puts the rows of all tables together.

    Args:
      left, images: what is left out in the folder, and the images there.
    """
    names = joined([str(table.path.relative_to(folder)) for table in tables])
    notes = [f"the labels are from {names}"]
    notes += [f"the splits are its column {x.split_column}" for x in tables if x.split_column]
    placed_rows = [row for table in _with_split(folder, tables, names) for row in table]
    rows, twice = _once(placed_rows, f"cannot read {names} in {folder}:")
    if rows.keys() == {"all"} and (by_path := _by_path(rows["all"])):
        rows = by_path
        notes.append("the splits are those in the paths")
    if not any(os.path.isfile(folder / path) for some in rows.values() for path, _ in some):
        raise UserError(
            f"none of the {sum(map(len, rows.values()))} images of {names} is there, e.g. "
            f"{next(iter(rows.values()))[0][0]} in {folder}: paths in a table begin there"
        )
    labels, classes = numbered({label for some in rows.values() for _, label in some})
    numbers = {split: [(path, labels[label]) for path, label in x] for split, x in rows.items()}
    there = {path for some in rows.values() for path, _ in some}
    left = [("not in the table", str(path)) for path in images if path not in there] + left
    left += [("listed twice", str(path)) for path in twice]
    return Contents(numbers, classes, (*notes, *described(left)))


def _has_images(table: Table) -> bool:
    """Tells whether any of a sample of a table's images is there."""
    folder = table.path.parent
    paths = [pathlib.Path(record.path) for record in table.records]
    found = placed(folder, paths, table.path.stem)
    return any(os.path.isfile(folder / path) for path in sample(found))


def _with_split(
    folder: pathlib.Path, tables: Sequence[Table], names: str
) -> Iterator[list[_Placed]]:
    """Yields the rows of each table; UserError if something is wrong with any of them."""
    splits = [split_of_file(table.path.relative_to(folder)) for table in tables]
    if len(tables) > 1 and len({*splits} - {""}) < len(tables):
        raise UserError(
            f"{folder} holds several tables, {names}, whose names do not say which split each is "
            "for: give one of them in the place of the folder"
        )
    several = len(tables) > 1 or tables[0].path.parent != folder
    problems = []
    for table, split in zip(tables, splits, strict=True):
        home = table.path.parent
        problems += [line for record in table.records if (line := _problem(record, home))]
        if not problems:
            yield _placed(folder, table, split if several else "")
    if problems:
        raise UserError(f"cannot read {names} in {folder}:{listed(problems)}")


def _problem(record: Record, home: pathlib.Path) -> str:
    """Says what is wrong with a row of a table in the folder `home`; empty if nothing is."""
    path = record.path.removeprefix(f"{home}/")
    if not path or leaves(path):
        return f"{record.where}: {INSIDE}, got {short(record.path)}"
    if record.label.lower() in ("", "nan"):
        return f"{record.where}: {short(record.path)} has no label, a number or a name"
    if record.split and not split_of(record.split):
        return f"{record.where}: expected train, val or test, got {short(record.split)}"
    return ""


def _placed(folder: pathlib.Path, table: Table, split: str) -> list[_Placed]:
    """Finds the folders that the paths of a table leave out, for each split.

    Args:
      folder: the paths that are returned are inside this.
      split: of the rows that do not say theirs.
    """
    home, found = table.path.parent, []
    groups: dict[str, list[Record]] = {}
    for record in table.records:
        groups.setdefault(split_of(record.split) or split or "all", []).append(record)
    for name, records in groups.items():
        paths = [pathlib.Path(record.path.removeprefix(f"{home}/")) for record in records]
        places = placed(home, paths, table.path.stem, name)
        inside = home.relative_to(folder)
        labels = [record.label for record in records]
        found += [(name, inside / x, label) for x, label in zip(places, labels, strict=True)]
    return found


def _once(rows: Sequence[_Placed], problem: str) -> tuple[dict[str, _Labelled], list[pathlib.Path]]:
    """Takes each image once, by split; returns also those that are listed again.

    Raises:
      UserError: an image has two labels or two splits, or only some images have a split.
    """
    known: dict[pathlib.Path, tuple[str, str]] = {}
    found: dict[str, _Labelled] = {}
    twice, problems = [], []
    for split, path, label in rows:
        if path not in known:
            known[path] = split, label
            found.setdefault(split, []).append((path, label))
        elif known[path] == (split, label):
            twice.append(path)
        else:
            problems.append(f"{path} is {', '.join(known[path])}, and again {split}, {label}")
    if "all" in found and len(found) > 1:
        problems.append(f"{len(found['all'])} images have no split, and others have one")
    if problems:
        raise UserError(f"{problem}{listed(problems)}")
    return found, twice


def _by_path(rows: _Labelled) -> dict[str, _Labelled]:
    """Splits images by the folders in their paths; empty if these do not say all splits."""
    found: dict[str, _Labelled] = {}
    for path, label in rows:
        said = [split for part in path.parts[:-1] if (split := split_of(part))]
        found.setdefault(said[0] if said else "", []).append((path, label))
    return found if "" not in found and "train" in found and len(found) > 1 else {}
