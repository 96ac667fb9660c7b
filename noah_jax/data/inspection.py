"""Inspects a folder's data before anything starts: each image, and the labels."""

import dataclasses
import os
import pathlib

from noah_jax.data.images import glance
from noah_jax.data.loader import Source, Split, decode, fingerprint
from noah_jax.errors import UserError, joined, listed

_Glance = tuple[str, bool]
_Version = tuple[str, int, int, int]

# Several runs inspect the same test images. A file that is written again has another version.
_GLANCES: dict[_Version | str, _Glance] = {}


def inspect_images(source: Source, origin: pathlib.Path | str) -> Source:
    """Inspects all images and labels of a source, and adds warnings and the fingerprint to it.

    The warnings are about classes that a split lacks, copies across training, validation and
    test, and images with several frames.

    Args:
      source: one whose splits have a `folder` or `digests`.
      origin: the folder, for messages.

    Raises:
      UserError: a split is empty, an image cannot be read, a label is out of range, or an image is
        both trained on and tested with; the message lists everything.
    """
    splits = {**source.splits, **source.more_tests}
    empty = [f"{name} has no images" for name, split in splits.items() if not len(split)]
    outside = [
        f"{name} has label {label}, expected 0 … {source.num_classes - 1}"
        for split in splits.values()
        for name, label in zip(split.names, split.labels, strict=True)
        if not 0 <= label < source.num_classes
    ]
    seen = {name: _glances(split) for name, split in splits.items()}
    broken = [found for glances in seen.values() for found in glances if isinstance(found, str)]
    both = sorted({*source.splits["trainval"].names} & {*source.splits["test"].names})
    shared = [f"{len(both)} images are in trainval and in the test: {joined(both)}"] if both else []
    if problems := listed(empty) + listed(shared) + listed(outside) + listed(broken):
        raise UserError(f"the data in {origin} cannot be used:{problems}")
    read = {name: [x for x in found if not isinstance(x, str)] for name, found in seen.items()}
    digests = {name: [digest for digest, _ in found] for name, found in read.items()}
    warnings = _absent(source) + _copies(splits, digests) + _frames(splits, read)
    content = {
        name: [list(split.names), list(split.labels), digests[name]]
        for name, split in splits.items()
    }
    return dataclasses.replace(source, warnings=tuple(warnings), fingerprint=fingerprint(content))


def _glances(split: Split) -> list[_Glance | str]:
    """The `glance` at each image, or a line for one that cannot be read."""
    folder = split.folder
    versions: list = list(split.digests)  # of images that are not files
    if folder:
        versions = [_version(folder / name) for name in split.names]
    found: list = [version and _GLANCES.get(version) for version in versions]
    new = [index for index, glance in enumerate(found) if glance is None]
    for index, result in zip(new, decode(split, new, glance) if new else (), strict=True):
        found[index] = result if isinstance(result, str) else result[0]
        if not isinstance(result, str) and (version := versions[index]):
            _GLANCES[version] = result[0]
    if split.digests:
        pairs = zip(found, split.digests, strict=True)
        return [x if isinstance(x, str) else (digest, x[1]) for x, digest in pairs]
    return found


def _version(path: pathlib.Path) -> _Version | None:
    """A key that changes with each write to a file, even if its time is reset; None = no file."""
    try:
        status = os.stat(path)
    except (OSError, ValueError):  # a path that no file can have
        return None
    return str(path), status.st_size, status.st_mtime_ns, status.st_ctime_ns


def _absent(source: Source) -> list[str]:
    """Warns of classes that a split does not show."""
    names = source.class_names or range(source.num_classes)
    lines: dict[str, list[str]] = {}
    for name, split in source.splits.items():
        absent = sorted({*range(source.num_classes)} - {*split.labels})
        if absent:
            shown = joined([names[label] for label in absent])
            line = f"no image of {len(absent)} of the {source.num_classes} classes: {shown}"
            lines.setdefault(line, []).append(name)
    return [f"{' and '.join(names)}: {line}" for line, names in lines.items()]


def _copies(splits: dict[str, Split], digests: dict[str, list[str]]) -> list[str]:
    """Warns of validation images that copy training images, and of test images that copy either."""
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


def _frames(splits: dict[str, Split], seen: dict[str, list[_Glance]]) -> list[str]:
    """Warns of images of which more than the first frame would be lost."""
    several = dict.fromkeys(
        example
        for name, split in splits.items()
        for example, (_, more) in zip(split.names, seen[name], strict=True)
        if more
    )
    if not several:
        return []
    return [
        f"{len(several)} images have several frames or pages, only the first of which is used: "
        f"{joined(list(several))}"
    ]
