"""Vision Transformer (arXiv 2010.11929) with prompt modules in every block.

The same code is DeiT, DINO, DINOv2 (with registers too), MAE's encoder and CLIP's image tower. The
blocks are stacked in one set of arrays `[depth, ...]`. `lax.scan` runs them, so that compile time
does not grow with depth, or each is a part of the program, which is faster on a GPU or TPU; see
execution.py. The genome is an argument, as the images are. No shape depends on it.
"""

import functools
import operator
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.ad_checkpoint import checkpoint_name

from noah_jax.space.genomes import ALL_MODULES, MODULES
from noah_jax.vit.attention import FUSED, attend
from noah_jax.vit.config import ViTConfig
from noah_jax.vit.prompts import (
    Adapter,
    Dropout,
    LoRA,
    Noise,
    ParallelAdapter,
    PromptParam,
    VisualPrompts,
    draw_noise,
    drop,
    joined,
    quick_gelu,
    scaled,
)

# The forward pass of a block keeps these for the backward pass, besides the block's input. The rest
# is cheap to compute again, whereas keeping it costs memory and the time to write it.
_KEPT = ("tokens", "qkv", "middle", "hidden", "mlp", "kept", "weights", "softmax")

_NORMAL = nnx.initializers.truncated_normal(0.02)  # one object, so that equal models compare equal
Gather = Callable[[nnx.State], nnx.State]  # of the weights of a block, one array a parameter


class Block(nnx.Module):
    """A pre-norm transformer block with its prompt modules at maximum size."""

    def __init__(self, config: ViTConfig, max_sizes: Mapping[str, int], *, rngs: nnx.Rngs):
        d, dtype = config.width, jnp.dtype(config.dtype)
        self.heads, self.dropout, self.quick_gelu = config.heads, config.dropout, config.quick_gelu
        self.execution, self.first_slot = config.execution, config.first_slot
        self.norm1 = _layer_norm(config, rngs)
        self.qkv = nnx.Linear(d, 3 * d, dtype=dtype, rngs=rngs)
        self.proj = nnx.Linear(d, d, dtype=dtype, rngs=rngs)
        self.norm2 = _layer_norm(config, rngs)
        self.fc1 = nnx.Linear(d, 4 * d, dtype=dtype, rngs=rngs)
        self.fc2 = nnx.Linear(4 * d, d, dtype=dtype, rngs=rngs)
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
        h = self.fc2(quick_gelu(h) if self.quick_gelu else jax.nn.gelu(h, approximate=False))
        h = checkpoint_name(h, "mlp")
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
        fused = fused and wanted is None
        # Empty slots come last, so a length says which they are.
        keys = self.first_slot + live if n > self.first_slot or fused else None
        out = attend(q[:, :wanted], k, v, keys, fused)
        return self.proj(out.reshape(b, -1, d))

    def _qkv(self, h, lora_size, key, products):
        """Computes queries, keys and values, each `[b, n, d]`, in 1 product or, if it can, in 3."""
        if self.lora is None:
            parts = [self.qkv(h)]
        elif not self.execution.joined_lora:
            inner = self.lora(h, lora_size, self._dropout(key))
            parts = [self.qkv(h) + inner @ self.lora.up(h.dtype)]
        else:
            inner = self.lora(h, lora_size, self._dropout(key))
            layer: Any = self.qkv
            kernel, bias = (param[...].astype(h.dtype) for param in (layer.kernel, layer.bias))
            parts = joined(products, h, inner, kernel, self.lora.up(h.dtype), bias)
        if self.execution.split_kept and len(parts) == 1:
            parts = jnp.split(parts[0], 3, axis=-1)
        parts = [checkpoint_name(part, "qkv") for part in parts]
        return parts if len(parts) == 3 else jnp.split(parts[0], 3, axis=-1)


class ViT(nnx.Module):
    """A classifier on the class token: `model(images, genome)` → logits.

    Args:
      config: the shape and the dtype.
      max_sizes: module, any of `ALL_MODULES`, → the size at which its parameters exist; missing or
        0 = the module is never used.
      rngs: initialises everything, including the parts that pre-trained weights replace.

    Raises:
      ValueError: `max_sizes` names an unknown module.
    """

    def __init__(self, config: ViTConfig, max_sizes: Mapping[str, int], *, rngs: nnx.Rngs):
        if unknown := set(max_sizes) - set(ALL_MODULES):
            raise ValueError(f"unknown modules {sorted(unknown)}: expected some of {ALL_MODULES}")
        self.config = config
        self.max_vpt = max_sizes.get("vpt", 0)
        d, dtype = config.width, jnp.dtype(config.dtype)
        self.patch_embed = nnx.Linear(
            3 * config.patch_size**2, d, use_bias=not config.pre_norm, dtype=dtype, rngs=rngs
        )
        self.cls_token = nnx.Param(_NORMAL(rngs.params(), (1, 1, d), jnp.float32))
        self.pos_embed = nnx.Param(_NORMAL(rngs.params(), (1, 1 + config.grid**2, d), jnp.float32))
        self.register_tokens = (
            nnx.Param(_NORMAL(rngs.params(), (1, config.registers, d), jnp.float32))
            if config.registers
            else None
        )
        self.norm_pre = _layer_norm(config, rngs) if config.pre_norm else None

        @nnx.split_rngs(splits=config.depth)
        @nnx.vmap
        def stack(rngs):
            return Block(config, max_sizes, rngs=rngs)

        self.blocks = stack(rngs)
        self.norm = _layer_norm(config, rngs)
        self.head = nnx.Linear(
            d, config.num_classes, kernel_init=_NORMAL, dtype=jnp.float32, rngs=rngs
        )

    def embed(self, images: jax.Array) -> jax.Array:
        """Turns normalised images `[b, h, w, 3]` into tokens `[b, n, d]`.

        They are, in this order: class token, registers, patches, empty prompt slots.

        Raises:
          ValueError: the images are not of the config's size.
        """
        b, side, grid = images.shape[0], self.config.image_size, self.config.grid
        if images.shape[1:] != (side, side, 3):
            raise ValueError(f"expected images [b, {side}, {side}, 3], got {list(images.shape)}")
        p, dtype = self.config.patch_size, jnp.dtype(self.config.dtype)
        patches = images.astype(dtype).reshape(b, grid, p, grid, p, 3).swapaxes(2, 3)
        x = self.patch_embed(patches.reshape(b, grid * grid, p * p * 3))
        positions = self.pos_embed[...].astype(dtype)
        prefix = self.cls_token[...].astype(dtype) + positions[:, :1]
        if self.register_tokens is not None:
            prefix = jnp.concatenate([prefix, self.register_tokens[...].astype(dtype)], axis=1)
        prefix = jnp.broadcast_to(prefix, (b, *prefix.shape[1:]))
        x = jnp.concatenate([prefix, x + positions[:, 1:]], axis=1)
        if self.norm_pre is not None:
            x = self.norm_pre(x).astype(dtype)
        slots = self.max_vpt
        if self.config.execution.fused_attention:
            slots += -(x.shape[1] + slots) % 8
        return jnp.pad(x, ((0, 0), (0, slots), (0, 0)))

    def features(
        self,
        images: jax.Array,
        genome: jax.Array | np.ndarray,
        key: jax.Array | None = None,
        wanted: int | None = None,
        gather: Gather | None = None,
    ) -> jax.Array:
        """Computes the tokens after the last block, `[b, n, d]`, in the order of `embed`.

        The final layer norm is not applied.

        Args:
          images, genome, gather: see `__call__`.
          key: a JAX random key in training, else None.
          wanted: returns only this many of the first tokens, `[b, wanted, d]`. The last block
            computes no others.

        Raises:
          ValueError: a shape does not fit.
        """
        depth, least, most = self.config.depth, len(MODULES), len(ALL_MODULES)
        if genome.ndim != 2 or len(genome) != depth or not least <= genome.shape[1] <= most:
            raise ValueError(
                f"expected a genome [{depth}, {least} to {most}], got {list(genome.shape)}"
            )
        genome = jnp.asarray(genome, jnp.int32)
        graphdef, *states = nnx.split(self.blocks, PromptParam, ...)
        prompts, backbone = states
        last = self.config.depth - 1
        drawn = Noise()
        if key is not None:  # for all blocks at once
            rates = jnp.linspace(0.0, self.config.drop_path, depth)
            keys = jax.random.split(key, depth)
            drawn = jax.vmap(draw_noise, (0, 0, None))(keys, rates, images.shape[0])

        def run_block(carry, weights, prompts, others, wanted=None):
            block = nnx.merge(graphdef, prompts, gather(weights) if gather else weights)
            return block(*carry, *others, wanted)

        def inputs(i):
            # Indexed here, because backbone[:-1] as a loop's input would be a copy.
            weights = jax.tree.map(lambda w: jnp.asarray(w)[i], backbone)
            return weights, (genome[i], jax.tree.map(lambda x: x[i], drawn))

        # No slot is live yet. The 0 is made from the genome so that vmap batches it likewise.
        carry = (self.embed(images), 0 * genome[0, 0])
        if self.config.execution.unrolled:
            block_step = jax.jit(self._remembering(run_block))  # traced once
            for i in range(last):
                weights, others = inputs(i)
                own = jax.tree.map(operator.itemgetter(i), prompts)
                carry = block_step(carry, weights, own, others)
        else:

            def step(carry, block):
                weights, others = inputs(block[0])
                return run_block(carry, weights, block[1], others), None

            first = jax.tree.map(lambda w: w[:-1], prompts)
            carry, _ = jax.lax.scan(self._remembering(step), carry, (jnp.arange(last), first))
        weights, others = inputs(last)
        return run_block(carry, weights, jax.tree.map(lambda w: w[-1], prompts), others, wanted)[0]

    def _remembering(self, block: Callable) -> Callable:
        """Chooses what the forward pass of a block keeps for the backward pass."""
        execution, policies = self.config.execution, jax.checkpoint_policies
        kept = policies.save_from_both_policies(
            policies.save_only_these_names(*_KEPT, *execution.kept),
            lambda primitive, *_, **__: FUSED in primitive.name,
        )
        policy = policies.nothing_saveable if self.config.rematerialise else kept
        # In a loop there are no common subexpressions to find.
        return jax.checkpoint(block, prevent_cse=execution.unrolled, policy=policy)

    def __call__(
        self,
        images: jax.Array,
        genome: jax.Array | np.ndarray,
        train: bool = False,
        key: jax.Array | None = None,
        gather: Gather | None = None,
    ) -> jax.Array:
        """Computes the logits of normalised images.

        Args:
          images: `[b, h, w, 3]`, normalised as the weights expect.
          genome: int `[depth, columns]`, sizes up to `max_sizes`; may be traced. The columns are
            the first three of `ALL_MODULES`, or more.
          train: applies dropout and stochastic depth, which need `key`.
          key: a JAX random key.
          gather: puts a block's backbone weights together when the block runs; for weights that are
            cut over devices.

        Returns:
          float32 `[b, num_classes]`.

        Raises:
          ValueError: a shape does not fit, or `train` comes without a key.
        """
        if train and key is None:
            raise ValueError("train=True needs a key")
        tokens = self.features(images, genome, key if train else None, wanted=1, gather=gather)
        return self.head(self.norm(tokens[:, 0]))


def _layer_norm(config: ViTConfig, rngs: nnx.Rngs) -> nnx.LayerNorm:
    """Makes a layer norm that takes any dtype and returns float32."""
    return nnx.LayerNorm(
        config.width,
        epsilon=config.epsilon,
        use_fast_variance=config.execution.fast_variance,
        dtype=jnp.float32,
        rngs=rngs,
    )
