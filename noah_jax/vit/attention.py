"""Self-attention in which the last keys may be empty slots.

A length says which slots are empty, so no mask of the size of the attention matrix exists.
"""

import jax
import jax.numpy as jnp
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
