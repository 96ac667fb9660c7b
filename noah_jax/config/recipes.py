"""Settings as users give them: the defaults (NOAH's recipes), what changes them, which runs."""

import dataclasses
import itertools
import re
import typing
from operator import attrgetter

from ml_collections import ConfigDict

from noah_jax.config.settings import Config
from noah_jax.config.validation import complaints
from noah_jax.errors import UserError

_MOST_RUNS = 10_000  # all of VTAB-1k, six methods, three seeds: 342


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
            "supernet_from": "",  # a workdir of the same seed whose supernet to use: saves its time
            "dtype": "auto",  # of the computation: bfloat16 on TPU and GPU, float32 on CPU
            "attention": "auto",  # cuDNN's on a single GPU, in bfloat16; or "plain"
            "rematerialise": False,  # blocks are computed again backwards: less memory, slower
            "drop_path": 0.1,
            "dropout": 0.1,
            "eval_batch_size": 100,
            "checkpoint_seconds": 60.0,  # between checkpoints, which cost little
            "trackers": "",  # tensorboard, wandb, or both joined by "+"
            "weight_shards": 1,  # devices that share one copy of the frozen matrices
            "space": {
                "vpt": (1, 5, 10),
                "lora": (1, 5, 10),
                "adapter": (1, 5, 10),
                "parallel": (),  # sizes of an adapter beside the MLP
                "depths": (3, 6, 9, 12),  # a 0 among sizes allows gaps
            },
            "baseline": {
                **{"vpt": 100, "lora": 8, "adapter": 8, "parallel": 8},  # sizes of single modules
                "tuned": (1, 2, 4, 8, 16, 32),  # the sizes to choose from by validation
            },
            "supernet": {
                "epochs": 500,
                "learning_rate": 5e-4,
                "genomes_per_step": 1,
                "sampling": "random",  # or "broad", see supernet.py
                **schedule,
            },
            "retrain": {
                "epochs": 100,
                "learning_rate": 1e-3,
                "inherit": 0.0,  # else begin with the supernet's weights, at this share of the rate
                **schedule,
            },
            "search": {
                "population": 50,
                "generations": 15,
                "parents": 10,
                "mutations": 25,
                "crossovers": 25,
                "m_prob": 0.2,
                "s_prob": 0.4,
                "budget_millions": 0.64,
                "least_millions": 0.0,
                "operators": "block",  # or "paper"
                "objective": "accuracy",  # or "pareto", a front over all budgets
                "folds": 1,  # else train + val is cut into so many, with a supernet for each
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


def expand(values: ConfigDict) -> list[Config]:
    """The runs that a configuration stands for: its tasks × shots × methods × seeds, in that order.

    Raises:
      UserError: one message with all complaints about all of them.
    """
    flat, problems = values.to_dict(), []
    tasks, shots, methods = (
        dict.fromkeys(str(flat.get(key, "")).split("+")) for key in ("task", "shots", "method")
    )
    if not all(re.fullmatch("[0-9]{1,9}", number) for number in shots):
        problems.append(f"shots={flat.get('shots')!r}: expected numbers of images joined by +")
        shots = ["0"]
    if type(seeds := flat.pop("seeds", 1)) is not int or seeds < 1:
        problems.append(f"seeds={seeds!r}: expected how many, at least 1")
        seeds = 1
    runs = len(tasks) * len(shots) * len(methods) * seeds
    if runs > _MOST_RUNS:
        problems.append(f"it stands for {runs} runs: expected at most {_MOST_RUNS}")
        tasks, shots, methods, seeds = list(tasks)[:1], list(shots)[:1], list(methods)[:1], 1
    configs = []
    for task, number, method, i in itertools.product(tasks, shots, methods, range(seeds)):
        run = flat | {"task": task, "shots": int(number), "method": method}
        if type(run.get("seed")) is int:
            run["seed"] += i
        config = _build(Config, run, "", mistyped := [])
        problems += mistyped or complaints(config)
        configs.append(config)
    if problems:
        lines = "\n  ".join(dict.fromkeys(problems))
        raise UserError(f"the configuration is not valid:\n  {lines}")
    return configs


def from_json(values: dict) -> Config:
    """The settings that a run saved.

    Raises:
      UserError: they are not those of this version of the program.
    """
    config = _build(Config, values, "", problems := [])
    if problems:
        raise UserError("the saved configuration is not valid:\n  " + "\n  ".join(problems))
    return config


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


def _build(cls, values, prefix, problems):
    """An instance of dataclass `cls` from nested mappings; complaints go to `problems`."""
    if not isinstance(values, dict):
        problems.append(f"{prefix[:-1]}={values!r}: expected the keys {prefix}…")
        return None
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
        elif typing.get_origin(kind) is tuple and _are_integers(value):
            built[key] = tuple(value)
        else:
            expected = kind.__name__ if kind in (int, float, str, bool) else "integers"
            problems.append(f"{prefix}{key}={value!r}: expected {expected}")
    return cls(**built) if len(built) == len(hints) else None


def _are_integers(value) -> bool:
    return isinstance(value, (tuple, list)) and all(type(item) is int for item in value)
