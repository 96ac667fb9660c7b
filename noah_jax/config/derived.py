"""Derives from the settings of a run its network's shape, search space and schedules."""

import dataclasses
from collections.abc import Mapping

import numpy as np

from noah_jax.config.settings import FOUND, SCHEDULES, Config, Schedule
from noah_jax.pretrained.backbones import arch_of
from noah_jax.space import SearchSpace
from noah_jax.space.genomes import ALL_MODULES, MODULES, count_params
from noah_jax.vit import ViTConfig


def vit(config: Config, num_classes: int, dtype: str) -> ViTConfig:
    """The ViT's shape.

    Raises:
      ValueError: the image size or the heads do not fit it.
    """
    heads = {"heads": config.heads} if config.heads else {}
    return ViTConfig.named(
        arch_of(config.backbone),
        image_size=config.image_size,
        num_classes=num_classes,
        drop_path=config.drop_path,
        dropout=config.dropout,
        dtype=dtype,
        rematerialise=config.rematerialise,
        **heads,
    )


def search_space(config: Config) -> SearchSpace:
    """The space that the method chooses from; a single point if it chooses nothing.

    Raises:
      ValueError: the backbone has no such blocks, or a size is negative.
    """
    blocks, width = _blocks_and_width(config)
    if config.method in FOUND:
        sizes = {name: getattr(config.space, name) for name in ALL_MODULES}
        return SearchSpace(sizes, config.space.depths, blocks, width)
    sizes = {name: getattr(config.baseline, name) for name in ALL_MODULES if name == config.method}
    return SearchSpace.single(sizes, blocks, width)


def candidates(config: Config) -> dict[str, np.ndarray]:
    """The genomes that a tuned method tries, by name: single modules within the budget.

    Each is int32 `[blocks, columns]`.

    Raises:
      ValueError: no genome fits the budget.
    """
    blocks, width = _blocks_and_width(config)
    modules = MODULES if config.method == "tuned" else [config.method.removeprefix("tuned_")]
    genomes = {
        f"{name}-{size}": SearchSpace.single({name: size}, blocks, width).smallest()
        for name in modules
        for size in config.baseline.tuned
    }
    budget = config.search.limits
    fit = {
        name: genome
        for name, genome in genomes.items()
        if budget.admits(count_params(genome, width))
    }
    if not fit:
        raise ValueError(budget.refusal(f"none of {', '.join(genomes)}") + " or baseline.tuned")
    return fit


def _blocks_and_width(config: Config) -> tuple[int, int]:
    shape = ViTConfig.named(arch_of(config.backbone), image_size=0)  # its patches do not matter
    return shape.depth, shape.width


def schedule(config: Config, counts: Mapping[str, int], stage: str) -> tuple[Schedule, int]:
    """The schedule of a stage's training, and the number of its images.

    The batch of a few-shot run is cut to the number of images if there are fewer.

    Args:
      counts: the number of images in each split.
      stage: a key of `SCHEDULES`.
    """
    schedule, folds = getattr(config, SCHEDULES[stage]), config.search.folds
    if stage in ("retrain", "calibration"):
        share = config.retrain.inherit if config.inherits else 1.0
        if config.method == "linear":
            share = config.baseline.linear_rate
            epochs = config.baseline.linear_epochs or schedule.epochs
            schedule = dataclasses.replace(schedule, epochs=epochs)
        schedule = dataclasses.replace(schedule, learning_rate=schedule.learning_rate * share)
    images = counts["trainval" if stage == "retrain" else "train"]
    if stage == "supernet" and folds > 1:
        images = counts["trainval"]
        images -= -(-images // folds)
    if config.shots and images < schedule.batch_size:
        groups = config.supernet.genomes_per_step if stage == "supernet" else 1
        batch_size = max(images // groups, 1) * groups
        schedule = dataclasses.replace(schedule, batch_size=batch_size)
    return schedule, images
