"""Compares the settings of two runs by what these compute."""

import dataclasses
import json
from typing import Any

from noah_jax.config.settings import FOUND, SEARCHED, TUNED, Config

# Keys that change how a run computes, not its result: it may go on with others.
_FREE_KEYS = (
    "stage",
    "attention",
    "rematerialise",
    "weight_shards",
    "trackers",
    "eval_batch_size",
    "checkpoint_seconds",
    "search.genomes_per_call",
    "supernet_from",
)
# The search's settings that a genome found without a supernet depends on.
_BOUNDS = ("search.budget_millions", "search.least_millions")
# Keys that a supernet depends on; one with a dot at its end stands for all below it.
_SUPERNET_KEYS = (
    *("supernet.", "space.", "search.folds", "task", "seed", "backbone", "image_size"),
    *("normalisation", "split_seed", "shots", "lists", "whole_val", "augmentation", "center_crop"),
    *("dtype", "drop_path", "dropout"),
)


def differences(saved: dict[str, Any], config: Config) -> list[str]:
    """Lists where a run whose settings were saved as JSON would come to another result."""
    read: tuple[str, ...]
    unread: tuple[str, ...]
    if config.method in SEARCHED:
        read, unread = (), ("baseline.",)
    elif config.method == "sensitivity":
        read, unread = _BOUNDS, ("baseline.", "supernet.", "search.")
    elif config.method in FOUND:  # uniform, tuned
        tried = ("baseline.tuned",) if config.method in TUNED else ()
        read, unread = (*_BOUNDS, *tried), ("baseline.", "supernet.", "search.", "space.")
    else:
        read, unread = (), ("supernet.", "search.", "space.")

    if config.method not in SEARCHED:
        unread += ("retrain.inherit",)

    def matters(key):
        return key in read or not key.startswith(unread)

    return _differences(saved, config, matters)


def supernet_differences(saved: dict[str, Any], config: Config) -> list[str]:
    """Lists where that run's supernet would be another one than this run's."""
    return _differences(saved, config, lambda key: key.startswith(_SUPERNET_KEYS))


def _differences(saved, config, matters) -> list[str]:
    old, new = _flat(saved), _flat(json.loads(json.dumps(dataclasses.asdict(config))))
    return [
        f"{key}: {old.get(key)!r} there, {new.get(key)!r} now"
        for key in sorted(old | new)
        if old.get(key) != new.get(key) and key not in _FREE_KEYS and matters(key)
    ]


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        nested = isinstance(value, dict)
        flat |= _flat(value, f"{prefix}{key}.") if nested else {prefix + key: value}
    return flat
