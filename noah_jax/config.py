"""Settings: the shared defaults (NOAH's recipe for VTAB-1k), and their checked, frozen form."""

import dataclasses
import itertools
import math
import pathlib
import typing
from operator import attrgetter

from ml_collections import ConfigDict

from noah_jax.errors import UserError, nearest
from noah_jax.pretrained import BACKBONES, NORMALISATIONS
from noah_jax.space import MODULES, OPERATORS, SearchSpace
from noah_jax.vit import ViTConfig

METHODS = ("noah", "vpt", "lora", "adapter", "linear", "full")
AUGMENTATIONS = ("none", "randaugment")
STAGES = ("supernet", "search", "retrain", "report")


def defaults() -> ConfigDict:
    """All keys, at the values of NOAH's published VTAB-1k recipe."""
    schedule = {"batch_size": 64, "weight_decay": 1e-4, "warmup_epochs": 10}
    return ConfigDict(
        {
            "task": "",  # or several joined by "+"
            "method": "noah",  # one of METHODS, or several joined by "+"
            "stage": "all",  # or the last stage to run: supernet, search, retrain; or report
            "seed": 0,
            "seeds": 1,  # how many runs, with seed, seed + 1, …
            "backbone": "vit_b16_in21k",  # a name from pretrained.BACKBONES, or e.g. vit_l16
            "weights": "",  # a file to use instead of the named backbone's own
            "image_size": 224,
            "normalisation": "",  # empty: the backbone's own; "imagenet" is the paper's setting
            "data_dir": "",  # <data_dir>/<task> is a folder of images; else TFDS's data folder
            "split_seed": 0,  # of splits that are made here: digits, one folder per class
            "shots": "0",  # training images a class, drawn with the seed; 0 = all; joined by "+"
            "lists": "",  # published few-shot lists, see folders.py, to use instead of drawing
            "whole_val": False,  # few-shot: validate with all that is left, as the original did
            "augmentation": "none",  # or "randaugment", with erasing, mixup, cutmix, smoothing
            "center_crop": False,  # of images that are not augmented, enlarged by 8/7
            "genome": "",  # a file, JSON or one of NOAH's YAMLs: skips supernet and search
            "dtype": "auto",  # of the computation: bfloat16 on TPU and GPU, float32 on CPU
            "drop_path": 0.1,
            "dropout": 0.1,
            "eval_batch_size": 100,
            "checkpoint_epochs": 50,
            "space": {
                "vpt": (1, 5, 10),
                "lora": (1, 5, 10),
                "adapter": (1, 5, 10),
                "depths": (3, 6, 9, 12),
            },
            "baseline": {"vpt": 100, "lora": 8, "adapter": 8},  # sizes of the single modules
            "supernet": {"epochs": 500, "learning_rate": 5e-4, "genomes_per_step": 1, **schedule},
            "retrain": {"epochs": 100, "learning_rate": 1e-3, **schedule},
            "search": {
                "population": 50,
                "generations": 15,
                "parents": 10,
                "mutations": 25,
                "crossovers": 25,
                "m_prob": 0.2,
                "s_prob": 0.4,
                "budget_millions": 0.64,
                "operators": "block",  # or "paper"
                "genomes_per_call": 4,  # side by side on each device, over eval_batch_size images
            },
        }
    )


def few_shot_defaults() -> ConfigDict:
    """The same at the values of its recipe for few-shot and ImageNet."""
    config = defaults()
    config.shots = "16"
    config.augmentation = "randaugment"
    config.center_crop = True
    config.space.vpt = config.space.lora = config.space.adapter = (5, 10, 50, 100)
    config.supernet.epochs = 300
    config.retrain.learning_rate = 5e-3
    return config


def expand(values: ConfigDict) -> list["Config"]:
    """The runs that a configuration stands for: its tasks × shots × methods × seeds, in that order.

    Raises:
      UserError: one message with all complaints about all of them.
    """
    flat, problems = values.to_dict(), []
    tasks, shots, methods = (
        dict.fromkeys(str(flat.get(key, "")).split("+")) for key in ("task", "shots", "method")
    )
    if not all(number.isdecimal() for number in shots):
        problems.append(f"shots={flat.get('shots')!r}: expected numbers of images joined by +")
        shots = ["0"]
    if type(seeds := flat.pop("seeds", 1)) is not int or seeds < 1:
        problems.append(f"seeds={seeds!r}: expected how many, at least 1")
        seeds = 1
    configs = []
    for task, number, method, i in itertools.product(tasks, shots, methods, range(seeds)):
        run = flat | {"task": task, "shots": int(number), "method": method}
        if type(run.get("seed")) is int:
            run["seed"] += i
        config = _build(Config, run, "", complaints := [])
        problems += complaints or _complaints(config)
        configs.append(config)
    if problems:
        lines = "\n  ".join(dict.fromkeys(problems))
        raise UserError(f"the configuration is not valid:\n  {lines}")
    return configs


def configure(config: ConfigDict, argument: str | None, first: str) -> ConfigDict:
    """Applies what follows the colon of `--config=file.py:<first>,key=value,…` to `config`.

    The first part is the value of the key `first`; values take the type of the default.

    Raises:
      UserError: an unknown key or a value of the wrong type.
    """
    for number, part in enumerate(filter(None, (argument or "").split(","))):
        key, equals, value = part.partition("=")
        if number == 0 and key.split(".")[0] not in config:  # a path may hold a =
            key, value = first, part
        elif not equals:
            raise UserError(f"cannot read {part!r} in the config string: expected key=value")
        try:
            kind = type(attrgetter(key)(config))
            parse = {"True": True, "False": False}.__getitem__ if kind is bool else kind
            config.update_from_flattened_dict({key: parse(value)})
        except (KeyError, AttributeError, TypeError, ValueError):
            raise UserError(
                f"cannot set {key}={value} in the config string: expected one of the keys "
                f"{', '.join(sorted(config))} and a value of its type; more with --config.KEY=VALUE"
            ) from None
    return config


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
    genomes_per_step: int


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
    operators: str
    genomes_per_call: int

    @property
    def budget(self) -> int:
        """Parameters that a genome may have, head excluded."""
        return round(self.budget_millions * 1e6)


@dataclasses.dataclass(frozen=True)
class Sizes:
    vpt: int
    lora: int
    adapter: int


@dataclasses.dataclass(frozen=True)
class Choices:
    vpt: tuple[int, ...]
    lora: tuple[int, ...]
    adapter: tuple[int, ...]
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
    dtype: str
    drop_path: float
    dropout: float
    eval_batch_size: int
    checkpoint_epochs: int
    space: Choices
    baseline: Sizes
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
        )

    def search_space(self) -> SearchSpace:
        """What the method may choose from; a single point for every method but NOAH."""
        vit = ViTConfig.named(self.arch, image_size=0)  # only its width and depth matter here
        if self.method == "noah":
            sizes = {name: tuple(getattr(self.space, name)) for name in MODULES}
            return SearchSpace(sizes, tuple(self.space.depths), vit.depth, vit.width)
        sizes = {name: getattr(self.baseline, name) for name in MODULES if name == self.method}
        return SearchSpace.single(sizes, vit.depth, vit.width)


def _build(cls, values, prefix, problems):
    """An instance of dataclass `cls` from nested mappings; complaints go to `problems`."""
    hints, built = typing.get_type_hints(cls), {}
    problems += [
        f"unknown key {prefix}{key}; known are {', '.join(sorted(hints))}"
        for key in values
        if key not in hints
    ]
    for key, kind in hints.items():
        if key not in values:
            problems.append(f"{prefix}{key} is missing")
            continue
        value = values[key]
        if dataclasses.is_dataclass(kind):
            built[key] = _build(kind, value, f"{prefix}{key}.", problems)
        elif kind is float and type(value) in (int, float):
            built[key] = float(value)
        elif kind in (int, str, bool) and type(value) is kind:
            built[key] = value
        elif typing.get_origin(kind) is tuple and all(type(item) is int for item in value):
            built[key] = tuple(value)
        else:
            expected = kind.__name__ if kind in (int, float, str, bool) else "integers"
            problems.append(f"{prefix}{key}={value!r}: expected {expected}")
    return cls(**built) if len(built) == len(hints) else None


def _complaints(c: Config):
    """Everything that is wrong with well-typed settings, a line each."""
    if not c.task:
        yield "task is empty: name it after the colon, as in --config=configs/vtab.py:cifar100"
    if pathlib.PurePath(c.task).name != c.task:  # it names the workdir, too
        yield f"task={c.task!r}: expected the name of a folder in --config.data_dir, not a path"
    if c.method not in METHODS:
        yield f"method={c.method!r}: expected one of {', '.join(METHODS)}, or several joined by +"
    if c.stage not in (*STAGES, "all"):
        yield f"stage={c.stage!r}: expected all or one of {', '.join(STAGES)}"
    if c.stage in ("supernet", "search") and (c.method != "noah" or c.genome):
        yield f"stage={c.stage}: only method=noah without a given genome has it"
    if c.augmentation not in AUGMENTATIONS:
        yield f"augmentation={c.augmentation!r}: expected one of {', '.join(AUGMENTATIONS)}"
    if (c.lists or c.whole_val) and not c.shots:
        yield "lists and whole_val are for few-shot runs: set shots"
    if c.lists and not pathlib.Path(c.lists).expanduser().exists():
        yield f"lists={c.lists}: no such file or folder"
    if c.dtype not in ("auto", "float32", "bfloat16"):
        yield f"dtype={c.dtype!r}: expected auto, float32 or bfloat16"
    if c.search.operators not in OPERATORS:
        yield f"search.operators={c.search.operators!r}: expected one of {', '.join(OPERATORS)}"
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
        if (path := getattr(c, key)) and not (file := pathlib.Path(path).expanduser()).is_file():
            found = "a folder, name the file in it" if file.is_dir() else "no such file"
            yield f"{key}={path}: {found}"
    if c.genome and c.method != "noah":
        yield f"genome={c.genome}: only method=noah takes one"
    yield from _number_complaints(c)
    for check in (lambda: c.vit(1, "float32"), c.search_space):
        try:
            check()
        except ValueError as error:
            yield f"{error}"


def _number_complaints(c: Config):
    for key in ("image_size", "eval_batch_size", "checkpoint_epochs", "search.population"):
        yield from _at_least(c, key, 1)
    for key in ("search.parents", "search.genomes_per_call", "supernet.genomes_per_step"):
        yield from _at_least(c, key, 1)
    for key in ("generations", "mutations", "crossovers"):
        yield from _at_least(c, f"search.{key}", 0)
    for name in ("vpt", "lora", "adapter"):
        if c.method == name:
            yield from _at_least(c, f"baseline.{name}", 1)
    for key in ("seed", "split_seed"):
        if not 0 <= attrgetter(key)(c) < 2**32:
            yield f"{key}={attrgetter(key)(c)}: expected 0 … 2**32 - 1"
    if c.search.mutations + c.search.crossovers > c.search.population:
        yield "search.mutations + search.crossovers exceed search.population"
    if not 0 < c.search.budget_millions < math.inf:
        yield f"search.budget_millions={c.search.budget_millions}: expected a positive number"
    for key in ("drop_path", "dropout", "search.m_prob", "search.s_prob"):
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
