"""The prompt modules: visual prompts, LoRA, adapter (NOAH, section 3.1), and a parallel adapter.

Each holds its parameters at the maximum size and takes the size to use as a traced int. The first
`size` rows or columns count, and the rest is masked. Size 0 means that the module is absent. The
masks are `where`, which keeps the gradients of unused entries exactly zero.
"""

import jax
import jax.numpy as jnp
from flax import nnx
from jax.ad_checkpoint import checkpoint_name


class PromptParam(nnx.Param):
    """A parameter of a prompt module; NOAH trains these and the head."""


def drop(
    x: jax.Array, rate: float | jax.Array, key: jax.Array | None, per_example: bool = False
) -> jax.Array:
    """Drops single values of `x` `[b, ...]`, or whole examples (stochastic depth).

    Args:
      rate: the probability of dropping; may be traced.
      key: a JAX random key; None = nothing is dropped.
      per_example: drops whole examples.
    """
    if key is None:
        return x
    shape = (x.shape[0],) + (1,) * (x.ndim - 1) if per_example else x.shape
    keep_rate = 1.0 - jnp.asarray(rate, jnp.float32)
    keep = checkpoint_name(jax.random.bernoulli(key, keep_rate, shape), "kept")
    return jnp.where(keep, x / keep_rate.astype(x.dtype), jnp.zeros((), x.dtype))


def quick_gelu(x: jax.Array) -> jax.Array:
    """The approximation of GELU that the adapter and CLIP use."""
    return x * jax.nn.sigmoid(1.702 * x)


def _first(x: jax.Array, size: int | jax.Array, axis: int) -> jax.Array:
    """Sets to zero everything from index `size` on along the negative `axis`."""
    index = jnp.arange(x.shape[axis]).reshape((-1,) + (1,) * (-axis - 1))
    return jnp.where(index < size, x, jnp.zeros((), x.dtype))


class VisualPrompts(nnx.Module):
    """Deep visual prompts (VPT, arXiv 2203.12119): tokens in the last slots of the sequence."""

    def __init__(self, max_size: int, width: int, *, rngs: nnx.Rngs):
        # The original applies Xavier to a [1, r, d] tensor, so fan in is r·d and fan out is d.
        bound = (6 / ((max_size + 1) * width)) ** 0.5
        self.tokens = PromptParam(
            jax.random.uniform(rngs.params(), (max_size, width), jnp.float32, -bound, bound)
        )

    def __call__(
        self,
        x: jax.Array,
        live: int | jax.Array,
        size: int | jax.Array,
        rate: float,
        key: jax.Array | None,
    ) -> tuple[jax.Array, jax.Array]:
        """Puts the first `size` prompts into the slots, or leaves the slots as they are at size 0.

        Args:
          x: `[b, n, d]`; the last `max_size` tokens are the slots.
          live: int, how many slots hold a token so far.
          size: int, how many prompts this block has.
          rate, key: for dropout; see `drop`.

        Returns:
          `x` with the slots filled, and the new `live`. The contents of the slots from `live` on
          mean nothing: no other token may attend to them.
        """
        b, n, d = x.shape
        max_size = self.tokens.shape[0]
        prompts = _first(self.tokens[...].astype(x.dtype), size, axis=-2)  # [r d]
        prompts = drop(jnp.broadcast_to(prompts, (b, max_size, d)), rate, key)  # [b r d]
        slots = jnp.where(size > 0, prompts, x[:, n - max_size :])
        return x.at[:, n - max_size :].set(slots), jnp.where(size > 0, size, live)


class LoRA(nnx.Module):
    """A low-rank update of a linear layer (LoRA, arXiv 2106.09685), without an alpha/r factor."""

    def __init__(self, max_size: int, width: int, features: int, *, rngs: nnx.Rngs):
        bound = width**-0.5  # Kaiming-uniform with a = sqrt(5)
        self.a = PromptParam(
            jax.random.uniform(rngs.params(), (width, max_size), jnp.float32, -bound, bound)
        )
        self.b = PromptParam(jnp.zeros((max_size, features), jnp.float32))

    def __call__(
        self, x: jax.Array, size: int | jax.Array, rate: float, key: jax.Array | None
    ) -> jax.Array:
        """Computes the addend to the layer's output: `x` `[b, n, d]` to `[b, n, features]`."""
        inner = drop(x, rate, key) @ self.a[...].astype(x.dtype)  # [b n r]
        return _first(inner, size, axis=-1) @ self.b[...].astype(x.dtype)


class _Bottleneck(nnx.Module):
    """The tensors of both adapters: `down` `[d, r]`, `up` `[r, d]`, biases that start at zero."""

    def __init__(self, down: jax.Array, up: jax.Array):
        self.down = PromptParam(down)
        self.down_bias = PromptParam(jnp.zeros(down.shape[1:], jnp.float32))
        self.up = PromptParam(up)
        self.up_bias = PromptParam(jnp.zeros(up.shape[1:], jnp.float32))

    def _summands(self, activation, x, size, rate, key):
        """Computes the bottleneck's output for `x` `[b, n, d]` and, separately, its bias `[d]`."""
        down_bias, up_bias = (bias[...].astype(x.dtype) for bias in (self.down_bias, self.up_bias))
        hidden = x @ self.down[...].astype(x.dtype) + down_bias[None, None]
        hidden = drop(activation(hidden), rate, key)  # [b n r]
        up_bias = jnp.where(size > 0, up_bias, jnp.zeros((), x.dtype))
        return _first(hidden, size, axis=-1) @ self.up[...].astype(x.dtype), up_bias


class Adapter(_Bottleneck):
    """A bottleneck with a skip (arXiv 1902.00751): h + up(quick_gelu(down(h)))."""

    def __init__(self, max_size: int, width: int, *, rngs: nnx.Rngs):
        # The adapter starts as nearly the identity. The original asks for Xavier here, but a later
        # sweep over all its linear layers overwrites that with this distribution.
        normal = nnx.initializers.truncated_normal(0.02)
        down = normal(rngs.params(), (width, max_size), jnp.float32)
        super().__init__(down, normal(rngs.params(), (max_size, width), jnp.float32))

    def __call__(
        self, h: jax.Array, size: int | jax.Array, rate: float, key: jax.Array | None
    ) -> jax.Array:
        """Adapts `h` `[b, n, d]`, the MLP's output, to the same shape; returns `h` at size 0."""
        change, bias = self._summands(quick_gelu, h, size, rate, key)
        return h + change + bias[None, None]


class ParallelAdapter(_Bottleneck):
    """A bottleneck beside the MLP (AdaptFormer, arXiv 2205.13535): up(relu(down(x)))."""

    def __init__(self, max_size: int, width: int, *, rngs: nnx.Rngs):
        bound = width**-0.5  # Kaiming-uniform with a = sqrt(5)
        down = jax.random.uniform(rngs.params(), (width, max_size), jnp.float32, -bound, bound)
        super().__init__(down, jnp.zeros((max_size, width), jnp.float32))

    def __call__(
        self, x: jax.Array, size: int | jax.Array, rate: float, key: jax.Array | None
    ) -> jax.Array:
        """Computes the addend to the MLP's output: unnormalised `x` `[b, n, d]` to that shape."""
        change, bias = self._summands(jax.nn.relu, x, size, rate, key)
        return change + bias[None, None]
