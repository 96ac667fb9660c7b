"""Reads lists of images: lines `path label`, CoOp's JSON, FGVC Aircraft's own lists.

A list comes from elsewhere, so it may name only files inside the images' folder.
"""

import json
import pathlib
import re

from noah_jax.data.folders.files import Rows
from noah_jax.data.images import require_file
from noah_jax.errors import UserError, listed

_MAX_BYTES = 128 << 20  # about twice what the paths of all of ImageNet take
_INSIDE = "expected a path inside the folder of the images, written with /"


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
    for number, line in enumerate(_lines(path), 1):
        match = re.fullmatch(r"(\S|\S.*\S)\s+(-?\d{1,9})", line, re.ASCII)
        if match and not _leaves(match[1]):
            rows.append((pathlib.Path(match[1]), int(match[2])))
        elif line:
            expected = _INSIDE if match else "expected `path label`"
            problems.append(f"line {number}: {expected}, got {_short(line)}")
    if problems:
        raise UserError(f"cannot read the list {path}:{listed(problems)}")
    return rows


def read_coop(path: pathlib.Path) -> dict[str, Rows]:
    """Reads CoOp's JSON: for each of train, val and test rows of path, label, class name.

    Raises:
      UserError: the file holds something else, or a path leaves the folder.
    """
    files: dict[str, Rows] = {}
    problems = []
    try:
        splits = json.loads(_text(path))
        for name in ("train", "val", "test"):
            files[name] = []
            for row in splits[name]:
                match row:
                    case [str(image), int(label), _] if _leaves(image):
                        problems.append(f"{name}: {_INSIDE}, got {_short(image)}")
                    case [str(image), int(label), _]:
                        files[name].append((pathlib.Path(image), label))
                    case _:
                        raise ValueError(f"{name} has {_short(row)}")
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(
            f"cannot read the lists in {path} ({type(error).__name__}: {error}): expected JSON "
            "with the keys train, val and test, each with rows [path, label, class name]"
        ) from error
    if problems:
        raise UserError(f"cannot read the lists in {path}:{listed(problems)}")
    return files


def read_fgvc(folder: pathlib.Path) -> dict[str, Rows]:
    """Reads FGVC Aircraft's own lists: lines `number variant`; variants.txt numbers the classes.

    Raises:
      UserError: a list is missing, or has an unknown variant or a path that leaves the folder.
    """
    variants = filter(None, _lines(folder / "variants.txt"))
    classes = {name: label for label, name in enumerate(variants)}
    files: dict[str, Rows] = {}
    problems = []
    for split in ("train", "val", "test"):
        files[split] = []
        for line in filter(None, _lines(path := folder / f"images_variant_{split}.txt")):
            number, _, variant = line.partition(" ")
            if variant not in classes:
                problems.append(f"{path}: {_short(line)} has a variant that variants.txt lacks")
            elif _leaves(number):
                problems.append(f"{path}: {_INSIDE}, got {_short(line)}")
            else:
                files[split].append((pathlib.Path(f"{number}.jpg"), classes[variant]))
    if problems:
        raise UserError(f"cannot read the lists:{listed(problems)}")
    return files


def _leaves(path: str) -> bool:
    """Tells a path that could lead out of the folder, on any system."""
    parts = pathlib.PureWindowsPath(path)  # where / and \ both separate
    return bool(parts.anchor) or ".." in parts.parts or "\\" in path


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 200 else f"{text[:200]}…"


def _lines(path: pathlib.Path) -> list[str]:
    return [line.strip(" \t") for line in _text(path).split("\n")]


def _text(path: pathlib.Path) -> str:
    """The text of a list, every line end as one newline, without a byte order mark."""
    try:
        require_file(path, _MAX_BYTES)
        return path.read_text(encoding="utf-8-sig")
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read the list {path}: {error}; expected text in UTF-8") from error
