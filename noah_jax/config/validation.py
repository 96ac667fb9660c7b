"""Everything that can be wrong with settings of the right types."""

import math
import os
import pathlib
from collections.abc import Iterator
from operator import attrgetter

from noah_jax.config.settings import (
    AUGMENTATIONS,
    FOUND,
    METHODS,
    OBJECTIVES,
    SAMPLINGS,
    SEARCHED,
    STAGES,
    TUNED,
    Config,
    Search,
)
from noah_jax.errors import UserError, nearest
from noah_jax.pretrained import BACKBONES, NORMALISATIONS
from noah_jax.runtime.trackers import TRACKERS
from noah_jax.space import OPERATORS, SearchSpace
from noah_jax.space.files import genome_file
from noah_jax.space.genomes import ALL_MODULES


def complaints(c: Config) -> Iterator[str]:
    """Everything that is wrong with well-typed settings, a line each."""
    if not c.task:
        yield "task is empty: name it after the colon, as in --config=configs/vtab.py:cifar100"
    if pathlib.PurePath(c.task).name != c.task or c.task == "..":  # it names the workdir, too
        yield f"task={c.task!r}: expected the name of a folder in --config.data_dir, not a path"
    if c.method not in METHODS:
        yield f"method={c.method!r}: expected one of {', '.join(METHODS)}, or several joined by +"
    if c.stage not in (*STAGES, "all"):
        yield f"stage={c.stage!r}: expected all or one of {', '.join(STAGES)}"
    if c.stage == "supernet" and not c.has_supernet:
        yield f"stage={c.stage}: only {' and '.join(SEARCHED)} without a given genome have it"
    if c.stage == "search" and (c.method not in FOUND or c.genome):
        yield f"stage={c.stage}: only {', '.join(FOUND)} without a given genome have it"
    if c.augmentation not in AUGMENTATIONS:
        yield f"augmentation={c.augmentation!r}: expected one of {', '.join(AUGMENTATIONS)}"
    if (c.lists or c.whole_val) and not c.shots:
        yield "lists and whole_val are for few-shot runs: set shots"
    if c.search.folds > 1 and c.shots:
        yield f"search.folds={c.search.folds}: few-shot runs have too few images to cut into folds"
    if c.lists and not os.path.exists(os.path.expanduser(c.lists)):
        yield f"lists={c.lists}: no such file or folder"
    if c.weight_shards > 1 and c.method == "full":
        yield f"weight_shards={c.weight_shards}: method=full has no frozen matrices to cut"
    if c.dtype not in ("auto", "float32", "bfloat16"):
        yield f"dtype={c.dtype!r}: expected auto, float32 or bfloat16"
    if c.attention not in ("auto", "plain"):
        yield f"attention={c.attention!r}: expected auto or plain"
    if c.search.operators not in OPERATORS:
        yield f"search.operators={c.search.operators!r}: expected one of {', '.join(OPERATORS)}"
    if c.search.objective not in OBJECTIVES:
        yield f"search.objective={c.search.objective!r}: expected one of {', '.join(OBJECTIVES)}"
    if unknown := sorted({*filter(None, c.trackers.split("+"))} - {*TRACKERS}):
        yield f"trackers: no {', '.join(unknown)}: expected {' or '.join(TRACKERS)}, joined by +"
    if c.supernet.sampling not in SAMPLINGS:
        yield f"supernet.sampling={c.supernet.sampling!r}: expected one of {', '.join(SAMPLINGS)}"
    if c.normalisation and c.normalisation not in NORMALISATIONS:
        yield f"normalisation={c.normalisation!r}: expected one of {', '.join(NORMALISATIONS)}"
    if c.backbone not in BACKBONES:
        if not c.weights:
            yield (
                f"backbone={c.backbone!r} has no weights of its own"
                f"{nearest(c.backbone, BACKBONES)}: give --config.weights=PATH, "
                f"or one of the names {', '.join(BACKBONES)}"
            )
        elif not c.normalisation:
            yield f"weights need a normalisation: one of {', '.join(NORMALISATIONS)}"
    for key in ("weights", "genome"):
        path = getattr(c, key)
        full = genome_file(path)[0]  # of the weights it is the same
        if path and not os.path.isfile(full):
            found = "a folder, name the file in it" if os.path.isdir(full) else "no such file"
            yield f"{key}={path}: {found}"
    if c.genome and c.method != "noah":
        yield f"genome={c.genome}: only method=noah takes one"
    if c.retrain.inherit and c.genome:
        yield "retrain.inherit needs a supernet, which a genome that is given does without"
    if c.supernet_from and not c.has_supernet:
        yield f"supernet_from={c.supernet_from}: only {' and '.join(SEARCHED)} have a supernet"
    yield from _number_complaints(c)
    candidates = [c.candidates] if c.method in TUNED else []
    for check in (lambda: c.vit(1, "float32"), c.search_space, *candidates):
        try:
            check()
        except ValueError as error:
            yield f"{error}"


def _number_complaints(c: Config):
    for key in ("image_size", "eval_batch_size", "search.population"):
        yield from _at_least(c, key, 1)
    yield from _at_least(c, "supernet.genomes_per_step", 1)
    for key in ("search.parents", "search.genomes_per_call", "weight_shards"):
        yield from _at_least(c, key, 1)
    for key in ("generations", "mutations", "crossovers"):
        yield from _at_least(c, f"search.{key}", 0)
    yield from _at_least(c, "search.folds", 1)
    if not c.baseline.tuned or any(size < 1 for size in c.baseline.tuned):
        yield f"baseline.tuned={c.baseline.tuned}: expected sizes of at least 1"
    if not 0 <= c.search.least_millions <= c.search.budget_millions:
        yield (
            f"search.least_millions={c.search.least_millions}: expected 0 to "
            f"search.budget_millions={c.search.budget_millions}"
        )
    for name in ALL_MODULES:
        if c.method == name:
            yield from _at_least(c, f"baseline.{name}", 1)
    for key in ("seed", "split_seed"):
        if not 0 <= attrgetter(key)(c) < 2**32:
            yield f"{key}={attrgetter(key)(c)}: expected 0 … 2**32 - 1"
    if c.search.mutations + c.search.crossovers > c.search.population:
        yield "search.mutations + search.crossovers exceed search.population"
    if not 0 < c.search.budget_millions < math.inf:
        yield f"search.budget_millions={c.search.budget_millions}: expected a positive number"
    if not c.checkpoint_seconds >= 0:
        yield f"checkpoint_seconds={c.checkpoint_seconds}: expected at least 0"
    keys = "drop_path", "dropout", "search.m_prob", "search.s_prob"
    keys += ("retrain.inherit",)
    for key in keys:
        probability = attrgetter(key)(c)
        if not 0 <= probability <= 1 or (key.startswith("drop") and probability == 1):
            yield f"{key}={probability}: expected a probability (dropping everything is none)"
    for stage in ("supernet", "retrain"):
        schedule = getattr(c, stage)
        for key in ("epochs", "batch_size"):
            yield from _at_least(c, f"{stage}.{key}", 1)
        rate, decay = schedule.learning_rate, schedule.weight_decay
        if not 0 < rate < math.inf or not 0 <= decay < math.inf:
            yield f"{stage}: learning_rate must be positive, weight_decay not negative"
        if not 0 <= schedule.warmup_epochs < schedule.epochs:
            yield (
                f"{stage}.warmup_epochs={schedule.warmup_epochs}: expected fewer than the "
                f"{schedule.epochs} {stage}.epochs"
            )
    if c.supernet.batch_size % max(1, c.supernet.genomes_per_step):
        yield "supernet.batch_size must be divisible by supernet.genomes_per_step"


def _at_least(config: Config, key: str, minimum: int):
    if (value := attrgetter(key)(config)) < minimum:
        yield f"{key}={value}: expected at least {minimum}"


def check_budget(space: SearchSpace, settings: Search) -> None:
    """Raises UserError if no genome of `space` fits the budget."""
    least, most = (int(space.count(genome)) for genome in (space.smallest(), space.largest()))
    if least > settings.budget:
        raise UserError(
            f"search.budget_millions={settings.budget_millions} admits no genome: the smallest of "
            f"this search space has {least / 1e6:.4f} M parameters"
        )
    if most < settings.least:
        raise UserError(
            f"search.least_millions={settings.least_millions} admits no genome: the largest of "
            f"this search space has {most / 1e6:.4f} M parameters"
        )
