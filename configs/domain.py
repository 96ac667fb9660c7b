"""Domain generalisation: few images of ImageNet to train on, five test sets.

    python -m noah_jax.data prepare domain
    python -m noah_jax.main --config=configs/domain.py:imagenet[,method=…,seed=…]

16 images a class to train on, 4 to validate with; tested on ImageNet's validation set, and on V2,
Sketch, A and R as far as they are prepared. A and R show 200 of the 1,000 classes: the result has
the accuracy among these, and the original's, which is among all 1,000.
ImageNet itself has to be downloaded by hand; the first command says which files. Or give the
folders of the archives, as CoOp's and NOAH's instructions do, with `--config.data_dir=<dir>`:

    <dir>/imagenet/{train,val}/<synset>              <dir>/imagenet-adversarial/imagenet-a/<synset>
    <dir>/imagenet-sketch/images/<synset>            <dir>/imagenet-rendition/imagenet-r/<synset>
    <dir>/imagenetv2/imagenetv2-matched-frequency-format-val/<class number>

Published (NOAH, ViT-B/16 IN-21k): V2 66.1 %, R 28.5 %. Ours: not measured yet; it needs the
backbone's download and an accelerator.
"""

from ml_collections import ConfigDict

from noah_jax.config import configure, few_shot_defaults


def get_config(argument: str | None = None) -> ConfigDict:
    config = few_shot_defaults()
    config.task = "imagenet"
    return configure(config, argument, first="task")
