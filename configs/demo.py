"""demo"""

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
