"""Attention in which the last keys may be empty slots, and the rotation of queries and keys.

A length says which slots are empty, so no mask of the size of the attention matrix exists.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax.ad_checkpoint import checkpoint_name

FUSED = "dot_product_attention"  # part of the name of the primitive that is one fused kernel


def attend(
    q: jax.Array, k: jax.Array, v: jax.Array, keys: int | jax.Array | None, fused: bool
) -> jax.Array:
    """Softmax attention over the first `keys` keys.

    Args:
      q: `[b, m, heads, c]`. The softmax is in float32 whatever the dtype.
      k, v: `[b, n, heads, c]`.
      keys: None = all, which `fused` does not take.
      fused: uses cuDNN's kernel, which needs an NVIDIA GPU and 16-bit numbers; see `can_fuse`.

    Returns:
      `[b, m, heads, c]`
    """
    if fused:
        return _fused(q, k, v, keys)
    # Heads come before tokens, the maximum has no gradient, and the division comes last. On a CPU
    # this takes half the time of jax.nn.dot_product_attention.
    q, k, v = (jnp.swapaxes(x, 1, 2) for x in (q * q.shape[-1] ** -0.5, k, v))  # [b heads n c]
    scores = jnp.einsum("bhmc,bhnc->bhmn", q, k, preferred_element_type=jnp.float32)
    if keys is not None:
        position = jnp.arange(scores.shape[-1])[None, None, None]
        scores = jnp.where(position < keys, scores, jnp.finfo(jnp.float32).min)
    highest = jax.lax.stop_gradient(scores.max(axis=-1, keepdims=True))
    exponentials = jnp.exp(scores - checkpoint_name(highest, "softmax"))
    total = checkpoint_name(exponentials.sum(axis=-1, keepdims=True), "softmax")
    out = jnp.einsum(
        "bhmn,bhnc->bhmc", exponentials.astype(v.dtype), v, preferred_element_type=jnp.float32
    )
    return jnp.swapaxes(out / total, 1, 2).astype(v.dtype)


def _fused(q, k, v, keys):
    tokens = q.shape[1]
    if tokens % 2:  # JAX refuses the gradient for an odd number
        q, k, v = (jnp.pad(x, ((0, 0), (0, 1), (0, 0), (0, 0))) for x in (q, k, v))
    lengths = jnp.full(len(k), keys, jnp.int32)
    out = jax.nn.dot_product_attention(
        *(q, k, v),
        query_seq_lengths=q.shape[1] + 0 * lengths,  # all; vmap then batches both lengths
        key_value_seq_lengths=lengths,
        implementation="cudnn",
    )
    return out[:, :tokens]


def patch_angles(grid: int, pairs: int) -> np.ndarray:
    """The angles of DINOv3's RoPE (arXiv 2508.10104) for `rotate`, float64 `[grid², pairs]`.

    The first half of the pairs turns with the patch's row, the other half with its column. The
    patches' centres lie between -1 and 1, whatever the image size. Over a length of 1 the first
    pair turns once, and each further one less, in equal ratios down to nearly a hundredth.
    """
    centres = (2 * np.arange(grid) + 1) / grid - 1
    turns = np.outer(centres, 100.0 ** -np.linspace(0, 1, pairs // 2, endpoint=False))
    both = [np.repeat(turns, grid, axis=0), np.tile(turns, (grid, 1))]
    return 2 * np.pi * np.concatenate(both, axis=1)


def rotate(x: jax.Array, angles: np.ndarray) -> jax.Array:
    """Rotates `x` `[b, n, heads, c]` by `angles` `[n, c/2]`; channels i and i + c/2 are a pair.

    An angle of 0 changes no bit.
    """
    cos, sin = (jnp.asarray(f(angles), jnp.float32)[None, :, None] for f in (np.cos, np.sin))
    one, other = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    return jnp.concatenate([one * cos - other * sin, other * cos + one * sin], -1).astype(x.dtype)


def can_fuse(heads: int, channels: int, dtype: str) -> bool:
    """Tries whether this device and its cuDNN run the fused kernel and its gradient."""
    if jax.default_backend() != "gpu" or dtype != "bfloat16":
        return False
    x = jnp.zeros((1, 17, heads, channels), dtype)
    try:
        jax.block_until_ready(jax.jit(jax.grad(lambda x: attend(x, x, x, 9, True).sum()))(x))
    except Exception:  # each cuDNN, GPU and JAX refuses in its own way
        return False
    return True
