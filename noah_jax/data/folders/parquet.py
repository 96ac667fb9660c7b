"""Image datasets of Hugging Face: parquet files, or a name on the hub.

<folder>/[data/][train/]*.parquet     train-00000-of-00002.parquet …; or a single file
hf://owner/name                       by the package `datasets`

The encoded images stay in memory, or in the file that `datasets` maps into it.
"""

import hashlib
import io
import json
import pathlib
from typing import Any

import PIL.Image

from noah_jax.data.folders.classes import split_of, split_of_file
from noah_jax.data.folders.files import Contents, is_junk
from noah_jax.data.folders.tables import class_names, numbered
from noah_jax.data.images import open_image
from noah_jax.errors import UserError, joined

HUB = "hf://"
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

    folder = place.parent if place.is_file() else place
    found = [place] if place.is_file() else sorted(place.rglob("*.parquet"))
    paths = [path.relative_to(folder) for path in found]
    paths = [path for path in paths if not any(map(is_junk, path.parts))]
    if not paths:
        return None
    tables: dict[str, list] = {}
    try:
        for path in paths:
            table = pyarrow.parquet.read_table(folder / path)
            tables.setdefault(split_of_file(path) or "all", []).append(table)
        joint = {split: pyarrow.concat_tables(some) for split, some in tables.items()}
    except (OSError, pyarrow.ArrowException) as error:
        raise UserError(f"cannot read the parquet files in {place}: {error}") from error
    return _contents(joint, str(place), label_column)


def read_hub(name: str, label_column: str = "") -> Contents:
    """Reads an image dataset of the hub, `hf://owner/name`; the package `datasets` keeps it.

    Raises:
      UserError: `datasets` is missing or cannot fetch it, or it has no images or no labels.
    """
    try:
        import datasets
    except ImportError as error:
        raise UserError(f"{name} needs a package: run `pip install datasets`") from error
    try:
        found = datasets.load_dataset(name.removeprefix(HUB).strip("/"))
    except Exception as error:  # it passes on whatever its readers and the network raise
        raise UserError(f"cannot fetch {name}: {type(error).__name__}: {error}") from error
    tables = {split_of(split) or "all": found[split].data.table for split in found}
    return _contents(tables, name, label_column)


def _contents(tables: dict[str, Any], origin: str, label_column: str) -> Contents:
    """Makes the contents of pyarrow tables by split."""
    features = _features(next(iter(tables.values())).schema)
    image, label = _columns(features, origin, label_column)
    notes, rows, columns, digests = [], {}, {}, {}
    values = {split: table.column(label).to_pylist() for split, table in tables.items()}
    for split in [split for split, some in values.items() if {*some} == {_NO_LABEL}]:
        notes.append(f"left out: {split}, whose {len(values.pop(split))} images have no label")
    if missing := [split for split, some in values.items() if None in some or _NO_LABEL in some]:
        raise UserError(f"{origin}: images of {joined(missing)} have no label in {label}")
    names = features[label].get("names")
    labels = {} if names else numbered({str(x) for some in values.values() for x in some})
    for split, some in values.items():
        columns[split] = _encoded(tables[split].column(image), f"{origin}: {split}")
        rows[split] = [
            (pathlib.Path(split, str(row)), value if names else labels[str(value)])
            for row, value in enumerate(some)
        ]
        for (path, _), data in zip(rows[split], columns[split], strict=True):
            digests[path] = hashlib.sha256(data.as_buffer()).hexdigest()

    def open_row(path: pathlib.Path) -> PIL.Image.Image:
        return open_image(io.BytesIO(columns[path.parent.name][int(path.name)].as_py()))

    return Contents(rows, tuple(names or class_names(labels)), tuple(notes), open_row, digests)


def _features(schema) -> dict[str, dict]:
    """What Hugging Face says of each column; empty for a column of which it says nothing."""
    saved = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
    known = saved.get("info", {}).get("features") or {}
    return {name: known.get(name) or {} for name in schema.names}


def _columns(features: dict[str, dict], origin: str, label_column: str) -> tuple[str, str]:
    """The names of the columns of images and of labels."""
    images = [name for name, facts in features.items() if facts.get("_type") == "Image"]
    labels = [name for name, facts in features.items() if facts.get("_type") == "ClassLabel"]
    images = images or [name for name in ("image", "img") if name in features]
    image = "image" if "image" in images else images[0] if len(images) == 1 else None
    for wanted in (label_column, "label"):
        if wanted in features:
            labels = [wanted]
            break
    if label_column and label_column not in features or len(labels) != 1 or image is None:
        raise UserError(
            f"{origin} has the columns {joined(list(features))}: expected one of images, and one "
            "of labels, which --config.label_column=NAME can name"
        )
    return image, labels[0]


def _encoded(column, origin: str):
    """The column of the encoded images, binary."""
    import pyarrow

    if pyarrow.types.is_struct(column.type):
        column = pyarrow.chunked_array([chunk.field("bytes") for chunk in column.chunks])
    if (
        column.null_count
        or not pyarrow.types.is_binary(column.type)
        and not pyarrow.types.is_large_binary(column.type)
    ):
        raise UserError(f"{origin} does not hold the images themselves, but {column.type}")
    return column
