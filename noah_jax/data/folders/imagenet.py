"""ImageNet and the test sets of other domains, in the folders that their archives make.

<data_dir>/imagenet/{train,val}/<synset>/…            or, with lists, NOAH's flat val/
<data_dir>/imagenetv2/imagenetv2-matched-frequency-format-val/<class number>/…
<data_dir>/imagenet-sketch/images/<synset>/…
<data_dir>/imagenet-adversarial/imagenet-a/<synset>/…
<data_dir>/imagenet-rendition/imagenet-r/<synset>/…
"""

import pathlib

from noah_jax.data.folders.classes import class_rows
from noah_jax.data.folders.files import Rows, encoding, file_split, subfolders
from noah_jax.data.folders.published import published
from noah_jax.data.folders.splits import drawn
from noah_jax.data.loader import Source, Split
from noah_jax.data.shots import Shots
from noah_jax.data.tasks import IMAGENET
from noah_jax.errors import UserError

_FOLDERS = {
    "imagenet_v2": "imagenetv2/imagenetv2-matched-frequency-format-val",
    "imagenet_sketch": "imagenet-sketch/images",
    "imagenet_a": "imagenet-adversarial/imagenet-a",
    "imagenet_r": "imagenet-rendition/imagenet-r",
}


def open_imagenet(data_dir: pathlib.Path, shots: Shots) -> Source:
    """Opens ImageNet: a few images of `train` to train on and validate with, `val` as the test.

    Those test sets of other domains whose folders are there are opened, too. The label of a class
    is the place of its synset in the sorted list of all. So the folders of A and R, which have 200
    of the synsets, have labels among the same 1,000.

    Args:
      data_dir: the folder that holds `imagenet`.

    Raises:
      UserError: the folders are not ImageNet's.
    """
    folder, task = data_dir / "imagenet", IMAGENET["imagenet"]
    if shots.lists:
        files = published(folder, task, shots).rows
        labels = {path.parent.name: label for path, label in files["train"]}
    else:
        labels = {name: label for label, name in enumerate(subfolders(folder / "train"))}
        pool = _rows(folder, "train", labels)
        files = {"test": _rows(folder, "val", labels)}
    if len(labels) != task.num_classes:
        raise UserError(
            f"{folder} has {len(labels)} classes, expected {task.num_classes} folders in train/"
        )
    if not shots.lists:
        files = drawn(pool, shots) | files
    if not files["test"]:
        raise UserError(
            f"{folder / 'val'} has no class folders: sort the validation images into <synset>/, as "
            f"train/ is, or give NOAH's lists with --config.lists"
        )
    splits = {name: file_split(folder, rows) for name, rows in files.items()}
    domains = {
        name: _domain(data_dir / place, labels)
        for name, place in _FOLDERS.items()
        if (data_dir / place).is_dir()
    }
    class_names = tuple(sorted(labels, key=labels.__getitem__))
    return Source(splits, task.num_classes, encoding(files), domains, class_names=class_names)


def _rows(folder: pathlib.Path, part: str, labels: dict[str, int]) -> Rows:
    """Lists the images in `<folder>/<part>/<class>`: paths inside `folder`, and labels."""
    names = subfolders(folder / part)
    if unknown := [name for name in names if name not in labels]:
        raise UserError(f"{folder / part}: not classes of ImageNet: {', '.join(unknown[:5])}")
    rows = [row for name in names for row in class_rows(folder / part, name, labels[name])]
    return [(part / path, label) for path, label in rows]


def _domain(folder: pathlib.Path, labels: dict[str, int]) -> Split:
    numbers = {str(label): label for label in labels.values()}
    rows = _rows(folder.parent, folder.name, labels | numbers)
    classes = tuple(sorted({label for _, label in rows}))
    return file_split(folder.parent, rows, classes if len(classes) < len(labels) else ())
