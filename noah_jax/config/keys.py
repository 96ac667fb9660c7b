"""The names of all settings, and what is said of a name that is none."""

import difflib

from noah_jax.config.fields import walk
from noah_jax.config.settings import Config

KEYS = ("seeds", *(key for key, *_ in walk(Config())))  # a single run has no `seeds`


def nearest_keys(key: str) -> list[str]:
    """Finds settings of a similar name, or of that name in another group; often there are none."""
    by_last: dict[str, list[str]] = {}
    for each in KEYS:
        by_last.setdefault(each.rpartition(".")[2], []).append(each)
    last = key.rpartition(".")[2]
    if last in by_last:
        return by_last[last]
    groups = {f"{each.partition('.')[0]}.…" for each in KEYS if "." in each}
    groups -= {f"{key.partition('.')[0]}.…"}
    near = difflib.get_close_matches(key, [*KEYS, *sorted(groups)], n=1)
    return near or [each for x in difflib.get_close_matches(last, by_last) for each in by_last[x]]
