"""VTAB-1k: `--config=configs/vtab.py:<task>[,method=…,seed=…]`, the paper's recipe unchanged."""

from ml_collections import ConfigDict

from noah_jax.config import configure, defaults


def get_config(argument: str | None = None) -> ConfigDict:
    return configure(defaults(), argument, first="task")
