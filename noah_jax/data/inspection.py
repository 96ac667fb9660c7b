"""What a folder's data is looked at for, before anything starts: each image, and the labels."""

import dataclasses
import pathlib

from noah_jax.data.images import glance
from noah_jax.data.loader import Source, Split, decode, fingerprint
from noah_jax.errors import UserError, joined, listed

_Seen = dict[tuple[pathlib.Path, str], tuple[str, bool]]

_SEEN: _Seen = {}  # what `glance` said of the images that were looked at in this process


def inspect_images(source: Source, origin: pathlib.Path) -> Source:
    """The source with warnings and fingerprint, if its images open and its labels are in range.

    It is warned of classes that are not trained on, of copies among what is trained on and tested
    with, and of images with several frames.

    Args:
      origin: the folder; it and the image's name say which images are known already.

    Raises:
      UserError: all that is wrong; also if images to train on are in the test.
    """
    splits = {**source.splits, **source.more_tests}
    empty = [f"{name} has no images" for name, split in splits.items() if not len(split)]
    outside = [
        f"{name} has label {label}, expected 0 … {source.num_classes - 1}"
        for split in splits.values()
        for name, label in zip(split.names, split.labels, strict=True)
        if not 0 <= label < source.num_classes
    ]
    broken = [line for split in splits.values() for line in _look(split, origin)]
    both = sorted({*source.splits["trainval"].names} & {*source.splits["test"].names})
    shared = [f"{len(both)} images are in trainval and in the test: {joined(both)}"] if both else []
    if problems := listed(empty) + listed(shared) + listed(outside) + listed(broken):
        raise UserError(f"the data in {origin} cannot be used:{problems}")
    seen = {
        name: [_SEEN[origin, example] for example in split.names] for name, split in splits.items()
    }
    digests = {name: [digest for digest, _ in found] for name, found in seen.items()}
    warnings = _absent(source) + _copies(splits, digests) + _frames(splits, seen)
    content = {
        name: [list(split.names), list(split.labels), digests[name]]
        for name, split in splits.items()
    }
    return dataclasses.replace(source, warnings=tuple(warnings), fingerprint=fingerprint(content))


def _look(split: Split, origin: pathlib.Path) -> list[str]:
    """Notes in `_SEEN` what is new; returns a line for each image that cannot be read."""
    new = [index for index, name in enumerate(split.names) if (origin, name) not in _SEEN]
    broken = []
    for index, result in zip(new, decode(split, new, glance) if new else (), strict=True):
        if isinstance(result, str):
            broken.append(result)
        else:
            _SEEN[origin, split.names[index]], _ = result
    return broken


def _absent(source: Source) -> list[str]:
    """Of classes that no image to train with shows."""
    lines = {}
    for name in ("train", "trainval"):
        absent = sorted({*range(source.num_classes)} - {*source.splits[name].labels})
        if absent:
            line = (
                f"no image of {len(absent)} of the {source.num_classes} classes: {joined(absent)}"
            )
            lines.setdefault(line, []).append(name)
    return [f"{' and '.join(names)}: {line}" for line, names in lines.items()]


def _copies(splits: dict[str, Split], digests: dict[str, list[str]]) -> list[str]:
    """Of images to validate or test with whose files are also among those to train with."""
    lines = []
    for name in [name for name in splits if name not in ("train", "trainval")]:
        others = ("train",) if name == "val" else ("train", "val", "trainval")
        known = {
            digest: example
            for other in others
            for example, digest in zip(splits[other].names, digests[other], strict=True)
        }
        pairs = [
            f"{example} = {known[digest]}"
            for example, digest in zip(splits[name].names, digests[name], strict=True)
            if digest in known
        ]
        if pairs:
            use = "train" if name == "val" else "train or validate"
            lines.append(
                f"{name}: {len(pairs)} of the {len(splits[name])} images are copies of images to "
                f"{use} with: {joined(pairs)}"
            )
    return lines


def _frames(splits: dict[str, Split], seen: dict[str, list[tuple[str, bool]]]) -> list[str]:
    several = dict.fromkeys(
        example
        for name, split in splits.items()
        for example, (_, more) in zip(split.names, seen[name], strict=True)
        if more
    )
    if not several:
        return []
    return [
        f"{len(several)} images have several frames or pages, of which the first is used: "
        f"{joined(list(several))}"
    ]
