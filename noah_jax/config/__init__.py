"""Settings: all keys with their explanations, the recipes, and the checks of their values."""

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
