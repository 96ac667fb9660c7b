"""Subnets with random weights, of small ViTs of each family, and images for them."""

import dataclasses
import json

import jax
import numpy as np
from flax import nnx

from noah_jax.interop import subnet
from noah_jax.interop.subnet import Subnet
from noah_jax.space.genomes import ALL_MODULES, by_module
from noah_jax.vit import ViT, ViTConfig
from tests.helpers.models import TINY

VIT = dataclasses.replace(TINY, depth=4)
FAMILIES = {
    "plain": VIT,
    "clip": dataclasses.replace(VIT, pre_norm=True, quick_gelu=True, epsilon=1e-5),
    "registers": dataclasses.replace(VIT, registers=4),
    "dinov3": dataclasses.replace(VIT, registers=4, rope=True, epsilon=1e-5),
    "siglip": dataclasses.replace(VIT, pooling="attention", tanh_gelu=True, mlp_width=100),
    "mean": dataclasses.replace(VIT, pooling="mean", tanh_gelu=True),
}
MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)
SIZES = {"vpt": 4, "lora": 3, "adapter": 5, "parallel": 2}


def random_subnet(seed: int, columns: int, only: str = "", vit: ViTConfig = VIT):
    """A ViT with random weights, a genome with gaps, and the subnet that they are."""
    rng = np.random.default_rng(seed)
    model = ViT(vit, SIZES, rngs=nnx.Rngs(0))
    graphdef, state = nnx.split(model)
    state = jax.tree.map(lambda x: rng.normal(0, 0.2, x.shape).astype(np.float32), state)
    genome = np.zeros((VIT.depth, columns), np.int32)
    for i, name in enumerate(ALL_MODULES[:columns]):
        if only in ("", name):
            genome[:, i] = rng.integers(0, SIZES[name] + 1, VIT.depth)
            genome[0, i], genome[2, i] = SIZES[name], 0
    facts = {
        "vit": {name: getattr(vit, name) for name in subnet.SHAPE},
        "genome": genome.tolist(),
        "class_names": ["a", "b", "c d", "é", "<e>"],
        **{"mean": MEAN, "std": STD, "center_crop": False},
    }
    tensors = subnet.by_name(state, by_module(genome))
    modules = [[name] for name in ALL_MODULES]
    trained = {name for name in tensors if "head" in name or name.split(".")[2:3] in modules}
    found = Subnet(json.loads(json.dumps(facts)), tensors, frozenset(trained))
    return nnx.merge(graphdef, state), genome, found


def random_images(n=3):
    return np.random.default_rng(1).integers(0, 256, (n, 16, 16, 3), np.uint8)


def normalised(images):
    return ((images / np.float32(255) - np.float32(MEAN)) / np.float32(STD)).astype(np.float32)


def logits_of(model, n=3):
    """The model's logits for `random_images`."""
    return np.asarray(jax.jit(model)(normalised(random_images(n))))
