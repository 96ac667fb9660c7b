"""Image datasets of Hugging Face: parquet files, or a name on the hub.

<folder>/[data/][train/]*.parquet     train-00000-of-00002.parquet …; or a single file
hf://owner/name                       by the package `datasets`

The encoded images stay in memory, or in the file that `datasets` maps into it.
"""

import hashlib
import io
import json
import pathlib
import re
from typing import Any

import PIL.Image

from noah_jax.data.folders.classes import split_of, split_of_file
from noah_jax.data.folders.files import Contents, described, walk
from noah_jax.data.folders.records import COLUMNS
from noah_jax.data.folders.tables import numbered
from noah_jax.data.images import open_image
from noah_jax.errors import UserError, joined, nearest

HUB = "hf://"
SUFFIXES = (".parquet", ".pq")
_NO_LABEL = -1  # in the test sets of competitions


def read_parquet(place: pathlib.Path, label_column: str = "") -> Contents | None:
    """Reads the parquet file `place`, or those in and below that folder; None if there are none.

    Args:
      label_column: the name of the column of labels; empty = the only one, or `label`.

    Raises:
      UserError: a file cannot be read, or has no images or no labels.
    """
    import pyarrow
    import pyarrow.parquet

    folder, paths, left = place.parent, [place.name], []
    if place.is_dir():
        images, others = walk(place)
        folder, paths = place, [path for why, path in others if why in SUFFIXES]
        left = [x for x in others if x[0] not in SUFFIXES]
        left += [("beside the parquet files", str(path)) for path in images]
    tables: dict[str, list] = {}
    for path in map(pathlib.Path, paths):
        try:
            table = pyarrow.parquet.read_table(folder / path)
        except (OSError, pyarrow.ArrowException) as error:
            raise UserError(f"cannot read {folder / path}: {error}") from error
        tables.setdefault(split_of_file(path) or "all", []).append(table)
    if "all" in tables and len(tables) > 1:
        raise UserError(
            f"{place}: {len(tables['all'])} files have names that say no split, and others say "
            f"{joined(sorted(tables.keys() - {'all'}))}: name each after its split"
        )
    try:
        joint = {split: pyarrow.concat_tables(some) for split, some in tables.items()}
    except pyarrow.ArrowException as error:
        raise UserError(f"{place}: files of a split have different columns: {error}") from error
    notes = described(left)
    if joint.keys() == {"all"} and (column := _split_column(joint["all"])):
        joint = _by_column(joint["all"], column, str(place))
        notes = [f"the splits are its column {column}", *notes]
    return _contents(joint, str(place), label_column, notes) if joint else None


def _split_column(table: Any) -> str:
    """The name of a table's column of splits; empty if it has none."""
    known = COLUMNS["split"].split()
    names = (name for name in table.column_names if re.sub("[^a-z]", "", name.lower()) in known)
    return next(names, "")


def _by_column(table: Any, column: str, origin: str) -> dict[str, Any]:
    """Splits a table by a column; UserError if that says something else."""
    values = [str(value) for value in table.column(column).to_pylist()]
    splits = [split_of(value) for value in values]
    if odd := sorted({value for value, split in zip(values, splits, strict=True) if not split}):
        raise UserError(f"{origin}: {column} is {joined(odd)}, expected train, val or test")
    return {x: table.filter([x == split for split in splits]) for x in dict.fromkeys(splits)}


def read_hub(name: str, label_column: str = "") -> Contents:
    """Reads an image dataset of the hub, `hf://owner/name`; the package `datasets` keeps it.

    Raises:
      UserError: `datasets` is missing or cannot fetch it, or it has no images or no labels.
    """
    try:
        import datasets
    except ImportError as error:
        raise UserError(f"{name} needs a package: run `pip install datasets`") from error
    repository = name.removeprefix(HUB).removeprefix("datasets/").strip("/")
    try:
        found = datasets.load_dataset(repository)
    except Exception as error:  # it passes on whatever its readers and the network raise
        raise UserError(f"cannot fetch {name}: {type(error).__name__}: {error}") from error
    chosen: dict[str, str] = {}  # split → its name there; one that is called so comes first
    for split in sorted(found, key=lambda split: split_of(split) != split):
        chosen.setdefault(split_of(split) or "all", split)
    if len(chosen) > 1:
        chosen.pop("all", None)
    left = [("split of another kind", split) for split in found if split not in chosen.values()]
    tables = {split: found[there].data.table for split, there in chosen.items()}
    return _contents(tables, name, label_column, described(left))


def _contents(tables: dict[str, Any], origin: str, label_column: str, notes: list[str]) -> Contents:
    """Makes the contents of pyarrow tables by split."""
    columns = {split: _columns(x, split, origin, label_column) for split, x in tables.items()}
    names = _class_names(tables, columns, origin)
    values, rows, encoded, digests = {}, {}, {}, {}
    for split, (image, label) in columns.items():
        found = tables[split].column(label).to_pylist() if label else [None]
        if all(map(_missing, found)) and split not in ("train", "all"):
            notes = [*notes, f"left out: {split}, whose {len(tables[split])} images have no label"]
            continue
        if wrong := [row for row, value in enumerate(found) if not _is_label(value)]:
            raise UserError(
                f"{origin}: {len(wrong)} images of {split} have no label in {label}, a number or a "
                f"name; the first is row {wrong[0]}, with {str(found[wrong[0]])[:80]!r}"
            )
        values[split] = found
        encoded[split] = _encoded(tables[split].column(image), f"{origin}: {split}")
    labels, written = numbered({str(x) for some in values.values() for x in some})
    for split, found in values.items():
        rows[split] = [
            (pathlib.Path(split, str(row)), value if names else labels[str(value)])
            for row, value in enumerate(found)
        ]
        for (path, _), data in zip(rows[split], encoded[split], strict=True):
            digests[path] = hashlib.sha256(data.as_buffer()).hexdigest()

    def open_row(path: pathlib.Path) -> PIL.Image.Image:
        return open_image(io.BytesIO(encoded[path.parent.name][int(path.name)].as_py()))

    return Contents(rows, names or written, tuple(notes), open_row, digests)


def _missing(label: Any) -> bool:
    """Tells what stands for no label: nothing, an empty text, not a number, -1."""
    return label is None or label in ("", _NO_LABEL) or label != label


def _is_label(label: Any) -> bool:
    return isinstance(label, str | int | float) and not _missing(label)


def _features(table: Any) -> dict[str, dict]:
    """Reads Hugging Face's facts about each column; empty where there are none."""
    try:
        saved = json.loads((table.schema.metadata or {}).get(b"huggingface", b"{}"))
        known = saved.get("info", {}).get("features") or {}
        return {name: x if isinstance(x, dict) else {} for name, x in known.items()}
    except (ValueError, AttributeError):
        return {}  # another program has written it


def _class_names(tables: dict[str, Any], columns, origin: str) -> tuple[str, ...]:
    """The names of the classes, as Hugging Face says them; empty if it does not."""
    found = {
        split: tuple(_features(table).get(columns[split][1], {}).get("names") or ())
        for split, table in tables.items()
        if columns[split][1]
    }
    if len({*found.values()}) > 1:
        raise UserError(f"{origin}: {joined(sorted(found))} number the classes in different ways")
    return next(iter(found.values()), ())


def _columns(table: Any, split: str, origin: str, label_column: str) -> tuple[str, str]:
    """The names of the columns of images and of labels; the latter may be empty but in train."""
    features = _features(table)
    kinds = {name: features.get(name, {}).get("_type") for name in table.column_names}
    images = [name for name, kind in kinds.items() if kind == "Image"]
    labels = [name for name, kind in kinds.items() if kind == "ClassLabel"]
    images = images or [name for name in ("image", "img") if name in kinds]
    image = "image" if "image" in images else images[0] if len(images) == 1 else ""
    if wanted := [name for name in (label_column, "label") if name in kinds]:
        labels = wanted[:1]
    unlabelled = not labels and split not in ("train", "all") and not label_column
    lost = label_column and label_column not in kinds
    if not image or lost or (len(labels) != 1 and not unlabelled):
        raise UserError(
            f"{origin}: {split} has the columns {joined([*kinds])}: expected one of images, and "
            "one of labels, which --config.label_column=NAME can name"
            + nearest(label_column, kinds)
        )
    return image, labels[0] if labels else ""


def _encoded(column, origin: str):
    """The column of the encoded images, binary."""
    import pyarrow

    if pyarrow.types.is_struct(column.type) and column.type.get_field_index("bytes") >= 0:
        column = pyarrow.chunked_array([chunk.field("bytes") for chunk in column.chunks])
    types = pyarrow.types
    if not types.is_binary(column.type) and not types.is_large_binary(column.type):
        raise UserError(f"{origin} does not hold the images themselves, but {column.type}")
    if column.null_count:
        row = column.is_null().to_pylist().index(True)
        raise UserError(f"{origin} does not hold the images themselves: row {row} has none")
    return column
