"""Neural Prompt Search (NOAH, arXiv 2206.04673) in JAX/Flax.

For use in other programs:

    find_subnet(images, labels, workdir, config)   runs all stages on images in memory; api.py
    defaults()                                     all settings, to be changed; config/recipes.py
    load_subnet(workdir), read_subnet(folder)      read a run's subnet, or an export's;
                                                   interop/subnet.py
    from_pretrained(name), push_to_hub(folder, name)
                                                   an export on the Hugging Face hub, `OWNER/NAME`;
                                                   interop/hub.py
    Predictor(folder)                              classifies files, bytes and images, compiled
                                                   once, for threads; interop/predictor.py
    classify(subnet, images)                       computes probabilities; interop/predictor.py
    ViT, ViTConfig, SearchSpace                    the parts; vit/, space/
"""

from typing import TYPE_CHECKING

from noah_jax.faces import face

if TYPE_CHECKING:
    from noah_jax.api import find_subnet
    from noah_jax.config import defaults
    from noah_jax.interop.hub import from_pretrained, push_to_hub
    from noah_jax.interop.predictor import Predictor, classify
    from noah_jax.interop.subnet import read as load_subnet
    from noah_jax.interop.subnet import read as read_subnet
    from noah_jax.space import SearchSpace
    from noah_jax.vit import ViT, ViTConfig

__version__ = "0.2.0"

__all__ = [
    "Predictor",
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
    "Predictor": "interop.predictor:Predictor",
    "classify": "interop.predictor:classify",
    "ViT": "vit:ViT",
    "ViTConfig": "vit:ViTConfig",
    "SearchSpace": "space:SearchSpace",
}


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


if not TYPE_CHECKING:  # for a type checker only these names exist, not any name
    __getattr__ = face(__name__, _PLACES)
