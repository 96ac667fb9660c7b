"""Few-shot with the paper's recipe: `--config=configs/fewshot.py:<task>[,shots=…,seed=…]`.

    python -m noah_jax.data prepare fewshot
    python -m noah_jax.main --config=configs/fewshot.py:stanford_cars,shots=8,seed=1
    python -m noah_jax.main --config=configs/fewshot.py:all,shots=1+2+4+8+16,seeds=3 \\
      --config.data_dir=<dir> --config.lists=<lists>

Tasks: stanford_cars, food101, oxford_flowers, fgvc_aircraft, oxford_pets. The seed draws the
training images from TFDS's training split, and up to 4 others a class to validate with. To use the
images that NOAH or CoOp published, put the dataset into `<dir>/<task>` and add

    --config.data_dir=<dir> --config.lists=<NOAH's annotations folder, or CoOp's split_zhou_….json>

(for several tasks, as above: a folder that holds these as `<task>` or `<task>.json`).
TFDS lacks fgvc_aircraft, so `all` needs lists. Unpack its archive to `<dir>/fgvc_aircraft`, and
give its `data` folder as `lists`. TFDS's address of stanford_cars is dead; the first command says
which files to put where.

Published mean test accuracy of the five (NOAH, ViT-B/16 IN-21k) at 1, 2, 4, 8, 16 shots: 41.0,
50.7, 59.1, 67.8, 76.5 %. Ours: not measured yet; it needs the backbone's download and an
accelerator.
"""

from ml_collections import ConfigDict

from noah_jax.config import configure, few_shot_defaults, select
from noah_jax.data.tasks import FEW_SHOT


def get_config(argument: str | None = None) -> ConfigDict:
    config = configure(few_shot_defaults(), argument, first="task")
    config.task = select(config.task, FEW_SHOT)
    return config
