"""A ViT of 12 small blocks, its search space, and images that it can learn to tell apart."""

import dataclasses

import jax
import numpy as np
import PIL.Image
from flax import nnx

from noah_jax.data import Split
from noah_jax.data.augment import Augmented
from noah_jax.interop import subnet
from noah_jax.space import SearchSpace
from noah_jax.space.genomes import ALL_MODULES, MODULES, by_module
from noah_jax.vit import ViT, ViTConfig
from noah_jax.vit.network import Network, trainable

TINY = ViTConfig(
    width=32, depth=12, heads=4, patch_size=8, image_size=16, num_classes=5, drop_path=0.2
)
SHALLOW = dataclasses.replace(TINY, depth=4)
MAX_SIZES = {"vpt": 4, "lora": 3, "adapter": 5}
MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)
SPACE = SearchSpace(
    {name: (1, MAX_SIZES[name]) for name in MODULES}, (6, 12), TINY.depth, TINY.width
)


def make_network(vit: ViT, method: str = "noah") -> Network:
    """The network of that ViT, for images normalised to -1 … 1."""
    graphdef, params, frozen = nnx.split(vit, trainable(method), ...)
    return Network(graphdef, params, frozen, (0.5,) * 3, (0.5,) * 3)


def random_subnet(
    seed: int, columns: int, only: str = "", vit: ViTConfig = SHALLOW
) -> tuple[ViT, np.ndarray, subnet.Subnet]:
    """A ViT with random weights, a genome with gaps, and the subnet that they are.

    Args:
      only: the one module that is used; empty = all of the first `columns`.
    """
    rng, sizes = np.random.default_rng(seed), MAX_SIZES | {"parallel": 2}
    model = ViT(vit, sizes, rngs=nnx.Rngs(0))
    graphdef, state = nnx.split(model)
    state = jax.tree.map(lambda x: rng.normal(0, 0.2, x.shape).astype(np.float32), state)
    genome = np.zeros((vit.depth, columns), np.int32)
    for i, name in enumerate(ALL_MODULES[:columns]):
        if only in ("", name):
            genome[:, i] = rng.integers(0, sizes[name] + 1, vit.depth)
            genome[0, i], genome[2, i] = sizes[name], 0
    facts = {
        "vit": {name: getattr(vit, name) for name in subnet.SHAPE},
        "genome": genome.tolist(),
        "class_names": ["a", "b", "c d", "é", "<e>"],
        **{"mean": MEAN, "std": STD, "center_crop": False},
    }
    tensors = subnet.by_name(state, by_module(genome))
    modules = [[name] for name in ALL_MODULES]
    trained = {name for name in tensors if "head" in name or name.split(".")[2:3] in modules}
    found = subnet.Subnet(facts, tensors, frozenset(trained))
    return nnx.merge(graphdef, state), genome, found


def genomes(step: int) -> np.ndarray:
    """The two genomes that a step trains."""
    return SPACE.sample(np.random.default_rng(step), 2)


def coloured() -> tuple[np.ndarray, np.ndarray]:
    """Images whose class shows in their colour: 20 of 16×16."""
    rng = np.random.default_rng(0)
    labels = np.arange(20, dtype=np.int32) % TINY.num_classes
    images = rng.integers(0, 40, (20, 16, 16, 3)) + 45 * labels[:, None, None, None]
    return images.astype(np.uint8), labels


def augmented() -> Augmented:
    """As `coloured`, but each class has a colour that augmentation leaves recognisable."""
    rng = np.random.default_rng(0)
    labels = np.arange(20, dtype=np.int32) % TINY.num_classes
    colours = np.array([(9, 1, 1), (1, 9, 1), (1, 1, 9), (9, 9, 1), (9, 1, 9)]) * 22
    pixels = rng.integers(0, 40, (20, 16, 16, 3)) + colours[labels][:, None, None]
    images = [PIL.Image.fromarray(image.astype(np.uint8)) for image in pixels]
    split = Split([f"image {i}" for i in range(20)], lambda i: (images[i].copy(), labels[i]))
    return Augmented(split, TINY.image_size, TINY.num_classes)
