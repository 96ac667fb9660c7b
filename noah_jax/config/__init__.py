"""Settings: the recipes, what changes them, what can be wrong with them."""

from noah_jax.config.recipes import (
    configure,
    defaults,
    expand,
    explained,
    few_shot_defaults,
    from_json,
    in_one_folder,
)
from noah_jax.config.settings import Config

__all__ = [
    "Config",
    "configure",
    "defaults",
    "expand",
    "explained",
    "few_shot_defaults",
    "from_json",
    "in_one_folder",
]
