"""A transformer block with its prompt modules, and what of it the backward pass finds again."""

import functools
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.ad_checkpoint import checkpoint_name

from noah_jax.space.genomes import ALL_MODULES
from noah_jax.vit.attention import FUSED, attend, patch_angles, rotate
from noah_jax.vit.config import ViTConfig
from noah_jax.vit.prompts import (
    Adapter,
    Dropout,
    LoRA,
    Noise,
    ParallelAdapter,
    VisualPrompts,
    drop,
    joined,
    quick_gelu,
    scaled,
)

# The forward pass of a block keeps these for the backward pass, besides the block's input. The rest
# is cheap to compute again, whereas keeping it costs memory and the time to write it.
_KEPT = ("tokens", "qkv", "middle", "hidden", "mlp", "kept", "weights")


class Block(nnx.Module):
    """A pre-norm transformer block with its prompt modules at maximum size."""

    def __init__(self, config: ViTConfig, max_sizes: Mapping[str, int], *, rngs: nnx.Rngs):
        d, dtype = config.width, jnp.dtype(config.dtype)
        self.heads, self.dropout, self.activation = config.heads, config.dropout, gelu(config)
        self.execution, self.first_slot = config.execution, config.first_slot
        self.rope_grid = config.grid if config.rope else None
        hidden = config.mlp_width or 4 * d
        self.norm1 = layer_norm(config, rngs)
        self.qkv = nnx.Linear(d, 3 * d, dtype=dtype, rngs=rngs)
        self.proj = nnx.Linear(d, d, dtype=dtype, rngs=rngs)
        self.norm2 = layer_norm(config, rngs)
        self.fc1 = nnx.Linear(d, hidden, dtype=dtype, rngs=rngs)
        self.fc2 = nnx.Linear(hidden, d, dtype=dtype, rngs=rngs)
        vpt, lora, adapter, parallel = (max_sizes.get(name, 0) for name in ALL_MODULES)
        self.vpt = VisualPrompts(vpt, d, self.first_slot, rngs=rngs) if vpt else None
        multiple = config.execution.rank_multiple
        self.lora = LoRA(lora, d, 3 * d, multiple, rngs=rngs) if lora else None
        self.adapter = Adapter(adapter, d, multiple, rngs=rngs) if adapter else None
        # It comes last, so that the others start from the same random numbers with and without it.
        self.parallel = ParallelAdapter(parallel, d, multiple, rngs=rngs) if parallel else None

    def __call__(
        self,
        x: jax.Array,
        live: int | jax.Array,
        row: Iterable[int | jax.Array],
        noise: Noise,
        wanted: int | None = None,
    ) -> tuple[jax.Array, int | jax.Array]:
        """Applies the block to a batch of tokens.

        Args:
          x: `[b, n, d]`.
          live: int, how many prompt slots hold a token so far; may be traced.
          row: the genome's row for this block, int `[columns]`; may be traced.
          noise: what it draws in training.
          wanted: how many of the first tokens to return; None = all.

        Returns:
          `x` `[b, wanted, d]`, and `live`.
        """
        row = dict(zip(ALL_MODULES, row, strict=False))
        if self.vpt is not None:
            x, live = self.vpt(x, live, row["vpt"], self._dropout(noise.vpt))
            x = checkpoint_name(x, "tokens")
        attended = self.attention(x, live, row["lora"], noise.lora, wanted)
        x = x[:, :wanted] + scaled(attended, noise.attention)
        x = checkpoint_name(x, "middle")
        h = checkpoint_name(self.fc1(self.norm2(x).astype(x.dtype)), "hidden")
        h = checkpoint_name(self.fc2(self.activation(h)), "mlp")
        out = scaled(h, noise.mlp)
        if self.adapter is not None:
            out = out + self.adapter(h, row["adapter"], self._dropout(noise.adapter), noise.mlp)
        if self.parallel is not None and "parallel" in row:
            out = out + self.parallel(x, row["parallel"], self._dropout(noise.parallel))
        return x + out, live

    def _dropout(self, key: jax.Array | None) -> Dropout:
        quick = self.execution.quick_dropout
        return functools.partial(drop, rate=self.dropout, key=key, quick=quick)

    def attention(
        self,
        x: jax.Array,
        live: int | jax.Array,
        lora_size: int | jax.Array,
        key: jax.Array | None,
        wanted: int | None,
    ) -> jax.Array:
        """Self-attention with LoRA on q, k and v: `x` `[b, n, d]` to `[b, wanted, d]`."""
        b, n, d = x.shape
        fused = self.execution.fused_attention
        qkv = self._qkv(self.norm1(x).astype(x.dtype), lora_size, key, products=3 if fused else 1)
        q, k, v = (part.reshape(b, n, self.heads, d // self.heads) for part in qkv)
        if self.rope_grid:
            q, k = self._rotated(q, k, self.rope_grid)
        fused = fused and wanted is None
        # Empty slots come last, so a length says which they are.
        keys = self.first_slot + live if n > self.first_slot or fused else None
        out = attend(q[:, :wanted], k, v, keys, fused)
        return self.proj(out.reshape(b, -1, d))

    def _rotated(self, q, k, grid):
        """Rotates the patches in `q` and `k`, but not class token, registers and slots."""
        _, n, _, channels = q.shape
        around = (self.first_slot - grid**2, n - self.first_slot)
        angles = np.pad(patch_angles(grid, channels // 2), (around, (0, 0)))
        return rotate(q, angles), rotate(k, angles)

    def _qkv(self, h, lora_size, key, products):
        """Computes queries, keys and values, each `[b, n, d]`, in 1 product or, if it can, in 3."""
        if self.lora is None:
            parts = [self.qkv(h)]
        else:
            inner, up = self.lora(h, lora_size, self._dropout(key)), self.lora.up(h.dtype)
            if self.execution.joined_lora:
                layer: Any = self.qkv
                kernel, bias = (param[...].astype(h.dtype) for param in (layer.kernel, layer.bias))
                parts = joined(products, h, inner, kernel, up, bias)
            else:
                parts = [self.qkv(h) + inner @ up]
        if self.execution.split_kept and len(parts) == 1:
            parts = jnp.split(parts[0], 3, axis=-1)
        parts = [checkpoint_name(part, "qkv") for part in parts]
        return parts if len(parts) == 3 else jnp.split(parts[0], 3, axis=-1)


def remembering(block: Callable, config: ViTConfig) -> Callable:
    """Chooses what the forward pass of a block keeps for the backward pass."""
    execution, policies = config.execution, jax.checkpoint_policies
    kept = policies.save_from_both_policies(
        policies.save_only_these_names(*_KEPT, *execution.kept),
        lambda primitive, *_, **__: FUSED in primitive.name,
    )
    policy = policies.nothing_saveable if config.rematerialise else kept
    # In a loop there are no common subexpressions to find.
    return jax.checkpoint(block, prevent_cse=execution.unrolled, policy=policy)


def gelu(config: ViTConfig) -> Callable[[jax.Array], jax.Array]:
    """Chooses the activation function of the MLP."""
    return quick_gelu if config.quick_gelu else _tanh_gelu if config.tanh_gelu else _exact_gelu


def _exact_gelu(x):
    return jax.nn.gelu(x, approximate=False)


def _tanh_gelu(x):
    return jax.nn.gelu(x, approximate=True)


def layer_norm(config: ViTConfig, rngs: nnx.Rngs) -> nnx.LayerNorm:
    """Makes a layer norm that takes any dtype and returns float32."""
    return nnx.LayerNorm(
        config.width,
        epsilon=config.epsilon,
        use_fast_variance=config.execution.fast_variance,
        dtype=jnp.float32,
        rngs=rngs,
    )
