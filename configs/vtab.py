"""VTAB-1k with the paper's recipe: `--config=configs/vtab.py:<task>[,method=…,seed=…]`.

    python -m noah_jax.data prepare cifar100
    python -m noah_jax.main --config=configs/vtab.py:cifar100

Tasks: cifar100, caltech101. Methods: noah, vpt (100 prompts), lora (rank 8), adapter (size 8),
linear, full; the single modules' sizes are `--config.baseline.<module>=…`. Images come from TFDS,
or from `<data_dir>/<task>` in VTAB-1k's list layout.

Published test accuracy of NOAH (ViT-B/16 IN-21k): cifar100 69.6 %, caltech101 92.7 %. Ours: not
measured yet, it needs the backbone's download and an accelerator.
"""

from ml_collections import ConfigDict

from noah_jax.config import configure, defaults


def get_config(argument: str | None = None) -> ConfigDict:
    return configure(defaults(), argument, first="task")
