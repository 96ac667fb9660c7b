"""Image files inside a folder: which there are, what else lies there, and how they are opened."""

import collections
import dataclasses
import os
import pathlib
from collections.abc import Callable, Iterator, Sequence

import PIL.Image

from noah_jax.data.images import is_image, open_file
from noah_jax.data.loader import Split
from noah_jax.errors import UserError, joined

Rows = list[tuple[pathlib.Path, int]]  # path inside the task's folder, class
LeftOut = list[tuple[str, str]]  # why, path inside the task's folder

# Files with these suffixes must be images; of others the content decides.
SUFFIXES = {
    *(".jpg", ".jpeg", ".jfif", ".png", ".bmp", ".gif", ".ppm", ".pgm", ".tif", ".tiff", ".webp"),
    *(".avif", ".jp2"),
}
_IMAGE_FOLDERS = ("", "images", "jpg", "data/images", "train", "val", "images/train", "images/val")
# What operating systems and programs leave behind; beside these, everything that begins with a dot.
_JUNK = {
    *("__macosx", "__pycache__", "@eadir", "#recycle", "@recycle", "$recycle.bin", "lost+found"),
    *("system volume information", "thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r"),
}


@dataclasses.dataclass(frozen=True)
class Contents:
    """The images and labels that a folder holds, in whichever layout.

    Attributes:
      rows: split → its images. Besides train, val, test and trainval there can be "all", which is
        not split.
      class_names: in the order of the labels; empty if the classes have no known names.
      notes: what was decided and what is left out, for the user.
      image: opens an image by its row's path, if it is not a file.
      digests: row's path → the sha256 of an image that is not a file.
    """

    rows: dict[str, Rows]
    class_names: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    image: Callable[[pathlib.Path], PIL.Image.Image] | None = None
    digests: dict[pathlib.Path, str] = dataclasses.field(default_factory=dict)


def is_junk(name: str) -> bool:
    """Tells the name of a file or folder that nobody means to be data."""
    return name.startswith(".") or name.lower() in _JUNK


def walk(folder: pathlib.Path) -> tuple[list[pathlib.Path], LeftOut]:
    """Lists the images in a folder and those below it, in order of their paths; follows links.

    Returns:
      Their paths inside the folder, and what is left out.

    Raises:
      UserError: a folder cannot be read.
    """
    images, left = [], []
    for why, path in _walk(folder, ""):
        if why:
            left.append((why, path))
        else:
            images.append(pathlib.Path(path))
    return images, left


def _walk(folder: pathlib.Path, inside: str, above: tuple = ()) -> Iterator[tuple[str, str]]:
    """Yields why a file or folder is left out, empty for an image, and its path."""
    try:
        status = os.stat(folder)
        here = (*above, (status.st_dev, status.st_ino))
        with os.scandir(folder) as found:
            entries = sorted(found, key=lambda entry: entry.name)
    except OSError as error:
        raise UserError(f"cannot read the folder {folder}: {error.strerror}") from error
    for entry in entries:
        path = inside + entry.name
        if is_junk(entry.name):
            yield "hidden" if entry.name.startswith(".") else entry.name, path
        elif _is_folder(entry):
            status = os.stat(entry.path)
            if (status.st_dev, status.st_ino) in here:
                yield "link to a folder above it", path
            else:
                yield from _walk(folder / entry.name, f"{path}/", here)
        else:
            yield _why_no_image(entry), path


def _is_folder(entry: os.DirEntry) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link in a circle
        return False


def _is_file(entry: os.DirEntry) -> bool:
    try:
        return entry.is_file()
    except OSError:
        return False


def _why_no_image(entry: os.DirEntry) -> str:
    suffix = pathlib.PurePath(entry.name).suffix.lower()
    if not _is_file(entry):
        return "broken link" if entry.is_symlink() else "no regular file"
    if suffix in SUFFIXES or is_image(entry.path):
        return ""
    return suffix or "without a suffix"


def subfolders(folder: pathlib.Path) -> list[str]:
    """The names of the folders in `folder`, sorted, without links to folders above it."""
    if not folder.is_dir():
        return []
    with os.scandir(folder) as entries:
        names = sorted(entry.name for entry in entries if _is_folder(entry))
    return [name for name in names if not is_junk(name) and not _leads_up(folder / name)]


def _leads_up(path: pathlib.Path) -> bool:
    return path.is_symlink() and path.parent.resolve().is_relative_to(path.resolve())


def described(left: LeftOut) -> list[str]:
    """Says in a line what is left out: how much of each kind, and an example; may be empty."""
    kinds: dict[str, list[str]] = collections.defaultdict(list)
    for why, path in left:
        kinds[why].append(path)
    parts = [f"{len(paths)} {why} ({joined(paths, most=1)})" for why, paths in kinds.items()]
    return [f"left out: {joined(parts)}"] if parts else []


def file_split(
    folder: pathlib.Path, rows: Rows, classes: Sequence[int] = (), upright: bool = False
) -> Split:
    """Makes a split of the images `rows` inside `folder`; see `Split` and `images.open_file`."""
    return Split(
        [str(path) for path, _ in rows],
        lambda index: (open_file(folder / rows[index][0], upright), rows[index][1]),
        tuple(classes),
        [label for _, label in rows],
        folder,
    )


def sample(paths: Sequence[pathlib.Path]) -> Sequence[pathlib.Path]:
    """A few of the images of a list, evenly spaced, to find out whether and where they lie."""
    return paths[:: len(paths) // 20 + 1]


def placed(folder: pathlib.Path, paths: Sequence[pathlib.Path], *more: str) -> list[pathlib.Path]:
    """Adds to the paths of a list the folder, or the suffix, that it leaves out.

    They are those with which most of a sample of the images are there.

    Args:
      more: names that the folder may have besides usual ones and those that are there.
    """
    places = dict.fromkeys((*_IMAGE_FOLDERS, *more, *subfolders(folder)))

    def there(place, suffix):
        return sum(os.path.isfile(folder / place / f"{path}{suffix}") for path in sample(paths))

    for suffixes in ([""], sorted(SUFFIXES)):
        tries = [(place, suffix) for suffix in suffixes for place in places]
        counts = {x: there(*x) for x in tries}
        if any(counts.values()):
            place, suffix = max(tries, key=counts.__getitem__)  # the first of several
            return [pathlib.Path(place, f"{path}{suffix}") for path in paths]
    return list(paths)


def encoding(rows: dict[str, Rows]) -> str:
    """The image formats, as the files' suffixes say, joined by +."""
    suffixes = {path.suffix.lower() for some in rows.values() for path, _ in some} & SUFFIXES
    names = {".jpg": "jpeg", ".jfif": "jpeg"}
    return "+".join(sorted({names.get(suffix, suffix[1:]) for suffix in suffixes}))
