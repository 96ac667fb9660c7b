"""Splits that a folder lacks are drawn from those that it has."""

from collections.abc import Sequence

import numpy as np

from noah_jax.data.folders.files import Contents, Rows
from noah_jax.data.shots import Shots
from noah_jax.errors import UserError, joined, listed

LEAST = 3  # images of a class of which each split gets one
_SPLITS = ("train", "val", "trainval", "test")


def completed(contents: Contents, seed: int) -> tuple[dict[str, Rows], list[str]]:
    """Adds the splits that are missing, and says how.

    A fifth of each class is drawn for the test, and of the rest a fifth for validation. If there is
    a validation set but no test, it becomes the test, since what chose a genome cannot test it.

    Args:
      seed: draws.

    Returns:
      train, val, trainval and test, and notes for the user.

    Raises:
      UserError: there is nothing to train on, or too little of a class.
    """
    rows = dict(contents.rows)
    notes: list[str] = []
    if "trainval" in rows:
        return rows, notes
    if len({label for some in rows.values() for _, label in some}) < 2:
        raise UserError("all images are of one class: expected at least two")
    if not rows.get("all") and not rows.get("train"):
        raise UserError(f"there are images of the split {joined([*rows])}, but none to train on")
    if rows.keys() == {"train", "val"}:
        rows["test"] = rows.pop("val")
        notes.append("val is the test, as there is no test; a fifth of train is for validation")
    if "test" in rows and "val" in rows:
        rows["trainval"] = rows["train"] + rows["val"]
        return {name: rows[name] for name in _SPLITS}, notes
    classes: dict[int, Rows] = {}
    for path, label in rows.get("all", []) + rows.get("train", []):
        classes.setdefault(label, []).append((path, label))
    each = [classes[label] for label in sorted(classes)]
    if "test" in rows:
        return split_classes(each, seed, ("val",)) | {"test": rows["test"]}, notes
    _require_enough(classes, contents.class_names)
    return split_classes(each, seed), notes


def _require_enough(classes: dict[int, Rows], names: Sequence[str]) -> None:
    """Raises UserError if a class has too few images to be split."""
    few = [
        f"class {names[label] if names else label} has {len(rows)} images"
        for label, rows in sorted(classes.items())
        if len(rows) < LEAST
    ]
    if few:
        raise UserError(
            f"{len(few)} of the {len(classes)} classes have fewer than {LEAST} images, so that "
            f"train, val and test cannot each get one:{listed(few)}\nAre these the classes? Labels "
            "are few names or numbers, each of several images"
        )


def split_classes(
    classes: Sequence[Sequence | np.ndarray], seed: int, parts: Sequence[str] = ("test", "val")
) -> dict[str, list]:
    """Draws the `parts` from the examples of each class, a fifth of what is left for each.

    The others are for training. A class of two examples has none in the second part, a class of one
    has none in both.
    """
    rng = np.random.default_rng(seed)
    splits: dict[str, list] = {name: [] for name in _SPLITS}
    for examples in classes:
        rest = [examples[i] for i in rng.permutation(len(examples))]
        for part in parts:
            count = max(1, len(rest) // 5) if len(rest) > 1 else 0
            splits[part] += rest[:count]
            rest = rest[count:]
        splits["train"] += rest
    return splits | {"trainval": splits["train"] + splits["val"]}


def drawn(pool: Rows, shots: Shots, class_names: Sequence[str] = ()) -> dict[str, Rows]:
    """Draws a few images of `pool` to train on and a few to validate with.

    A subnet is retrained on the former alone.

    Raises:
      UserError: a class has too few images.
    """
    labels = sorted({label for _, label in pool})
    places = {label: place for place, label in enumerate(labels)}
    names = [class_names[label] if class_names else str(label) for label in labels]
    train, val = shots.split(lambda index: places[pool[index][1]], len(pool), names)
    files = {"train": [pool[index] for index in train], "val": [pool[index] for index in val]}
    return files | {"trainval": files["train"]}
