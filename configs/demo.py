"""Five methods on few handwritten digits, on two CPU cores; it needs only the package index.

    bash launch/local.sh

or `python -m noah_jax.main --config=configs/demo.py[:<methods joined by +>]`. It trains a real
DINOv2 ViT-S/14 from a wheel, on scikit-learn's digits of 8×8 pixels: 16 of each class to train on,
4 to validate, 797 images to test. LoRA-4, Adapter-8 and VPT-16 have one number of parameters, which
is NOAH's budget, too. Expect in float32, seed 0, in about 6 minutes on two CPU cores:

    linear   0.0000 M   80.93 %     Adapter-8   0.0784 M   87.83 %     NOAH   0.0753 M   96.36 %
    VPT-16   0.0737 M   82.81 %     LoRA-4      0.0737 M   91.59 %

docs/first_run.md has other seeds, and LoRA trained for as long as NOAH in all.
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
