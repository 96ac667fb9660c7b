"""Five methods on few handwritten digits, on two CPU cores; it needs only the package index.

    bash launch/local.sh

"""

from ml_collections import ConfigDict

from noah_jax.config import configure, defaults


def get_config(argument: str | None = None) -> ConfigDict:
    config = defaults()
    config.task = "digits"
    config.shots = "16"
    config.method = "linear+lora+adapter+vpt+noah"
    config.backbone = "dinov2_vits14_saliency"
    config.image_size = 42  # 3×3 patches for images of 8×8 pixels
    config.baseline.update(lora=4, adapter=8, vpt=16)  # of one number of parameters
    config.baseline.update(linear_rate=3.0, linear_epochs=48)
    config.space.update(vpt=(1, 2), lora=(1, 2, 4, 8), adapter=(2, 4, 8, 16), depths=(0, 12))
    for schedule in (config.supernet, config.retrain):
        schedule.update(batch_size=8, warmup_epochs=1)
    config.supernet.update(epochs=40, learning_rate=1e-3, sampling="broad")
    config.retrain.update(epochs=16, learning_rate=3e-3, inherit=1.0)
    config.search.update(population=24, generations=5, parents=6, mutations=12, crossovers=8)
    config.search.update(least_millions=0.0735, budget_millions=0.0785)
    return configure(config, argument, first="method")
