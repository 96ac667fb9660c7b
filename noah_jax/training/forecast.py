"""Forecasts how long a run will compute on this machine, before any of it is compiled.

The operations follow from the settings and the number of images. Their rate is a share of that of a
matrix product here, which takes a fraction of a second to measure.
"""

import dataclasses
import time
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp

from noah_jax.config import derived
from noah_jax.config.fields import walk
from noah_jax.config.settings import TUNED, Config, Schedule
from noah_jax.runtime.durations import duration
from noah_jax.space.genomes import ALL_MODULES, max_sizes
from noah_jax.training.run import Run
from noah_jax.training.step import steps_per_epoch
from noah_jax.vit import ViTConfig, flops

# The shares of that rate that trainings and evaluations reach, as `bench.throughput` has measured
# them with ViT-B/16 at 224 px, on two CPU cores and on one H200. There are no figures of a TPU.
_SHARES = {"cpu": (0.6, 0.77), "gpu": (0.27, 0.41)}
_SIDE = {"cpu": 1024, "gpu": 4096}  # of the product
_SECONDS = 0.2
_LONG_SECONDS = 3600
# What shortens a run. Its recipe is the one of configs/folder.py's docstring.
_SMALL_IMAGES = 96  # pixels, or the next multiple of the patch size
_EPOCHS, _LEARNING_RATE = 12, 2e-3
_FEW: dict[str, Any] = {
    **{"population": 12, "generations": 4, "parents": 4},
    **{"mutations": 6, "crossovers": 4},
}


def forecast(run: Run) -> list[str]:
    """Says how long the whole run computes, and if that is long, which flags make it short.

    Compilation and the reading of images come on top. Small models and images reach a lower share
    on a GPU. Empty where nothing has been measured.
    """
    if jax.default_backend() not in _SHARES:
        return []
    devices = jax.process_count() if jax.default_backend() == "cpu" else run.mesh.size
    rate = _rate(run.vit.dtype) * devices
    seconds = _seconds(run.config, run, rate)
    lines = [f"the whole run computes for about {duration(seconds)} on this machine"]
    short = _shortened(run)
    if seconds > _LONG_SECONDS and short != run.config:
        flags = " ".join(f"--config.{key}={value}" for key, value in _changes(run.config, short))
        lines.append(
            f"for a first look, about {duration(_seconds(short, run, rate))} with --fresh {flags}"
        )
    return lines


def _seconds(config: Config, run: Run, rate: float) -> float:
    share = zip(_operations(config, run), _SHARES[jax.default_backend()], strict=True)
    return sum(count / (part * rate) for count, part in share)


def _operations(config: Config, run: Run) -> tuple[float, float]:
    """Counts the floating-point operations with backward passes, and those without.

    Those of a genome that is still to be found are counted at the space's largest sizes.
    """
    vit = dataclasses.replace(run.vit, image_size=config.image_size)
    counts = {name: len(split) for name, split in run.source.splits.items()}
    sizes, trained, evaluated = run.space.max_sizes, 0, 0
    if config.has_supernet:
        search, folds = config.search, config.search.folds
        if not config.supernet_from:
            trained += folds * _examples(config, counts, "supernet") * _step(config, vit, sizes)
        genomes = min(search.population * (search.generations + 1), run.space.num_genomes)
        held_out = counts["val" if folds == 1 else "trainval"]
        evaluated += genomes * held_out * flops.forward(vit, sizes)
    elif config.method in TUNED:
        tried = [max_sizes(genome) for genome in derived.candidates(config).values()]
        examples = _examples(config, counts, "tuning")
        trained += sum(examples * _step(config, vit, each) for each in tried)
        evaluated += sum(counts["val"] * flops.forward(vit, each) for each in tried)
        sizes = {name: max(each[name] for each in tried) for name in ALL_MODULES}
    examples = _examples(config, counts, "retrain")
    if config.calibrate and counts["trainval"] > counts["train"]:  # else that subnet is there
        examples += _examples(config, counts, "calibration")
        evaluated += counts["val"] * flops.forward(vit, sizes)
    if config.method == "linear":  # nothing is differentiated but the head
        evaluated += examples * flops.forward(vit, sizes)
    else:
        trained += examples * _step(config, vit, sizes)
    tests = [run.source.splits["test"], *run.source.more_tests.values()]
    evaluated += sum(map(len, tests)) * flops.forward(vit, sizes)
    return trained, evaluated


def _examples(config: Config, counts: dict[str, int], stage: str) -> int:
    """Counts the images of all steps of a training."""
    schedule, images = derived.schedule(config, counts, stage)
    steps = schedule.epochs * steps_per_epoch(stage, schedule, images)
    return steps * schedule.batch_size


def _step(config: Config, vit: ViTConfig, sizes: dict[str, int]) -> int:
    """Counts the operations of a training step for one image."""
    forward = flops.forward(vit, sizes)
    if config.method == "full":
        return 3 * forward
    return flops.training_step(vit, sizes) + config.rematerialise * forward


def _rate(dtype: str) -> float:
    """Measures the rate of a large matrix product on one device, in operations a second."""
    side = _SIDE[jax.default_backend()]
    matrix = jnp.full((side, side), 1 / side, dtype)
    product = jax.jit(jnp.matmul)
    product(matrix, matrix).block_until_ready()
    start, done = time.perf_counter(), 0
    while (seconds := time.perf_counter() - start) < _SECONDS:
        product(matrix, matrix).block_until_ready()
        done += 1
    return 2 * side**3 * done / seconds


def _shortened(run: Run) -> Config:
    """The settings with small images, few epochs and few genomes, where there are more."""
    config, patch = run.config, run.vit.patch_size
    size = min(config.image_size, -(-_SMALL_IMAGES // patch) * patch)
    retrain = _few_epochs(config.retrain)
    if config.method == "full":  # that rate is for prompt modules
        retrain = dataclasses.replace(retrain, learning_rate=config.retrain.learning_rate)
    if config.supernet_from:  # which is of these images and epochs
        return dataclasses.replace(config, retrain=retrain)
    config = dataclasses.replace(config, image_size=size, retrain=retrain)
    if not config.has_supernet:
        return config
    search, supernet = config.search, _few_epochs(config.supernet)
    if search.population * (search.generations + 1) > _FEW["population"] * (
        _FEW["generations"] + 1
    ):
        search = dataclasses.replace(search, **_FEW)
    return dataclasses.replace(config, supernet=supernet, search=search)


def _few_epochs(schedule: Schedule) -> Any:
    if schedule.epochs <= _EPOCHS:
        return schedule
    rate = max(schedule.learning_rate, _LEARNING_RATE)
    return dataclasses.replace(schedule, epochs=_EPOCHS, warmup_epochs=1, learning_rate=rate)


def _changes(before: Config, after: Config) -> Iterator[tuple[str, Any]]:
    """Yields the keys in which two settings differ, with the new values."""
    for (key, old, _), (_, new, _) in zip(walk(before), walk(after), strict=True):
        if new != old:
            yield key, new
