"""Settings in their frozen form, and everything that can be wrong with them."""

import dataclasses
import json
import math
import os
import pathlib
from collections.abc import Iterator
from operator import attrgetter
from typing import Any

import numpy as np

from noah_jax.errors import nearest
from noah_jax.interop import genome_file
from noah_jax.pretrained import BACKBONES, NORMALISATIONS
from noah_jax.space import ALL_MODULES, MODULES, OPERATORS, SearchSpace
from noah_jax.vit import ViTConfig

SEARCHED = ("noah", "random")  # in a supernet
TUNED = ("tuned", *(f"tuned_{name}" for name in MODULES))  # by training one after the other
FOUND = (*SEARCHED, *TUNED, "uniform", "sensitivity")  # methods that find a genome
METHODS = (*FOUND, *ALL_MODULES, "linear", "full")
OBJECTIVES = ("accuracy", "pareto")
SAMPLINGS = ("random", "fair")
AUGMENTATIONS = ("none", "randaugment")
STAGES = ("supernet", "search", "retrain", "report")


@dataclasses.dataclass(frozen=True)
class Schedule:
    """How long and how fast to train."""

    epochs: int
    batch_size: int
    learning_rate: float
    weight_decay: float
    warmup_epochs: int


@dataclasses.dataclass(frozen=True)
class SupernetSchedule(Schedule):
    """See `supernet.py`."""

    genomes_per_step: int
    sampling: str
    sandwich: bool
    distillation: float


@dataclasses.dataclass(frozen=True)
class Search:
    """The evolution (NOAH, section 3.3)."""

    population: int
    generations: int  # after the first, random one
    parents: int
    mutations: int
    crossovers: int
    m_prob: float
    s_prob: float
    budget_millions: float
    least_millions: float
    operators: str
    objective: str
    folds: int
    genomes_per_call: int

    @property
    def budget(self) -> int:
        """Parameters that a genome may have, head excluded."""
        return round(self.budget_millions * 1e6)

    @property
    def least(self) -> int:
        """Parameters that a genome must have, head excluded."""
        return round(self.least_millions * 1e6)

    @property
    def bounds(self) -> tuple[int, int]:
        return self.least, self.budget


@dataclasses.dataclass(frozen=True)
class Baseline:
    """Sizes of the single modules, and those among which the tuned methods choose."""

    vpt: int
    lora: int
    adapter: int
    parallel: int
    tuned: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Choices:
    vpt: tuple[int, ...]
    lora: tuple[int, ...]
    adapter: tuple[int, ...]
    parallel: tuple[int, ...]
    scales: tuple[int, ...]
    depths: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Config:
    """A complete, checked set of settings; the comments in `defaults` say what each means."""

    task: str
    method: str
    stage: str
    seed: int
    backbone: str
    weights: str
    image_size: int
    normalisation: str
    data_dir: str
    split_seed: int
    shots: int
    lists: str
    whole_val: bool
    augmentation: str
    center_crop: bool
    genome: str
    supernet_from: str
    dtype: str
    attention: str
    rematerialise: bool
    drop_path: float
    dropout: float
    eval_batch_size: int
    checkpoint_seconds: float
    weight_shards: int
    space: Choices
    baseline: Baseline
    supernet: SupernetSchedule
    retrain: Schedule
    search: Search

    @property
    def name(self) -> str:
        """Of the run, among those of one configuration."""
        shots = f"-{self.shots}shot" if self.shots else ""
        return f"{self.task}{shots}-{self.method}-s{self.seed}"

    @property
    def arch(self) -> str:
        """The ViT's name: the named backbone's, or `backbone` itself."""
        return BACKBONES[self.backbone].arch if self.backbone in BACKBONES else self.backbone

    def vit(self, num_classes: int, dtype: str) -> ViTConfig:
        return ViTConfig.named(
            self.arch,
            image_size=self.image_size,
            num_classes=num_classes,
            drop_path=self.drop_path,
            dropout=self.dropout,
            dtype=dtype,
            rematerialise=self.rematerialise,
        )

    @property
    def has_supernet(self) -> bool:
        return self.method in SEARCHED and not self.genome

    def search_space(self) -> SearchSpace:
        """What the method may choose from; a single point for those that choose nothing."""
        vit = ViTConfig.named(self.arch, image_size=0)  # only its width and depth matter here
        if self.method in FOUND:
            sizes = {name: tuple(getattr(self.space, name)) for name in ALL_MODULES}
            depths, scales = tuple(self.space.depths), tuple(self.space.scales)
            return SearchSpace(sizes, depths, vit.depth, vit.width, scales)
        sizes = {name: getattr(self.baseline, name) for name in ALL_MODULES if name == self.method}
        return SearchSpace.single(sizes, vit.depth, vit.width)

    def candidates(self) -> dict[str, np.ndarray]:
        """What a tuned method tries: by name the genomes of single modules that fit the budget.

        Raises:
          ValueError: none does.
        """
        vit = ViTConfig.named(self.arch, image_size=0)
        modules = MODULES if self.method == "tuned" else [self.method.removeprefix("tuned_")]
        spaces = {
            f"{name}-{size}": SearchSpace.single({name: size}, vit.depth, vit.width)
            for name in modules
            for size in self.baseline.tuned
        }
        genomes = {name: space.smallest() for name, space in spaces.items()}
        least, most = self.search.bounds
        fit = {
            name: genome
            for name, genome in genomes.items()
            if least <= spaces[name].count(genome) <= most
        }
        if not fit:
            raise ValueError(
                f"none of {', '.join(genomes)} has {least / 1e6:.4f} to {most / 1e6:.4f} M "
                "parameters: change search.least_millions, search.budget_millions, baseline.tuned"
            )
        return fit


# Keys that change how, not what is computed: a run may go on with others.
_FREE_KEYS = (
    "stage",
    "attention",
    "rematerialise",
    "weight_shards",
    "eval_batch_size",
    "checkpoint_seconds",
    "search.genomes_per_call",
    "supernet_from",
)
# What a supernet depends on, besides its own settings.
_SUPERNET_KEYS = (
    *("supernet.", "space.", "search.folds", "task", "seed", "backbone", "image_size"),
    *("normalisation", "split_seed", "shots", "lists", "whole_val", "augmentation", "center_crop"),
    *("dtype", "drop_path", "dropout"),
)


def differences(saved: dict[str, Any], config: Config) -> list[str]:
    """Where a run whose settings were saved as JSON would come to another result, a line each."""
    if config.method in SEARCHED:
        unread = ("baseline.",)
    elif config.method in FOUND:
        unread = ("supernet.",)
    else:
        unread = ("supernet.", "search.", "space.")
    return _differences(saved, config, lambda key: not key.startswith(unread))


def supernet_differences(saved: dict[str, Any], config: Config) -> list[str]:
    """Where that run's supernet would be another one than this run's, a line each."""
    return _differences(saved, config, lambda key: key.startswith(_SUPERNET_KEYS))


def _differences(saved, config, matters) -> list[str]:
    old, new = _flat(saved), _flat(json.loads(json.dumps(dataclasses.asdict(config))))
    return [
        f"{key}: {old.get(key)!r} there, {new.get(key)!r} now"
        for key in sorted(old | new)
        if old.get(key) != new.get(key) and key not in _FREE_KEYS and matters(key)
    ]


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat = {}
    for key, value in values.items():
        nested = isinstance(value, dict)
        flat |= _flat(value, f"{prefix}{key}.") if nested else {prefix + key: value}
    return flat


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
    if c.supernet.sampling not in SAMPLINGS:
        yield f"supernet.sampling={c.supernet.sampling!r}: expected one of {', '.join(SAMPLINGS)}"
    if c.supernet.sandwich and c.supernet.genomes_per_step < 2:
        yield "supernet.sandwich needs at least 2 supernet.genomes_per_step"
    if c.supernet.distillation and not c.supernet.sandwich:
        yield "supernet.distillation is from the largest genome: it needs supernet.sandwich"
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
    keys = "drop_path", "dropout", "search.m_prob", "search.s_prob", "supernet.distillation"
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
