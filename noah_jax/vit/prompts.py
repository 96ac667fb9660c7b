"""The prompt modules: visual prompts, LoRA, adapter (NOAH, section 3.1), and a parallel adapter.

Each holds its parameters at the maximum size and takes the size to use as a traced int. The first
`size` rows or columns count, and the rest is masked. Size 0 means that the module is absent. The
masks are `where`, which keeps the gradients of unused entries exactly zero.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.ad_checkpoint import checkpoint_name

Dropout = Callable[[jax.Array], jax.Array]  # `drop` with its rate and key


class PromptParam(nnx.Param):
    """A parameter of a prompt module; NOAH trains these and the head."""


def drop(x: jax.Array, rate: float, key: jax.Array | None, quick: bool = False) -> jax.Array:
    """Drops single values of `x` `[b, ...]`, and divides the others by the share that is kept.

    Args:
      rate: the probability of dropping.
      key: a JAX random key; None = nothing is dropped.
      quick: see `Execution.quick_dropout`.
    """
    if key is None:
        return x
    if quick:
        dropped = min(round(256 * rate), 255)
        words = jax.random.bits(key, (*x.shape[:-1], -(-x.shape[-1] // 4)), jnp.uint32)
        numbers = jax.lax.bitcast_convert_type(words, jnp.uint8).reshape(*x.shape[:-1], -1)
        keep, keep_rate = numbers[..., : x.shape[-1]] >= dropped, jnp.float32(1 - dropped / 256)
    else:
        keep_rate = 1.0 - jnp.asarray(rate, jnp.float32)
        keep = jax.random.bernoulli(key, keep_rate, x.shape)
    keep = checkpoint_name(keep, "kept")
    return jnp.where(keep, x / keep_rate.astype(x.dtype), jnp.zeros((), x.dtype))


class Noise(NamedTuple):
    """The random numbers of a block in training, or of several, along a first axis.

    All None = nothing is dropped.

    Attributes:
      vpt, lora, adapter, parallel: keys of the modules' dropout.
      attention, mlp: float32 `[b, 1, 1]`, what stochastic depth multiplies each example's branch
        by: 0, or 1 by the share that is kept.
    """

    vpt: jax.Array | None = None
    lora: jax.Array | None = None
    attention: jax.Array | None = None
    mlp: jax.Array | None = None
    adapter: jax.Array | None = None
    parallel: jax.Array | None = None


def draw_noise(key: jax.Array, rate: jax.Array, examples: int) -> Noise:
    """Draws the random numbers of a block.

    Args:
      key: a JAX random key.
      rate: the probability that an example skips a branch.
      examples: their number, b.
    """
    vpt, lora, attention, mlp, adapter = jax.random.split(key, 5)

    def survival(key):
        keep = jax.random.bernoulli(key, 1 - rate, (examples, 1, 1))
        return jnp.where(keep, 1 / (1 - rate), 0.0)

    parallel = jax.random.fold_in(key, 5)  # came later: the others are the same with and without it
    return Noise(vpt, lora, survival(attention), survival(mlp), adapter, parallel)


def scaled(x: jax.Array, scale: jax.Array | None) -> jax.Array:
    """Multiplies `x` `[b, n, d]` by `Noise.attention` or `Noise.mlp`."""
    return x if scale is None else (x.astype(jnp.float32) * scale).astype(x.dtype)


def quick_gelu(x: jax.Array) -> jax.Array:
    """The approximation of GELU that the adapter and CLIP use."""
    return x * jax.nn.sigmoid(1.702 * x)


def _first(x: jax.Array, size: int | jax.Array, axis: int) -> jax.Array:
    """Sets to zero everything from index `size` on along the negative `axis`."""
    index = jnp.arange(x.shape[axis]).reshape((-1,) + (1,) * (-axis - 1))
    return jnp.where(index < size, x, jnp.zeros((), x.dtype))


def _padded(x: jax.Array, multiple: int, axis: int) -> jax.Array:
    """Adds zeros up to a multiple along an axis; see `Execution.rank_multiple`."""
    widths = [(0, 0)] * x.ndim
    widths[axis] = (0, -x.shape[axis] % multiple)
    return checkpoint_name(jnp.pad(x, widths), "weights") if multiple > 1 else x


class VisualPrompts(nnx.Module):
    """Deep visual prompts (VPT, arXiv 2203.12119): tokens in `max_size` slots from `start` on."""

    def __init__(self, max_size: int, width: int, start: int, *, rngs: nnx.Rngs):
        self.start = start
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
        dropout: Dropout,
    ) -> tuple[jax.Array, jax.Array]:
        """Puts the first `size` prompts into the slots, or leaves the slots as they are at size 0.

        Args:
          x: `[b, n, d]`, with the slots.
          live: int, how many slots hold a token so far.
          size: int, how many prompts this block has.
          dropout: see `drop`.

        Returns:
          `x` with the slots filled, and the new `live`. The contents of the slots from `live` on
          mean nothing: no other token may attend to them.
        """
        max_size, width = self.tokens.shape
        prompts = _first(self.tokens[...].astype(x.dtype), size, axis=-2)  # [r d]
        prompts = dropout(jnp.broadcast_to(prompts, (x.shape[0], max_size, width)))
        stop = self.start + max_size
        slots = jnp.where(size > 0, prompts, x[:, self.start : stop])
        return x.at[:, self.start : stop].set(slots), jnp.where(size > 0, size, live)


class LoRA(nnx.Module):
    """A low-rank update of a linear layer (LoRA, arXiv 2106.09685), without an alpha/r factor.

    The update may be one product with the layer, see `joined`.
    """

    def __init__(
        self, max_size: int, width: int, features: int, multiple: int = 1, *, rngs: nnx.Rngs
    ):
        self.multiple = multiple
        bound = width**-0.5  # Kaiming-uniform with a = sqrt(5)
        self.a = PromptParam(
            jax.random.uniform(rngs.params(), (width, max_size), jnp.float32, -bound, bound)
        )
        self.b = PromptParam(jnp.zeros((max_size, features), jnp.float32))

    def __call__(self, x: jax.Array, size: int | jax.Array, dropout: Dropout) -> jax.Array:
        """Computes the inner values of the update: `x` `[b, n, d]` to `[b, n, r]`.

        `r` is the rank, rounded up to a multiple.
        """
        dropped = checkpoint_name(dropout(x), "dropped")
        down = _padded(self.a[...].astype(x.dtype), self.multiple, axis=1)
        return _first(checkpoint_name(dropped @ down, "inner"), size, axis=-1)

    def up(self, dtype: jax.typing.DTypeLike) -> jax.Array:
        """The matrix `[r, features]` that the inner values are multiplied by."""
        return _padded(self.b[...].astype(dtype), self.multiple, axis=0)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def joined(
    products: int, x: jax.Array, inner: jax.Array, kernel: jax.Array, b: jax.Array, bias: jax.Array
) -> list[jax.Array]:
    """Computes `x @ kernel + inner @ b + bias`, without a second product and its addition.

    The same goes for the gradient. JAX alone would compute that of a frozen kernel, too.

    Args:
      products: the features come in so many equal parts, each by a product of its own.
      x, inner: `[b, n, d]`, `[b, n, r]`.
      kernel, b, bias: `[d, features]`, `[r, features]`, `[features]`.

    Returns:
      The parts, `[b, n, features / products]`.
    """
    return _joined_forwards(products, x, inner, kernel, b, bias)[0]


def _joined_forwards(products, x, inner, kernel, b, bias):
    both, weights = jnp.concatenate([x, inner], axis=-1), jnp.concatenate([kernel, b])
    columns = [checkpoint_name(w, "weights") for w in jnp.split(weights, products, axis=-1)]
    biases = jnp.split(bias, products)
    parts = [both @ w + c[None, None] for w, c in zip(columns, biases, strict=True)]
    return parts, (x, inner, columns)


def _joined_backwards(products, kept, slopes):
    x, inner, columns = kept
    both = sum(slope @ w.T for slope, w in zip(slopes, columns, strict=True))

    def of_weights(x):
        return jnp.concatenate([jnp.einsum("bni,bno->io", x, y) for y in slopes], axis=-1)

    width = x.shape[-1]
    of_bias = jnp.concatenate([slope.sum(axis=(0, 1)) for slope in slopes])
    return both[..., :width], both[..., width:], of_weights(x), of_weights(inner), of_bias


joined.defvjp(_joined_forwards, _joined_backwards)


class _Bottleneck(nnx.Module):
    """The tensors of both adapters: `down` `[d, r]`, `up` `[r, d]`, biases that start at zero."""

    def __init__(self, down: jax.Array, up: jax.Array, multiple: int):
        self.multiple = multiple
        self.down = PromptParam(down)
        self.down_bias = PromptParam(jnp.zeros(down.shape[1:], jnp.float32))
        self.up = PromptParam(up)
        self.up_bias = PromptParam(jnp.zeros(up.shape[1:], jnp.float32))

    def _output(self, activation, x, size, dropout, scale=None):
        """Computes the bottleneck's output for `x` `[b, n, d]` multiplied by `scale`."""
        down, down_bias, up, up_bias = (
            param[...].astype(x.dtype)
            for param in (self.down, self.down_bias, self.up, self.up_bias)
        )
        down, down_bias = (_padded(w, self.multiple, axis=-1) for w in (down, down_bias))
        inner = checkpoint_name(x @ down, "inner")  # [b n r]
        hidden = activation(scaled(inner, scale) + down_bias[None, None])
        hidden = _first(dropout(hidden), size, axis=-1)
        up_bias = jnp.where(size > 0, up_bias, jnp.zeros((), x.dtype))
        return hidden @ _padded(up, self.multiple, axis=0) + up_bias[None, None]


class Adapter(_Bottleneck):
    """A bottleneck with a skip (arXiv 1902.00751): h + up(quick_gelu(down(h)))."""

    def __init__(self, max_size: int, width: int, multiple: int = 1, *, rngs: nnx.Rngs):
        # The adapter starts as nearly the identity. The original asks for Xavier here, but a later
        # sweep over all its linear layers overwrites that with this distribution.
        normal = nnx.initializers.truncated_normal(0.02)
        down = normal(rngs.params(), (width, max_size), jnp.float32)
        super().__init__(down, normal(rngs.params(), (max_size, width), jnp.float32), multiple)

    def __call__(
        self,
        h: jax.Array,
        size: int | jax.Array,
        dropout: Dropout,
        scale: jax.Array | None = None,
    ) -> jax.Array:
        """Computes the addend to the MLP's output, `h` by `scale`: `[b, n, d]` to that shape.

        Args:
          scale: see `Noise.mlp`. Multiplied later, it spares a copy of `h`.
        """
        return self._output(quick_gelu, h, size, dropout, scale)


class ParallelAdapter(_Bottleneck):
    """A bottleneck beside the MLP (AdaptFormer, arXiv 2205.13535): up(relu(down(x)))."""

    def __init__(self, max_size: int, width: int, multiple: int = 1, *, rngs: nnx.Rngs):
        bound = width**-0.5  # Kaiming-uniform with a = sqrt(5)
        down = jax.random.uniform(rngs.params(), (width, max_size), jnp.float32, -bound, bound)
        super().__init__(down, jnp.zeros((max_size, width), jnp.float32), multiple)

    def __call__(self, x: jax.Array, size: int | jax.Array, dropout: Dropout) -> jax.Array:
        """Computes the addend to the MLP's output: unnormalised `x` `[b, n, d]` to that shape."""
        return self._output(jax.nn.relu, x, size, dropout)
