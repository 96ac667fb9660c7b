"""Settings in their frozen form; what can be wrong with them is in validation.py."""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from noah_jax.pretrained import BACKBONES
from noah_jax.space import SearchSpace
from noah_jax.space.genomes import ALL_MODULES, MODULES
from noah_jax.vit import ViTConfig

SEARCHED = ("noah", "random")  # in a supernet
TUNED = ("tuned", *(f"tuned_{name}" for name in MODULES))  # by training one after the other
FOUND = (*SEARCHED, *TUNED, "uniform", "sensitivity")  # methods that find a genome
METHODS = (*FOUND, *ALL_MODULES, "linear", "full")
OBJECTIVES = ("accuracy", "pareto")
SAMPLINGS = ("random", "broad")
AUGMENTATIONS = ("none", "randaugment")
SCHEDULES = {"supernet": "supernet", "tuning": "retrain", "retrain": "retrain"}  # of what trains
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
class RetrainSchedule(Schedule):
    """Of the subnet that was found; see `defaults` for `inherit`."""

    inherit: float


@dataclasses.dataclass(frozen=True)
class SupernetSchedule(Schedule):
    """See `supernet.py`."""

    genomes_per_step: int
    sampling: str


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
    trackers: str
    space: Choices
    baseline: Baseline
    supernet: SupernetSchedule
    retrain: RetrainSchedule
    search: Search

    @property
    def name(self) -> str:
        """Of the run, among those of one configuration."""
        shots = f"-{self.shots}shot" if self.shots else ""
        return f"{self.task}{shots}-{self.method}-s{self.seed}"

    @staticmethod
    def common_name(configs: Sequence["Config"]) -> str:
        """Of several runs together: what they share, and how many others where those are many."""
        parts = []
        for key, several in (("task", "tasks"), ("shots", "shots"), ("method", "methods")):
            values = [str(x) for x in dict.fromkeys(getattr(config, key) for config in configs)]
            if values != ["0"]:
                few = "+".join(values) + ("shot" if key == "shots" else "")
                parts.append(few if len(values) < 4 else f"{len(values)}-{several}")
        seeds = sorted({config.seed for config in configs})
        return "-".join([*parts, f"s{seeds[0]}" if len(seeds) == 1 else f"s{seeds[0]}-{seeds[-1]}"])

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

    @property
    def inherits(self) -> bool:
        """Whether the subnet begins with the supernet's weights."""
        return self.has_supernet and self.retrain.inherit > 0

    def search_space(self) -> SearchSpace:
        """What the method may choose from; a single point for those that choose nothing."""
        vit = ViTConfig.named(self.arch, image_size=0)  # only its width and depth matter here
        if self.method in FOUND:
            sizes = {name: tuple(getattr(self.space, name)) for name in ALL_MODULES}
            return SearchSpace(sizes, tuple(self.space.depths), vit.depth, vit.width)
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


def schedule(config: Config, counts: Mapping[str, int], stage: str) -> tuple[Schedule, int]:
    """How to train in that stage, and on how many images: few can be less than a batch.

    Args:
      counts: of the images of each split.
    """
    schedule, folds = getattr(config, SCHEDULES[stage]), config.search.folds
    if stage == "retrain" and config.inherits:
        rate = schedule.learning_rate * config.retrain.inherit
        schedule = dataclasses.replace(schedule, learning_rate=rate)
    images = counts["trainval" if stage == "retrain" else "train"]
    if stage == "supernet" and folds > 1:
        images = counts["trainval"]
        images -= -(-images // folds)
    if config.shots and images < schedule.batch_size:
        groups = config.supernet.genomes_per_step if stage == "supernet" else 1
        batch_size = max(images // groups, 1) * groups
        schedule = dataclasses.replace(schedule, batch_size=batch_size)
    return schedule, images
