"""The ViT as training and evaluation take it: what trains apart from what is frozen."""

import dataclasses
import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import Mesh

from noah_jax.runtime import sharding
from noah_jax.vit.config import ViTConfig
from noah_jax.vit.model import ViT
from noah_jax.vit.prompts import PromptParam

_FRESH = nnx.Any(PromptParam, nnx.PathContains("head"))  # what no pre-trained weights fill


@dataclasses.dataclass(frozen=True)
class Network:
    """A ViT in three parts, so that what is frozen has neither gradient nor optimiser state.

    Attributes:
      graphdef: NNX's static part.
      params: what trains, float32.
      frozen: the rest; matrices in the dtype of the computation, vectors float32.
      mean, std: of the pixel values in [0, 1].
      mesh: over whose axis `weights` the matrices of `frozen` are cut; None = they are whole.
    """

    graphdef: nnx.GraphDef
    params: nnx.State
    frozen: nnx.State
    mean: tuple[float, ...]
    std: tuple[float, ...]
    mesh: Mesh | None = None

    def normalise(self, images):
        """uint8 images `[b, h, w, 3]` as the ViT takes them, float32."""
        return normalise(images, self.mean, self.std)

    def logits(self, params, frozen, images, genome, key=None):
        """Images, uint8 or normalised → float32 `[b, classes]`; with a key, as in training."""
        x = self.normalise(images) if images.dtype == jnp.uint8 else images
        model = nnx.merge(self.graphdef, params, frozen)
        gather = self.mesh and functools.partial(sharding.gather, self.mesh)
        return model(x, genome, train=key is not None, key=key, gather=gather)


def normalise(images: jax.Array, mean: Sequence[float], std: Sequence[float]) -> jax.Array:
    """uint8 images `[b, h, w, 3]` → float32, with that mean and deviation of pixels in [0, 1]."""
    x = images.astype(jnp.float32) / 255.0
    return (x - jnp.array([[[mean]]], jnp.float32)) / jnp.array([[[std]]], jnp.float32)


def inherit(params: nnx.State, larger: nnx.State) -> nnx.State:
    """Of the params of a network with larger prompt modules, what those of `params` are there.

    The first entries along each axis, as of a subnet in its supernet (NOAH, section 3.2).
    """
    flat = dict(nnx.to_flat_state(larger))
    return nnx.from_flat_state(
        (path, variable.replace(flat[path][...][tuple(map(slice, variable.shape))]))
        for path, variable in nnx.to_flat_state(params)
    )


def trainable(method: str):
    """The NNX filter of what a method trains: everything, or the prompt modules and the head."""
    return nnx.Param if method == "full" else _FRESH


def in_dtype(frozen: nnx.State, dtype: str) -> nnx.State:
    """The matrices in the dtype of the computation, vectors as they are."""
    return jax.tree_util.tree_map_with_path(
        lambda path, x: x.astype(dtype) if "kernel" in jax.tree_util.keystr(path) else x, frozen
    )


def make_network(
    config: ViTConfig,
    max_sizes: dict[str, int],
    backbone: nnx.State,
    normalisation: tuple[tuple[float, ...], tuple[float, ...]],
    method: str,
    seed: int,
    mesh: Mesh,
) -> Network:
    """Fresh prompt modules and head on pre-trained weights.

    Args:
      backbone: the ViT without prompt modules and head, see `pretrained.backbone`.
    """

    def init():
        model = ViT(config, max_sizes, rngs=nnx.Rngs(seed))
        return nnx.split(model, _FRESH, ...)

    graphdef, _, _ = nnx.eval_shape(init)
    fresh = jax.jit(lambda: init()[1])()  # XLA drops the backbone's random numbers
    model = nnx.merge(graphdef, fresh, backbone)
    graphdef, params, frozen = nnx.split(model, trainable(method), ...)
    frozen = in_dtype(frozen, config.dtype)
    mean, std = normalisation
    return Network(
        graphdef,
        sharding.replicate(mesh, params),
        sharding.place_frozen(mesh, frozen),
        mean,
        std,
        mesh if mesh.shape["weights"] > 1 else None,
    )
