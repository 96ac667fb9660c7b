"""Published few-shot lists, and a few images drawn from a larger set.

<lists>/train_meta.list.num_shot_8.seed_1 …   NOAH's few-shot lists
<lists>/images_variant_train.txt …            FGVC Aircraft's own
<lists>.json                                  CoOp's split_zhou_….json
"""

import pathlib

from noah_jax.data.folders.files import Contents, placed
from noah_jax.data.folders.lists import read_coop, read_fgvc, read_lists
from noah_jax.data.shots import Shots
from noah_jax.data.tasks import Task


def published(folder: pathlib.Path, task: Task | None, shots: Shots) -> Contents:
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
        files, class_names = read_coop(lists) if coop else read_fgvc(lists)
        pool = files["train"]
        classes = len({label for _, label in pool})
        each = shots.first(shots.number, lambda index: pool[index][1], len(pool), classes)
        files["train"] = [pool[index] for rows in each for index in rows]
    else:
        class_names = ()
        val, test = (task or Task(0)).lists
        train = f"train_meta.list.num_shot_{shots.number}.seed_{shots.seed}"
        names = {"train": train, "val": val, "test": test}
        files = read_lists({ours: lists / name for ours, name in names.items()})
    val = files["val"]
    chosen = shots.val(lambda index: val[index][1], len(val), len({label for _, label in val}))
    files |= {"val": [val[index] for index in chosen], "trainval": files["train"]}
    for name, rows in files.items():
        paths = placed(folder, [path for path, _ in rows])
        files[name] = [(path, label) for path, (_, label) in zip(paths, rows, strict=True)]
    known = not task or len(class_names) == task.num_classes
    return Contents(files, class_names if known else ())
