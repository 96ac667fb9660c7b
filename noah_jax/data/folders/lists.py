"""Lists of images: VTAB-1k's, with lines `path label`; CoOp's JSON; FGVC Aircraft's own.

<folder>/train800.txt  val200.txt  train800val200.txt  test.txt   lines `images/… label`
<folder>/train.txt  val.txt  test.txt                             the same, for one's own images
<folder>/class_names.txt                                          a name a line, if it is there

A list comes from elsewhere, so it may name only files inside the images' folder.
"""

import json
import pathlib
import re

from noah_jax.data.folders.files import Contents, Rows, placed, sample
from noah_jax.data.images import require_file
from noah_jax.data.tasks import Task
from noah_jax.errors import UserError, listed

_VTAB = {"train": "train800", "val": "val200", "trainval": "train800val200", "test": "test"}
_LINE = re.compile(r"(\S|\S.*\S)\s+(-?\d{1,9})", re.ASCII)
_MAX_BYTES = 128 << 20  # about twice what the paths of all of ImageNet take
INSIDE = "expected a path inside the folder of the images, written with /"


def read_vtab(folder: pathlib.Path, task: Task | None = None) -> Contents | None:
    """Reads VTAB-1k's lists; None if the folder has none of them.

    Args:
      task: the task's facts, if it is a benchmark's.

    Raises:
      UserError: a list cannot be read, or class_names.txt is that of other classes.
    """
    paths = {split: folder / f"{name}.txt" for split, name in _VTAB.items()}
    if not any(path.is_file() for split, path in paths.items() if split != "test"):
        return None
    return _named(folder, read_lists(paths), task)


def read_plain(folder: pathlib.Path) -> Contents | None:
    """Reads train.txt, val.txt and test.txt with the same lines; None if they are other texts."""
    names = {"train": "train", "valid": "val", "validation": "val", "val": "val", "test": "test"}
    paths = {
        split: folder / f"{name}.txt"
        for name, split in names.items()
        if (folder / f"{name}.txt").is_file()
    }
    if "train" not in paths:
        return None
    try:
        if not any(map(_LINE.fullmatch, lines_of(paths["train"]))):
            return None
    except UserError:  # it is no text
        return None
    rows = read_lists(paths)
    for split, some in rows.items():
        places = placed(folder, [path for path, _ in some], split)
        rows[split] = [(path, label) for path, (_, label) in zip(places, some, strict=True)]
    there = any((folder / path).is_file() for path in sample([path for path, _ in rows["train"]]))
    return _named(folder, rows, None) if there else None


def _named(folder: pathlib.Path, rows: dict[str, Rows], task: Task | None) -> Contents:
    """Adds the names of the classes, if they lie beside the lists."""
    names = folder / "class_names.txt"
    class_names = lines_of(names) if names.is_file() else []
    while class_names and not class_names[-1]:
        class_names.pop()
    found = max((label for some in rows.values() for _, label in some), default=-1) + 1
    expected = task.num_classes if task else max(found, len(class_names))
    if class_names and len(class_names) != expected:
        raise UserError(
            f"{names} has {len(class_names)} lines, but there are {expected} classes: expected the "
            "name of class 0 in the first line, and so on"
        )
    return Contents(rows, tuple(class_names))


def read_lists(paths: dict[str, pathlib.Path]) -> dict[str, Rows]:
    """Reads each list with `read_list`; one UserError says what is wrong in all of them."""
    files: dict[str, Rows] = {}
    problems = []
    for name, path in paths.items():
        try:
            files[name] = read_list(path)
        except UserError as error:
            problems.append(str(error))
    if problems:
        raise UserError("\n".join(problems))
    return files


def read_list(path: pathlib.Path) -> Rows:
    """Reads lines `images/… label`; the path may contain spaces.

    Raises:
      UserError: there is no such list, or a line is not a path inside the folder and a label.
    """
    rows, problems = [], []
    for number, line in enumerate(lines_of(path), 1):
        match = _LINE.fullmatch(line)
        if match and not leaves(match[1]):
            rows.append((pathlib.Path(match[1]), int(match[2])))
        elif line:
            expected = INSIDE if match else "expected `path label`"
            problems.append(f"line {number}: {expected}, got {short(line)}")
    if problems:
        raise UserError(f"cannot read the list {path}:{listed(problems)}")
    return rows


def read_coop(path: pathlib.Path) -> tuple[dict[str, Rows], tuple[str, ...]]:
    """Reads CoOp's JSON: for each of train, val and test rows of path, label, class name.

    Returns:
      The rows of each split, and the names of the classes, empty unless all are known.

    Raises:
      UserError: the file holds something else, or a path leaves the folder.
    """
    files: dict[str, Rows] = {}
    names: dict[int, str] = {}
    problems = []
    try:
        splits = json.loads(text_of(path))
        for name in ("train", "val", "test"):
            files[name] = []
            for row in splits[name]:
                match row:
                    case [str(image), int(label), _] if leaves(image):
                        problems.append(f"{name}: {INSIDE}, got {short(image)}")
                    case [str(image), int(label), class_name]:
                        files[name].append((pathlib.Path(image), label))
                        names[label] = str(class_name)
                    case _:
                        raise ValueError(f"{name} has {short(row)}")
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(
            f"cannot read the lists in {path} ({type(error).__name__}: {error}): expected JSON "
            "with the keys train, val and test, each with rows [path, label, class name]"
        ) from error
    if problems:
        raise UserError(f"cannot read the lists in {path}:{listed(problems)}")
    known = names.keys() == {*range(len(names))}
    return files, tuple(names[label] for label in range(len(names))) if known else ()


def read_fgvc(folder: pathlib.Path) -> tuple[dict[str, Rows], tuple[str, ...]]:
    """Reads FGVC Aircraft's own lists: lines `number variant`; variants.txt numbers the classes.

    Returns:
      The rows of each split, and the names of the classes.

    Raises:
      UserError: a list is missing, or has an unknown variant or a path that leaves the folder.
    """
    variants = filter(None, lines_of(folder / "variants.txt"))
    classes = {name: label for label, name in enumerate(variants)}
    files: dict[str, Rows] = {}
    problems = []
    for split in ("train", "val", "test"):
        files[split] = []
        for line in filter(None, lines_of(path := folder / f"images_variant_{split}.txt")):
            number, _, variant = line.partition(" ")
            if variant not in classes:
                problems.append(f"{path}: {short(line)} has a variant that variants.txt lacks")
            elif leaves(number):
                problems.append(f"{path}: {INSIDE}, got {short(line)}")
            else:
                files[split].append((pathlib.Path(f"{number}.jpg"), classes[variant]))
    if problems:
        raise UserError(f"cannot read the lists:{listed(problems)}")
    return files, tuple(classes)


def leaves(path: str) -> bool:
    """Tells a path that could lead out of the folder, on any system."""
    parts = pathlib.PureWindowsPath(path)  # where / and \ both separate
    return bool(parts.anchor) or ".." in parts.parts or "\\" in path


def short(value: object) -> str:
    """Shows a value of a list in a message."""
    text = repr(value)
    return text if len(text) <= 200 else f"{text[:200]}…"


def lines_of(path: pathlib.Path) -> list[str]:
    """The lines of a list, without spaces around them; see `text_of`."""
    return [line.strip(" \t") for line in text_of(path).split("\n")]


def text_of(path: pathlib.Path) -> str:
    """The text of a list, every line end as one newline, without a byte order mark.

    Raises:
      UserError: it is not there, too large, or not in UTF-8.
    """
    try:
        require_file(path, _MAX_BYTES)
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"cannot read {path}: {error}; expected text in UTF-8") from error
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read {path}: {error}") from error
