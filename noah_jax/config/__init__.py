"""Settings: all keys with their explanations, the recipes, and the checks of their values."""

from noah_jax.config.keys import KEYS, nearest_keys
from noah_jax.config.overview import explained
from noah_jax.config.reading import unread
from noah_jax.config.recipes import (
    defaults,
    expand,
    few_shot_defaults,
    from_json,
)
from noah_jax.config.settings import Config
from noah_jax.config.strings import (
    configure,
    in_one_folder,
    join_names,
    named,
    select,
    split_names,
)

__all__ = [
    "KEYS",
    "Config",
    "configure",
    "defaults",
    "expand",
    "explained",
    "few_shot_defaults",
    "from_json",
    "in_one_folder",
    "join_names",
    "named",
    "nearest_keys",
    "select",
    "split_names",
    "unread",
]
