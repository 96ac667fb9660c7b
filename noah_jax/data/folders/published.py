"""Published few-shot lists, and a few images drawn from a larger set.

<lists>/train_meta.list.num_shot_8.seed_1 …   NOAH's few-shot lists
<lists>/images_variant_train.txt …            FGVC Aircraft's own
<lists>.json                                  CoOp's split_zhou_….json
"""

import os
import pathlib

from noah_jax.data.folders.files import Rows
from noah_jax.data.folders.lists import read_coop, read_fgvc, read_lists
from noah_jax.data.shots import Shots
from noah_jax.data.tasks import Task

_IMAGE_FOLDERS = ("", "images", "jpg", "data/images", "train", "val", "images/train", "images/val")


def drawn(pool: Rows, shots: Shots) -> dict[str, Rows]:
    """Draws a few images of `pool` to train on and a few to validate with.

    A subnet is retrained on the former alone.
    """
    num_classes = len({label for _, label in pool})
    train, val = shots.split(lambda index: pool[index][1], len(pool), num_classes)
    files = {"train": [pool[index] for index in train], "val": [pool[index] for index in val]}
    return files | {"trainval": files["train"]}


def published(folder: pathlib.Path, task: Task | None, shots: Shots) -> dict[str, Rows]:
    """Reads NOAH's published few-shot lists, or draws a few images from CoOp's or FGVC's lists.

    Args:
      folder: holds the images, or a folder with them that the dataset's archive makes.
      task: the task's facts, if it is a benchmark's.

    Raises:
      UserError: `shots.lists` holds none of these lists.
    """
    lists = pathlib.Path(shots.lists).expanduser()
    own = lists / f"{folder.name}.json", lists / folder.name  # where there are several tasks
    lists = next((path for path in own if path.exists()), lists)
    coop, fgvc = lists.suffix == ".json", (lists / "images_variant_train.txt").is_file()
    if coop or fgvc:
        files = read_coop(lists) if coop else read_fgvc(lists)
        files |= {"train": drawn(files["train"], shots)["train"]}
    else:
        val, test = (task or Task(0)).lists
        train = f"train_meta.list.num_shot_{shots.number}.seed_{shots.seed}"
        names = {"train": train, "val": val, "test": test}
        files = read_lists({ours: lists / name for ours, name in names.items()})
    val = files["val"]
    chosen = shots.val(lambda index: val[index][1], len(val), len({label for _, label in val}))
    files |= {"val": [val[index] for index in chosen], "trainval": files["train"]}
    return {name: _placed(folder, rows) for name, rows in files.items()}


def _placed(folder: pathlib.Path, rows: Rows) -> Rows:
    """Adds to the paths the folders that the archives make, which lists leave out."""
    first = rows[0][0] if rows else ""
    places = (place for place in _IMAGE_FOLDERS if os.path.isfile(folder / place / first))
    place = next(places, "")
    return [(place / path, label) for path, label in rows]
