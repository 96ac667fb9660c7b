"""One folder per class, on its own or inside folders that name the splits.

<folder>/<class>/…
<folder>/{train,val,test}/<class>/…   or with other names that say which split it is
<folder>/<class>/{train,val,test}/…
"""

import collections
import pathlib
import re
from collections.abc import Callable, Mapping

from noah_jax.data.folders.files import Contents, LeftOut, Rows, described, subfolders, walk
from noah_jax.data.folders.splits import LEAST
from noah_jax.errors import UserError, joined, listed

_Places = dict[pathlib.Path, tuple[str, str]]  # folder → split, class
_WORDS = {
    **dict.fromkeys(("train", "training", "trn", "trainval"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "val"),
    **dict.fromkeys(("test", "testing", "tst"), "test"),
}
_SPLITS = ("train", "val", "test")
_EXPECTED = (
    "Expected at least two folders, one a class, with at least 3 images each; or train/, with val/ "
    "or test/ beside it, which hold these; or lists, a CSV or parquet files: see What you can "
    "bring in configs/README.md"
)


def split_of(name: str) -> str:
    """The split that a name says: "train", "val", "test"; "" if it says none or several."""
    words = re.findall("[A-Z]?[a-z]+|[A-Z]+", name)
    words = [re.sub("(set|data|images|imgs)$", "", word.lower()) for word in words]
    found = {_WORDS[word] for word in words if word in _WORDS}
    return found.pop() if len(found) == 1 else ""


def split_of_file(path: pathlib.Path) -> str:
    """The split that a file's name says, or else the nearest of its folders in `path`."""
    said = (split_of(name) for name in (path.stem, *reversed(path.parts[:-1])))
    return next(filter(None, said), "")


def class_rows(folder: pathlib.Path, name: str, label: int) -> Rows:
    """The images of the class folder `name`, sorted by path; the paths start with `name`."""
    return [(name / path, label) for path in walk(folder / name)[0]]


def read_classes(folder: pathlib.Path) -> Contents:
    """Reads class folders; the place of a class in their sorted names is its label.

    Raises:
      UserError: the folders are not classes, or do not say which split is which.
    """
    root, places, notes = _places(folder)
    names = sorted({name for _, name in places.values()})
    labels = {name: label for label, name in enumerate(names)}
    images, left = walk(folder)
    rows: dict[str, Rows] = {split: [] for split, _ in places.values()}
    below: dict[str, None] = {}  # folders in class folders
    inside = [part.relative_to(folder) for part in places]
    by_path = dict(zip(inside, places.values(), strict=True))
    for image in images:
        place = next((by_path[parent] for parent in image.parents if parent in by_path), None)
        if place:
            rows[place[0]].append((image, labels[place[1]]))
            if image.parent not in by_path:
                below[str(image.parent)] = None
        else:
            left.append(("outside the class folders", str(image)))
    _require_images(folder, rows, names, left)
    if root != folder:
        notes = [f"the classes are in {root.relative_to(folder)}/", *notes]
    if below:
        notes.append(f"images in {joined([*below], most=3)} count as those of the class around")
    return Contents(rows, tuple(names), (*notes, *described(left)))


def _require_images(folder, rows: dict[str, Rows], names: list[str], left: LeftOut) -> None:
    """Raises UserError if there are too few classes, or too few images of one."""
    problems = [f"{len(names)} class folders"] if len(names) < 2 else []
    counts = collections.Counter(label for some in rows.values() for _, label in some)
    least = LEAST if "all" in rows else 1
    problems += [
        f"class {name} has {counts[label]} images"
        for label, name in enumerate(names)
        if counts[label] < least
    ]
    known = {label for _, label in rows.get("train", [])}
    for split, some in rows.items():
        if not some:
            problems.append(f"{split} has no images")
        elif known and not known & {label for _, label in some}:
            shown = joined(sorted({names[label] for _, label in some}))
            trained = joined([names[label] for label in sorted(known)])
            problems.append(f"{split} holds {shown}, none of which is a class of train ({trained})")
    if problems:
        problems += described(left)
        raise UserError(
            f"{folder} cannot be split into train, val and test:{listed(problems)}\n{_EXPECTED}"
        )


# --- Which folders are classes, and of which split -----------------------------------------------


def _places(folder: pathlib.Path) -> tuple[pathlib.Path, _Places, list[str]]:
    """Finds the class folders; returns the folder that they are in, their places, and notes."""
    root = unwrapped(folder, but=split_of)
    tops = {name: unwrapped(root / name) for name in subfolders(root)}
    inner = {name: subfolders(path) for name, path in tops.items()}
    _refuse_copies(root, inner)
    for name, path in tops.items():
        _refuse_copies(path, {each: subfolders(path / each) for each in inner[name]})
    common = set.intersection(*map(set, inner.values())) if inner else set()
    splits = {name: split_of(name) for name in tops if inner[name] and split_of(name)}
    flat = [name for name in tops if not inner[name] and split_of(name)]
    if splits and not (len(splits) == 1 < len(tops) and len(common) > 1):
        chosen = _chosen(root, splits)
        places = {
            tops[name] / each: (split, each)
            for split, name in chosen.items()
            for each in inner[name]
        }
        return root, places, [f"{split} is {name}/" for split, name in chosen.items()]
    if len({split_of(name) for name in flat}) > 1 and 2 * len(flat) >= len(tops):
        raise UserError(
            f"{root} holds the splits {joined(flat)}, but these hold no class folders, and no "
            f"table says the classes.\n{_EXPECTED}"
        )
    below = {split_of(each) for names in inner.values() for each in names}
    if len(tops) > 1 and (len(common) > 1 or ("train" in below and "" not in below)):
        return root, _inside_classes(tops, inner), ["the splits are inside the class folders"]
    return root, {root / name: ("all", name) for name in tops}, []


def unwrapped(folder: pathlib.Path, but: Callable[[str], object] = lambda _: False) -> pathlib.Path:
    """Goes down while there is only one folder, which holds others: archives make such folders.

    Args:
      but: tells names of folders to stop at.
    """
    while len(names := subfolders(folder)) == 1 and subfolders(folder / names[0]):
        if but(names[0]):
            break
        folder = folder / names[0]
    return folder


def _refuse_copies(root: pathlib.Path, inner: Mapping[str, list[str]]) -> None:
    """Raises UserError if a folder holds its neighbours again, as after unzipping a second time."""
    for name, names in inner.items():
        again = sorted({*names} & ({*inner} - {name}))
        if len(again) > 1 or (len(again) == 1 and len(inner) == 2):
            raise UserError(
                f"{root / name} holds {joined(again)} again, which lie beside it: it looks like a "
                "copy, or an archive that was unzipped into its own folder. Move one of the two "
                "away"
            )


def _chosen(root: pathlib.Path, splits: Mapping[str, str]) -> dict[str, str]:
    """Split → its folder; UserError if two claim one, or if there is none to train on."""
    problems = []
    for split in _SPLITS:
        names = [name for name, its in splits.items() if its == split]
        if len(names) > 1:
            problems.append(f"{joined(names)} are all of the split {split}")
    if "train" not in splits.values():
        problems.append(f"there is {joined(list(splits))}, but no folder of the split train")
    if problems:
        raise UserError(f"{root} cannot be split:{listed(problems)}\n{_EXPECTED}")
    named = {split: name for name, split in splits.items()}
    return {split: named[split] for split in _SPLITS if split in named}


def _inside_classes(tops: Mapping[str, pathlib.Path], inner: Mapping[str, list[str]]) -> _Places:
    """The places of splits that lie inside classes; UserError if what lies there is no split."""
    root = next(iter(tops.values())).parent
    names = {each for some in inner.values() for each in some}
    splits = {name: split_of(name) for name in names}
    if bare := [name for name, some in inner.items() if not some]:
        raise UserError(
            f"{root}: {joined(bare)} holds no splits, but the other class folders hold "
            f"{joined(sorted(names))}.\n{_EXPECTED}"
        )
    if not all(splits.values()):
        raise UserError(
            f"{root} holds {joined(list(inner))}, and each of these holds "
            f"{joined(sorted(names))}. Are these the classes, and the folders around them splits? "
            f"Their names do not say so: call them train, val and test.\n{_EXPECTED}"
        )
    return {
        tops[name] / each: (split, name)
        for name, some in inner.items()
        for split, each in _chosen(tops[name], {each: splits[each] for each in some}).items()
    }
