"""demo"""

from ml_collections import ConfigDict

from noah_jax.config import configure, defaults


def get_config(argument: str | None = None) -> ConfigDict:
    config = defaults()
    config.task = "digits"
    config.method = "linear+lora+adapter+vpt+noah"
    config.backbone = "dinov2_vits14_saliency"
    config.image_size = 56
    config.baseline.vpt = 10
    config.supernet.epochs = 8
    config.supernet.warmup_epochs = 1
    config.retrain.epochs = 5
    config.retrain.warmup_epochs = 1
    config.search.population = 12
    config.search.generations = 3
    config.search.mutations = 6
    config.search.crossovers = 6
    return configure(config, argument, "method")
