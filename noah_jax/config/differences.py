"""Compares two runs by the settings that their results depend on."""

import dataclasses
import json
from typing import Any

from flax.traverse_util import flatten_dict

from noah_jax.config.reading import reads
from noah_jax.config.settings import Config

# Paths of inputs. `training.opening` compares what is there, so that a run may go on elsewhere.
PATHS = ("data_dir", "weights", "lists", "genome")
# Keys that change how a run computes but not its result, so it may go on with other values.
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
    "calibrate",  # a finished run may be calibrated afterwards
    *PATHS,
)
# Keys on which a supernet depends. A key with a dot at its end stands for all keys below it.
_SUPERNET_KEYS = (
    *("supernet.", "space.", "search.folds", "task", "seed", "backbone", "heads", "image_size"),
    *("normalisation", "split_seed", "shots", "whole_val", "label_column", "augmentation"),
    *("center_crop", "dtype", "drop_path", "dropout"),
)


def differences(saved: dict[str, Any], config: Config) -> list[str]:
    """Lists the settings by which a run that was saved as JSON would have another result."""
    return _differences(saved, config, lambda key: reads(config, key))


def supernet_differences(saved: dict[str, Any], config: Config) -> list[str]:
    """Lists the settings by which the supernet of a saved run differs from that of `config`."""
    return _differences(saved, config, lambda key: key.startswith(_SUPERNET_KEYS))


def _differences(saved, config, matters) -> list[str]:
    default, new = (
        flatten_dict(json.loads(json.dumps(dataclasses.asdict(each))), sep=".")
        for each in (Config(), config)
    )
    old = default | flatten_dict(saved, sep=".")  # an earlier version may have had fewer keys
    return [
        f"{key}: {old.get(key)!r} there, {new.get(key)!r} now"
        for key in sorted(old | new)
        if old.get(key) != new.get(key) and key not in _FREE_KEYS and matters(key)
    ]
