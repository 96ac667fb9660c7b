"""Neural Prompt Search (NOAH, arXiv 2206.04673) in JAX/Flax.

For use in other programs:

    find_subnet(images, labels, workdir, config)   all stages, on images in memory; api.py
    defaults()                                     the settings, to be changed; config/recipes.py
    load_subnet(workdir), read_subnet(folder)      what a run found, or an export; interop/subnet.py
    classify(subnet, images)                       its probabilities; interop/predict.py
    ViT, ViTConfig, SearchSpace                    the parts; vit/, space/
"""

import importlib

__version__ = "0.1.0"

_PLACES = {
    "find_subnet": ("api", "find_subnet"),
    "defaults": ("config", "defaults"),
    "load_subnet": ("interop.subnet", "read"),
    "read_subnet": ("interop.subnet", "read"),
    "classify": ("interop.predict", "classify"),
    "ViT": ("vit", "ViT"),
    "ViTConfig": ("vit", "ViTConfig"),
    "SearchSpace": ("space", "SearchSpace"),
}
__all__ = [*_PLACES]


def __getattr__(name: str):
    """Loads a part when it is asked for, so that a program starts with what it needs."""
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, attribute = _PLACES[name]
    return getattr(importlib.import_module(f"{__name__}.{module}"), attribute)
