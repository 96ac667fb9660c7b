"""Settings as users give them: NOAH's two recipes, changes to these, and the runs that result."""

import dataclasses
import itertools
import re
import typing
from collections.abc import Collection

from ml_collections import ConfigDict

from noah_jax.config.fields import Setting
from noah_jax.config.keys import nearest_keys
from noah_jax.config.reading import misplaced
from noah_jax.config.settings import Config
from noah_jax.config.strings import split_names
from noah_jax.config.validation import complaints
from noah_jax.errors import UserError, asked, listed

SEVERAL = {"shots": "0", "seeds": 1}  # keys whose form for users differs from that of a run
SEEDS = Setting("how many runs, with seed, seed + 1, …", least=1)
_MOST_RUNS = 10_000  # all of VTAB-1k, six methods, three seeds: 342


def defaults() -> ConfigDict:
    """All settings, at the values of NOAH's published VTAB-1k recipe."""
    return ConfigDict(dataclasses.asdict(Config()) | SEVERAL)


def few_shot_defaults() -> ConfigDict:
    """All settings, at the values of NOAH's recipe for few-shot and ImageNet."""
    config = defaults()
    config.shots = "16"
    config.augmentation = "randaugment"
    config.center_crop = True
    config.space.vpt = config.space.lora = config.space.adapter = (5, 10, 50, 100)
    config.supernet.epochs = 300
    config.retrain.learning_rate = 5e-3
    return config


def expand(values: ConfigDict, given: Collection[str] = ()) -> list[Config]:
    """Expands a configuration into its runs: tasks × shots × methods × seeds, in that order.

    Args:
      given: the keys that the user gives, besides those that a config file sets.

    Raises:
      UserError: a setting is wrong; the message lists all that are, in all runs.
    """
    flat = values.to_dict()
    problems: list[str] = []
    tasks, shots, methods, seeds = _axes(flat, problems)
    runs = []
    for task, number, method, i in itertools.product(tasks, shots, methods, range(seeds)):
        run = flat | {"task": task, "shots": int(number), "method": method}
        if type(run.get("seed")) is int:
            run["seed"] += i
        mistyped: list[str] = []
        config = _build(Config, run, "", mistyped)
        problems += mistyped or complaints(config)
        runs.append(config)
    if problems := problems or [*misplaced(runs, given)]:
        raise UserError(f"the configuration is not valid:{listed(problems)}")
    return runs


def _axes(flat, problems):
    """Reads tasks, shots, methods and the number of seeds; removes `seeds` from `flat`."""
    tasks, shots, methods = (
        list(dict.fromkeys(split_names(str(flat.get(key, "")))))
        for key in ("task", "shots", "method")
    )
    if not all(re.fullmatch("[0-9]{1,9}", number) for number in shots):
        problems.append(f"shots={flat.get('shots')!r}: expected numbers of images joined by +")
        shots = ["0"]
    if type(seeds := flat.pop("seeds", 1)) is not int or SEEDS.complaint("seeds", seeds):
        problems.append(f"seeds={seeds!r}: expected how many, {SEEDS.expected}")
        seeds = 1
    runs = len(tasks) * len(shots) * len(methods) * seeds
    if runs > _MOST_RUNS:
        problems.append(f"it stands for {runs} runs: expected at most {_MOST_RUNS}")
        return tasks[:1], shots[:1], methods[:1], 1
    return tasks, shots, methods, seeds


def from_json(values: dict) -> Config:
    """Reads the settings that a run saved; a key that its version did not have gets its default.

    Raises:
      UserError: the settings are not those of this version of the program.
    """
    problems: list[str] = []
    config = _build(Config, _merged(dataclasses.asdict(Config()), values), "", problems)
    if problems:
        raise UserError(f"the saved configuration is not valid:{listed(problems)}")
    return config


def _merged(old: dict, new: dict) -> dict:
    """Nested dicts with the values of the new one before those of the old."""
    both = {
        key: _merged(old[key], value)
        for key, value in new.items()
        if isinstance(value, dict) and isinstance(old.get(key), dict)
    }
    return old | new | both


def _build(cls, values, prefix, problems):
    """Builds the dataclass `cls` from nested mappings; appends what is wrong to `problems`."""
    if not isinstance(values, dict):
        problems.append(f"{prefix[:-1]}={values!r}: expected the keys {prefix}…")
        return None
    hints, built = typing.get_type_hints(cls), {}
    known = f"known are {', '.join(sorted(hints))}"
    problems += [
        f"unknown key {prefix}{key}{asked(nearest_keys(f'{prefix}{key}'))}; {known}"
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
