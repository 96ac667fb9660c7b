"""Image files inside a folder."""

import pathlib

from noah_jax.data.images import open_file
from noah_jax.data.loader import Split

Rows = list[tuple[pathlib.Path, int]]  # path inside the task's folder, class

SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".gif", ".ppm", ".tif", ".tiff", ".webp"}


def file_split(
    folder: pathlib.Path, rows: Rows, classes: tuple[int, ...] = (), upright: bool = False
) -> Split:
    """Makes a split of the images `rows` inside `folder`; see `Split` and `images.open_file`."""
    return Split(
        [str(path) for path, _ in rows],
        lambda index: (open_file(folder / rows[index][0], upright), rows[index][1]),
        classes,
        [label for _, label in rows],
        folder,
    )


def encoding(files: dict[str, Rows]) -> str:
    """The image formats, as the files' suffixes say, joined by +."""
    suffixes = {path.suffix.lower() for rows in files.values() for path, _ in rows} & SUFFIXES
    return "+".join(sorted({{".jpg": "jpeg"}.get(name, name[1:]) for name in suffixes}))
