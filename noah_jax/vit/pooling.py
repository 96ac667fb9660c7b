"""SigLIP's pooling head, which makes one vector of the patches where there is no class token."""

import jax
import jax.numpy as jnp
from flax import nnx

from noah_jax.vit.attention import attend
from noah_jax.vit.block import gelu, layer_norm
from noah_jax.vit.config import ViTConfig


class AttentionPool(nnx.Module):
    """Attention of one learned query, the probe, to all patches, and an MLP (arXiv 2106.04560)."""

    def __init__(self, config: ViTConfig, *, rngs: nnx.Rngs):
        d, dtype = config.width, jnp.dtype(config.dtype)
        hidden = config.mlp_width or 4 * d
        self.heads, self.activation = config.heads, gelu(config)
        self.probe = nnx.Param(jax.random.normal(rngs.params(), (1, 1, d), jnp.float32))
        self.query = nnx.Linear(d, d, dtype=dtype, rngs=rngs)
        self.key_value = nnx.Linear(d, 2 * d, dtype=dtype, rngs=rngs)
        self.proj = nnx.Linear(d, d, dtype=dtype, rngs=rngs)
        self.norm = layer_norm(config, rngs)
        self.fc1 = nnx.Linear(d, hidden, dtype=dtype, rngs=rngs)
        self.fc2 = nnx.Linear(hidden, d, dtype=dtype, rngs=rngs)

    def __call__(self, patches: jax.Array) -> jax.Array:
        """Pools `patches` `[b, n, d]`, after the final layer norm, to `[b, d]`."""
        b, _, d = patches.shape
        query = jnp.broadcast_to(self.query(self.probe[...]), (b, 1, d))
        parts = (query, *jnp.split(self.key_value(patches), 2, axis=-1))
        q, k, v = (part.reshape(b, -1, self.heads, d // self.heads) for part in parts)
        x = self.proj(attend(q, k, v, keys=None, fused=False).reshape(b, d))
        return x + self.fc2(self.activation(self.fc1(self.norm(x))))
