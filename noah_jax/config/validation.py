"""Checks settings of the right types: each within its bounds, and several together."""

import os
import pathlib
from collections.abc import Iterator

from noah_jax.config import derived, fields
from noah_jax.config.settings import FOUND, SEARCHED, TUNED, Config
from noah_jax.errors import nearest
from noah_jax.pretrained import BACKBONES, NORMALISATIONS
from noah_jax.space.files import genome_file
from noah_jax.space.genomes import ALL_MODULES


def complaints(config: Config) -> Iterator[str]:
    """Yields a line for each thing that is wrong: first single values, then several together."""
    yield from fields.complaints(config)
    for check in (
        *(_task, _stage, _few_shot, _weights, _files, _genome, _sharding, _baseline),
        *(_schedules, _search, _calibration, _shapes),
    ):
        yield from check(config)


def _task(c: Config):
    """The task must be the name of a folder, since it becomes a part of the workdir's name."""
    if not c.task:
        yield "task is empty: name it after the colon, as in --config=configs/vtab.py:cifar100"
    if pathlib.PurePath(c.task).name != c.task or c.task == "..":
        yield f"task={c.task!r}: expected the name of a folder in --config.data_dir, not a path"


def _stage(c: Config):
    """The method must have the stage that is to be the last."""
    if c.stage == "supernet" and not c.has_supernet:
        yield f"stage={c.stage}: only {' and '.join(SEARCHED)} without a given genome have it"
    if c.stage == "search" and (c.method not in FOUND or c.genome):
        yield f"stage={c.stage}: only {', '.join(FOUND)} without a given genome have it"


def _few_shot(c: Config):
    """Few-shot runs must have no folds, and other runs no lists."""
    if (c.lists or c.whole_val) and not c.shots:
        yield "lists and whole_val are for few-shot runs: set shots"
    if c.search.folds > 1 and c.shots:
        yield f"search.folds={c.search.folds}: few-shot runs have too few images to cut into folds"


def _weights(c: Config):
    """The backbone must have weights and a normalisation."""
    if c.backbone in BACKBONES:
        return
    if not c.weights:
        yield (
            f"backbone={c.backbone!r} has no weights of its own{nearest(c.backbone, BACKBONES)}: "
            f"give --config.weights=PATH, or one of the names {', '.join(BACKBONES)}"
        )
    elif not c.normalisation:
        yield f"weights need a normalisation: one of {', '.join(NORMALISATIONS)}"


def _files(c: Config):
    """Files that are named must exist."""
    if c.lists and not os.path.exists(os.path.expanduser(c.lists)):
        yield f"lists={c.lists}: no such file or folder"
    if c.weights and not os.path.exists(os.path.expanduser(c.weights)):
        yield f"weights={c.weights}: no such file or folder"
    full = genome_file(c.genome)[0]  # without the point of a front
    if c.genome and not os.path.isfile(full):
        found = "a folder, name the file in it" if os.path.isdir(full) else "no such file"
        yield f"genome={c.genome}: {found}"


def _genome(c: Config):
    """A given genome, or a supernet of another run, must be one that the method uses."""
    if c.genome and c.method != "noah":
        yield f"genome={c.genome}: only method=noah takes one"
    if c.retrain.inherit and c.genome:
        yield "retrain.inherit needs a supernet, but a run with a given genome has none"
    if c.supernet_from and not c.has_supernet:
        yield f"supernet_from={c.supernet_from}: only {' and '.join(SEARCHED)} have a supernet"


def _sharding(c: Config):
    """Weights that are to be cut must be frozen."""
    if c.weight_shards > 1 and c.method == "full":
        yield f"weight_shards={c.weight_shards}: method=full has no frozen matrices to cut"


def _baseline(c: Config):
    """The single module of the method must have a size, and tuning must have sizes to try."""
    if not c.baseline.tuned:
        yield "baseline.tuned=(): expected sizes of at least 1"
    if c.method in ALL_MODULES and (size := getattr(c.baseline, c.method)) < 1:
        yield f"baseline.{c.method}={size}: expected at least 1"


def _schedules(c: Config):
    """The warm-up must end before the training, and genomes must share a batch in equal parts."""
    for stage in ("supernet", "retrain"):
        schedule = getattr(c, stage)
        if schedule.warmup_epochs >= schedule.epochs:
            yield (
                f"{stage}.warmup_epochs={schedule.warmup_epochs}: expected fewer than the "
                f"{schedule.epochs} {stage}.epochs"
            )
    if c.method == "linear" and 0 < c.baseline.linear_epochs <= c.retrain.warmup_epochs:
        yield (
            f"retrain.warmup_epochs={c.retrain.warmup_epochs}: expected fewer than the "
            f"{c.baseline.linear_epochs} baseline.linear_epochs"
        )
    if c.supernet.batch_size % max(1, c.supernet.genomes_per_step):
        yield "supernet.batch_size must be divisible by supernet.genomes_per_step"


def _search(c: Config):
    """A generation must have room for the children; the budget's bounds must be in order."""
    if c.search.mutations + c.search.crossovers > c.search.population:
        yield "search.mutations + search.crossovers exceed search.population"
    if c.search.least_millions > c.search.budget_millions:
        yield (
            f"search.least_millions={c.search.least_millions}: expected at most "
            f"search.budget_millions={c.search.budget_millions}"
        )


def _calibration(c: Config):
    """The images that a temperature is fitted on must be unseen."""
    if c.calibrate and c.inherits and c.search.folds > 1:
        yield (
            f"calibrate needs weights that have not seen val, but with search.folds="
            f"{c.search.folds} supernets have: set retrain.inherit=0 or search.folds=1"
        )


def _shapes(c: Config):
    """The backbone must take the image size and the search space, and the budget some genome."""
    sized = c.search.least_millions <= c.search.budget_millions and not any(
        map(fields.complaints, (c.space, c.baseline, c.search))
    )
    try:
        derived.vit(c, 1, "float32")
    except ValueError as error:
        yield f"{error}"
    try:
        space = derived.search_space(c)
        if sized and c.method in SEARCHED and not c.genome:
            yield from filter(None, [space.unreachable(c.search.limits)])
        if sized and c.method in TUNED:
            derived.candidates(c)
    except ValueError as error:
        yield f"{error}"
