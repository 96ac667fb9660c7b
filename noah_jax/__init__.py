"""Neural Prompt Search (NOAH, arXiv 2206.04673) in JAX/Flax.

For use in other programs:

    find_subnet(images, labels, workdir, config)   runs all stages on images in memory; api.py
    defaults()                                     all settings, to be changed; config/recipes.py
    load_subnet(workdir), read_subnet(folder)      read a run's subnet, or an export's;
                                                   interop/subnet.py
    from_pretrained(name), push_to_hub(folder, name)
                                                   an export on the Hugging Face hub, `OWNER/NAME`;
                                                   interop/hub.py
    classify(subnet, images)                       computes probabilities; interop/predict.py
    ViT, ViTConfig, SearchSpace                    the parts; vit/, space/
"""

import pkgutil
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from noah_jax.api import find_subnet
    from noah_jax.config import defaults
    from noah_jax.interop.hub import from_pretrained, push_to_hub
    from noah_jax.interop.predict import classify
    from noah_jax.interop.subnet import read as load_subnet
    from noah_jax.interop.subnet import read as read_subnet
    from noah_jax.space import SearchSpace
    from noah_jax.vit import ViT, ViTConfig

__version__ = "0.2.0"

__all__ = [
    "SearchSpace",
    "ViT",
    "ViTConfig",
    "classify",
    "defaults",
    "find_subnet",
    "from_pretrained",
    "load_subnet",
    "push_to_hub",
    "read_subnet",
]
_PLACES = {
    "find_subnet": "api:find_subnet",
    "defaults": "config:defaults",
    "load_subnet": "interop.subnet:read",
    "read_subnet": "interop.subnet:read",
    "from_pretrained": "interop.hub:from_pretrained",
    "push_to_hub": "interop.hub:push_to_hub",
    "classify": "interop.predict:classify",
    "ViT": "vit:ViT",
    "ViTConfig": "vit:ViTConfig",
    "SearchSpace": "space:SearchSpace",
}


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


if not TYPE_CHECKING:  # for a type checker only these names exist, not any name

    def __getattr__(name: str):
        """Loads a part when it is first used, so that a program loads no more than it needs."""
        if name not in _PLACES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return pkgutil.resolve_name(f"{__name__}.{_PLACES[name]}")
