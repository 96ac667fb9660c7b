"""The ViT as training and evaluation use it, with its trained and its frozen weights apart."""

import dataclasses
import functools
import operator
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh

from noah_jax.runtime import sharding
from noah_jax.vit.config import ViTConfig
from noah_jax.vit.execution import Execution
from noah_jax.vit.model import ViT
from noah_jax.vit.prompts import PromptParam

_FRESH = nnx.Any(PromptParam, nnx.PathContains("head"))  # pre-trained weights do not fill these


@dataclasses.dataclass(frozen=True)
class Network:
    """A ViT in three parts, so that its frozen weights have neither gradient nor optimiser state.

    Attributes:
      graphdef: NNX's static part.
      params: the weights that train, float32.
      frozen: all others; matrices are in the dtype of the computation, vectors are float32. If the
        blocks are unrolled, these are apart: see `apart`.
      mean, std: of RGB values in [0, 1], for `normalise`.
      mesh: the devices, if the matrices of `frozen` are cut over its axis `weights`; None = they
        are whole.
      execution: how the ViT computes.
    """

    graphdef: nnx.GraphDef
    params: nnx.State
    frozen: nnx.State
    mean: tuple[float, ...]
    std: tuple[float, ...]
    mesh: Mesh | None = None
    execution: Execution = Execution()

    @property
    def options(self) -> dict[str, str]:
        """The compiler's options for programs made of this network."""
        return dict(self.execution.options)

    def without_weights(self) -> "Network":
        """The network as programs are made of it; two that are equal make the same programs."""
        nothing: Any = None
        return dataclasses.replace(self, params=nothing, frozen=nothing)

    def normalise(self, images: jax.Array) -> jax.Array:
        """Turns uint8 images `[b, h, w, 3]` into the float32 ones that the ViT takes."""
        return normalise(images, self.mean, self.std)

    def logits(
        self,
        params: nnx.State,
        frozen: nnx.State,
        images: jax.Array,
        genome: jax.Array | np.ndarray,
        key: jax.Array | None = None,
    ) -> jax.Array:
        """Computes float32 logits `[b, classes]`.

        Args:
          params, frozen: as the attributes.
          images: `[b, h, w, 3]`, uint8 or normalised.
          genome: int `[depth, columns]`.
          key: a JAX random key in training, else None.
        """
        x = self.normalise(images) if images.dtype == jnp.uint8 else images
        model = nnx.merge(self.graphdef, params, _together(frozen))
        gather = self.mesh and functools.partial(sharding.gather, self.mesh)
        return model(x, genome, train=key is not None, key=key, gather=gather)


def normalise(images: jax.Array, mean: Sequence[float], std: Sequence[float]) -> jax.Array:
    """Normalises uint8 images `[b, h, w, 3]` to float32.

    Args:
      mean, std: mean and standard deviation of RGB values in [0, 1].
    """
    x = images.astype(jnp.float32) / 255.0
    return (x - jnp.array([[[mean]]], jnp.float32)) / jnp.array([[[std]]], jnp.float32)


def inherit(params: nnx.State, larger: nnx.State) -> nnx.State:
    """Cuts the params of a larger network to the shapes of `params`.

    A subnet inherits from its supernet the first entries along each axis (NOAH, section 3.2).

    Args:
      larger: params of a network with the same or larger prompt modules.
    """
    flat = dict(nnx.to_flat_state(larger))
    return nnx.from_flat_state(
        (path, variable.replace(flat[path][...][tuple(map(slice, variable.shape))]))
        for path, variable in nnx.to_flat_state(params)
    )


def trainable(method: str) -> nnx.filterlib.Filter:
    """The NNX filter for what a method trains: everything, or the prompt modules and the head."""
    return nnx.Param if method == "full" else _FRESH


def in_dtype(frozen: nnx.State, dtype: str) -> nnx.State:
    """Casts matrices and their biases to the dtype of the computation; the rest stays float32."""

    def cast(path, x):
        name = jax.tree_util.keystr(path)
        of_matrix = "kernel" in name or ("bias" in name and "norm" not in name)
        return x.astype(dtype) if of_matrix else x

    return jax.tree_util.tree_map_with_path(cast, frozen)


def apart(frozen: nnx.State, depth: int) -> dict[str, Any]:
    """Takes the weights of the blocks apart, so that no program has to.

    Returns:
      "blocks", a list of the state of each, and "others".
    """
    blocks, others = nnx.split_state(frozen, nnx.PathContains("blocks"), ...)
    each = [jax.tree.map(operator.itemgetter(i), blocks) for i in range(depth)]
    return {"blocks": each, "others": others}


def _together(frozen: nnx.State | dict[str, Any]) -> nnx.State:
    """Undoes `apart`; the compiler sees that nothing has to be copied."""
    if isinstance(frozen, nnx.State):
        return frozen
    blocks = jax.tree.map(lambda *each: jnp.stack(each), *frozen["blocks"])
    return nnx.merge_state(frozen["others"], blocks)


def make_network(
    config: ViTConfig,
    max_sizes: dict[str, int],
    backbone: nnx.State,
    normalisation: tuple[tuple[float, ...], tuple[float, ...]],
    method: str,
    seed: int,
    mesh: Mesh,
) -> Network:
    """Puts fresh prompt modules and a fresh head on pre-trained weights.

    Args:
      max_sizes: see `ViT`.
      backbone: the ViT without prompt modules and head; see `pretrained.backbone`.
      normalisation: mean and standard deviation of RGB values in [0, 1].
      method: a method's name; "full" trains everything.
      seed: for the fresh weights.
      mesh: the devices that the weights are placed on.
    """

    graphdef, make_fresh = _initialiser(config, tuple(sorted(max_sizes.items())))
    model = nnx.merge(graphdef, make_fresh(np.uint32(seed)), backbone)
    graphdef, *states = nnx.split(model, trainable(method), ...)
    params, frozen = states
    frozen = in_dtype(frozen, config.dtype)
    if config.execution.unrolled:
        frozen = apart(frozen, config.depth)
    mean, std = normalisation
    return Network(
        graphdef,
        sharding.replicate(mesh, params),
        sharding.place_frozen(mesh, frozen),
        mean,
        std,
        mesh if mesh.shape["weights"] > 1 else None,
        config.execution,
    )


@functools.lru_cache(maxsize=32)
def _initialiser(config: ViTConfig, max_sizes: tuple[tuple[str, int], ...]):
    """The ViT's static part, and the compiled function seed → the weights that start fresh."""

    def init(seed):
        model = ViT(config, dict(max_sizes), rngs=nnx.Rngs(jax.random.key(seed)))
        return nnx.split(model, _FRESH, ...)

    graphdef, *_ = nnx.eval_shape(init, np.uint32(0))
    return graphdef, jax.jit(lambda seed: init(seed)[1])  # XLA drops the backbone's random numbers
