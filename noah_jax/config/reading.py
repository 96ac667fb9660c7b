"""Which settings a run reads, by its method, and what is said of others that a user gives."""

from collections.abc import Collection, Iterator, Sequence

from noah_jax.config.fields import walk
from noah_jax.config.settings import FOUND, SEARCHED, TUNED, Config
from noah_jax.space.genomes import ALL_MODULES

_BUDGET = ("search.budget_millions", "search.least_millions")
_BREEDING = tuple(
    f"search.{name}" for name in ("parents", "mutations", "crossovers", "m_prob", "s_prob")
)
# A key of one group, given for a method that reads the other, was meant for that one.
_OTHER_GROUP = {"space": "baseline", "baseline": "space", "supernet": "retrain"}


def reads(config: Config, key: str) -> bool:
    """Tells whether a run with this method, and with or without a given genome, reads a key."""
    group = key.partition(".")[0]
    if key == "retrain.inherit":
        return config.method in SEARCHED  # a given genome must have none, see validation.py
    if group == "supernet":
        return config.has_supernet
    if group == "search" and config.has_supernet:
        return config.method == "noah" or key not in _BREEDING
    if group == "search":
        return key in _BUDGET and config.method in FOUND and not config.genome
    if group == "space":
        return config.has_supernet or config.method == "sensitivity"
    if group == "baseline":
        if config.method == "linear":
            return key.startswith("baseline.linear_")
        return key == f"baseline.{'tuned' if config.method in TUNED else config.method}"
    return True


def misplaced(configs: Sequence[Config], given: Collection[str]) -> Iterator[str]:
    """Yields a line for each key that was meant to change the runs, but changes none.

    Args:
      given: the keys that the user gives, by flags or in the config string.
    """
    for key in _unread(configs, given):
        for config in configs:
            meant = _meant(config, key)
            if meant and meant not in given:
                yield f"{key}: method={config.method} does not read it; its key is {meant}"


def unread(configs: Sequence[Config], given: Collection[str]) -> str:
    """Says which of the keys that a user gives no run reads, and why; empty if there are none."""
    keys = _unread(configs, given)
    methods = "+".join(dict.fromkeys(config.method for config in configs))
    genome = " with a given genome" if configs[0].genome else ""
    return f"not read by method={methods}{genome}: {', '.join(keys)}" if keys else ""


def _unread(configs, given) -> list[str]:
    return [key for key in given if not any(reads(config, key) for config in configs)]


def _meant(config: Config, key: str) -> str:
    """The key by which the run's method is told what `key` tells another; empty if there is none.

    A given genome stands for all that was told about finding one.
    """
    group, _, name = key.partition(".")
    if config.genome or group not in _OTHER_GROUP:
        return ""
    if config.method in TUNED and name in ALL_MODULES:
        return "baseline.tuned"
    meant = f"{_OTHER_GROUP[group]}.{name}"
    known = [each for each, *_ in walk(config)]
    return meant if meant in known and reads(config, meant) else ""
