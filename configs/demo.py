"""Five methods on handwritten digits, on two CPU cores; it needs only the package index.

    bash launch/local.sh

or `python -m noah_jax.main --config=configs/demo.py[:<methods joined by +>]`. It trains a real
DINOv2 ViT-S/14 from a wheel, on scikit-learn's 1,797 digits of 8×8 pixels (800 train, 200 val, 797
test), for six epochs each. Expect on two CPU cores in float32, seed 0 (with one seed and 797 images
a standard error is 0.5 points for the upper four):

    linear   0.0000 M   79.67 %     adapter  0.0784 M   97.62 %     NOAH  0.0984 M   98.12 %
    LoRA-8   0.1475 M   98.62 %     VPT-10   0.0461 M   97.37 %

in 5 to 8 minutes. Another processor's rounding, or other random numbers, lead to another genome:
NOAH has reached 97.24, 97.74, 97.87, 97.99, 98.49 and 98.62 %, too. The linear probe is far from
converged. More epochs (`--config.retrain.epochs=…`) help it most.
"""

from ml_collections import ConfigDict

from noah_jax.config import configure, defaults


def get_config(argument: str | None = None) -> ConfigDict:
    config = defaults()
    config.task = "digits"
    config.method = "linear+lora+adapter+vpt+noah"
    config.backbone = "dinov2_vits14_saliency"
    config.image_size = 42  # 3×3 patches for images of 8×8 pixels
    config.baseline.vpt = 10
    config.space.vpt = (1, 5)
    for schedule in (config.supernet, config.retrain):
        schedule.batch_size = 32
        schedule.warmup_epochs = 1
        schedule.learning_rate = 4e-3
    config.supernet.epochs = 9
    config.retrain.epochs = 6
    config.search.update(population=12, generations=4, parents=4, mutations=6, crossovers=4)
    return configure(config, argument, first="method")
