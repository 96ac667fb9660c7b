"""VTAB-1k with the paper's recipe: `--config=configs/vtab.py:<task>[,method=…,seed=…]`.

    python -m noah_jax.data prepare cifar100
    python -m noah_jax.main --config=configs/vtab.py:cifar100

Tasks, joined by + or as `natural`, `specialized`, `structured`, `all`: cifar100 caltech101 dtd
oxford_flowers102 oxford_pet svhn sun397, patch_camelyon eurosat resisc45 diabetic_retinopathy,
clevr_count clevr_dist dmlab kitti dsprites_loc dsprites_ori smallnorb_azi smallnorb_ele. Methods,
joined by + too: noah, vpt (100 prompts), lora (rank 8), adapter (size 8), linear, full.
`--config.baseline.<module>=…` sets the size of a single module. The paper's table has three seeds
each:

    python -m noah_jax.data prepare vtab
    python -m noah_jax.main --config=configs/vtab.py:all,method=vpt+adapter+lora+noah,seeds=3

Images come from TFDS, or from `<data_dir>/<task>` in VTAB-1k's list layout.

Published test accuracy of NOAH (ViT-B/16 IN-21k): cifar100 69.6 %, caltech101 92.7 %, mean of the
19 tasks 73.2 %, mean of the three groups 75.5 %; all others are in `noah_jax/data/tasks.py`. Ours:
not measured yet; it needs the backbone's download and an accelerator.
"""

from ml_collections import ConfigDict

from noah_jax.config import configure, defaults, select
from noah_jax.data.tasks import VTAB


def get_config(argument: str | None = None) -> ConfigDict:
    config = configure(defaults(), argument, first="task")
    config.task = select(config.task, VTAB)
    return config
