"""Settings: all keys with their explanations, the recipes, and the checks of their values."""

from noah_jax.config.recipes import (
    defaults,
    expand,
    explained,
    few_shot_defaults,
    from_json,
)
from noah_jax.config.settings import Config
from noah_jax.config.strings import configure, in_one_folder, join_names, select, split_names

__all__ = [
    "Config",
    "configure",
    "defaults",
    "expand",
    "explained",
    "few_shot_defaults",
    "from_json",
    "in_one_folder",
    "join_names",
    "select",
    "split_names",
]
