"""Opens a folder of images, in whichever layout it comes; each other file here reads one."""

import contextlib
import pathlib
import tarfile
import zipfile

import PIL.Image

from noah_jax.data.folders.classes import read_classes
from noah_jax.data.folders.files import Contents, Rows, encoding, file_split
from noah_jax.data.folders.lists import read_plain, read_vtab
from noah_jax.data.folders.parquet import HUB, SUFFIXES, read_hub, read_parquet
from noah_jax.data.folders.published import published
from noah_jax.data.folders.records import expected
from noah_jax.data.folders.splits import completed, drawn
from noah_jax.data.folders.tables import read_tables, tables_in
from noah_jax.data.images import is_image, turned
from noah_jax.data.loader import Source, Split
from noah_jax.data.shots import Shots
from noah_jax.data.tasks import Task
from noah_jax.errors import UserError

_MAX_CLASSES = 100_000  # in one's own images; a mistyped label must not take memory


def open_folder(
    place: pathlib.Path | str,
    task: Task | None,
    split_seed: int,
    shots: Shots | None,
    label_column: str = "",
) -> Source:
    """Opens the images and labels of one task.

    A user's own images are turned upright as their EXIF says. A benchmark's are not, because the
    reference code does not do so.

    Args:
      place: a folder, a CSV or parquet file, or `hf://owner/name`.
      task: the task's facts, if it is a benchmark's.
      split_seed: draws the splits that are not there.
      shots: draws that many of the training images; None = all.
      label_column: the name of the column of labels in a table.

    Raises:
      UserError: what is there cannot be read or split.
    """
    place = place if str(place).startswith(HUB) else pathlib.Path(place)
    contents = _contents(place, task, shots, label_column)
    try:
        files, notes = completed(contents, split_seed)
    except UserError as error:
        raise UserError(f"{place}: {error}") from error
    names = contents.class_names
    found = max((label for _, label in files["trainval"]), default=-1) + 1
    num_classes = len(names) or (task.num_classes if task else min(found, _MAX_CLASSES))
    if shots and not shots.lists:
        files |= drawn(files["trainval"], shots, names)
    splits = {name: _split(contents, place, rows, task is None) for name, rows in files.items()}
    notes = [*contents.notes, *notes]
    formats = encoding(files) or _format(splits["trainval"])
    return Source(splits, num_classes, formats, class_names=tuple(names), notes=tuple(notes))


def _format(split: Split) -> str:
    """The format of the first image, for those whose names do not say it; empty if it is broken."""
    with contextlib.suppress(Exception), split.read(0)[0] as image:
        return (image.format or "").lower()
    return ""


def _contents(
    place: pathlib.Path | str, task: Task | None, shots: Shots | None, label_column: str
) -> Contents:
    """Reads what is at `place`; the first layout counts that it has."""
    if isinstance(place, str):
        if shots and shots.lists:
            raise UserError("lists are for images in a folder, not for those on the hub")
        return read_hub(place, label_column)
    if shots and shots.lists:
        return published(place, task, shots)
    if place.is_file():
        _refuse_others(place)
        read = read_parquet if place.suffix.lower() in SUFFIXES else read_tables
        found = read(place, label_column)
        assert found  # a file is read or refused
        return found
    lists = read_vtab(place, task) or read_plain(place)
    if not lists and (found := read_tables(place, label_column)):
        return found
    try:
        found = lists or read_classes(place)
    except UserError as error:
        if parquet := read_parquet(place, label_column):
            return parquet
        tables = tables_in(place)
        seen = f"\nAs for the tables there: {expected(tables, label_column)}" if tables else ""
        raise UserError(f"{error}{seen}") from error
    if label_column:
        raise UserError(
            f"label_column={label_column}, but {place} has no table or parquet file with images"
        )
    return found


def _refuse_others(path: pathlib.Path) -> None:
    """Raises UserError for a file that is no table."""
    what = ""
    if zipfile.is_zipfile(path) or tarfile.is_tarfile(path):
        what = "an archive or an office document: unpack an archive, save a sheet as CSV"
    elif is_image(path):
        what = "a single image: give the folder of all"
    if what:
        raise UserError(f"{path} is {what}. Expected a folder, a CSV or a parquet file")


def _split(contents: Contents, place: pathlib.Path | str, rows: Rows, upright: bool) -> Split:
    """Makes a split of files, or of images inside one file."""
    image = contents.image
    if image is None:
        assert isinstance(place, pathlib.Path)
        return file_split(place.parent if place.is_file() else place, rows, upright=upright)

    def read(index: int) -> tuple[PIL.Image.Image, int]:
        path, label = rows[index]
        return turned(image(path)) if upright else image(path), label

    return Split(
        [str(path) for path, _ in rows],
        read,
        labels=[label for _, label in rows],
        digests=[contents.digests[path] for path, _ in rows],
    )
