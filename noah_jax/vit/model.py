"""Vision Transformer (arXiv 2010.11929) with prompt modules in every block.

The same code is DeiT, DINO, DINOv2 (with registers too), MAE's encoder and CLIP's image tower. The
blocks are stacked in one set of arrays `[depth, ...]` and run by `lax.scan`, so compile time does
not grow with depth. The genome is an argument, as the images are. No shape depends on it.
"""

import functools
from collections.abc import Callable, Iterable, Mapping

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
    LoRA,
    ParallelAdapter,
    PromptParam,
    VisualPrompts,
    drop,
    quick_gelu,
)

# The forward pass of a block keeps these for the backward pass, besides the block's input. The rest
# is cheap to compute again, whereas keeping it costs memory and the time to write it.
_KEPT = ("qkv", "middle", "hidden", "mlp", "kept")

_NORMAL = nnx.initializers.truncated_normal(0.02)  # one object, so that equal models compare equal
Gather = Callable[[nnx.State], nnx.State]  # of the weights of a block, one array a parameter


class Block(nnx.Module):
    """A pre-norm transformer block with its prompt modules at maximum size."""

    def __init__(self, config: ViTConfig, max_sizes: Mapping[str, int], *, rngs: nnx.Rngs):
        d, dtype = config.width, jnp.dtype(config.dtype)
        self.heads, self.dropout = config.heads, config.dropout
        self.quick_gelu, self.fused_attention = config.quick_gelu, config.fused_attention
        self.norm1 = _layer_norm(config, rngs)
        self.qkv = nnx.Linear(d, 3 * d, dtype=dtype, rngs=rngs)
        self.proj = nnx.Linear(d, d, dtype=dtype, rngs=rngs)
        self.norm2 = _layer_norm(config, rngs)
        self.fc1 = nnx.Linear(d, 4 * d, dtype=dtype, rngs=rngs)
        self.fc2 = nnx.Linear(4 * d, d, dtype=dtype, rngs=rngs)
        vpt, lora, adapter, parallel = (max_sizes.get(name, 0) for name in ALL_MODULES)
        self.vpt = VisualPrompts(vpt, d, rngs=rngs) if vpt else None
        self.lora = LoRA(lora, d, 3 * d, rngs=rngs) if lora else None
        self.adapter = Adapter(adapter, d, rngs=rngs) if adapter else None
        # It comes last, so that the others start from the same random numbers with and without it.
        self.parallel = ParallelAdapter(parallel, d, rngs=rngs) if parallel else None

    def __call__(
        self,
        x: jax.Array,
        live: int | jax.Array,
        row: Iterable[int | jax.Array],
        drop_path: float | jax.Array,
        key: jax.Array | None,
        wanted: int | None = None,
    ) -> tuple[jax.Array, int | jax.Array]:
        """Applies the block to a batch of tokens.

        Args:
          x: `[b, n, d]`.
          live: int, how many prompt slots hold a token so far; may be traced.
          row: the genome's row for this block, int `[columns]`; may be traced.
          drop_path: the probability that an example skips a branch.
          key: a JAX random key in training, else None.
          wanted: how many of the first tokens to return; None = all.

        Returns:
          `x` `[b, wanted, d]`, and `live`.
        """
        row = dict(zip(ALL_MODULES, row, strict=False))
        keys = [None] * 5 if key is None else jax.random.split(key, 5)
        if self.vpt is not None:
            x, live = self.vpt(x, live, row["vpt"], self.dropout, keys[0])
        attended = self.attention(x, live, row["lora"], keys[1], wanted)
        x = x[:, :wanted] + drop(attended, drop_path, keys[2], per_example=True)
        x = checkpoint_name(x, "middle")
        h = checkpoint_name(self.fc1(self.norm2(x).astype(x.dtype)), "hidden")
        h = self.fc2(quick_gelu(h) if self.quick_gelu else jax.nn.gelu(h, approximate=False))
        h = checkpoint_name(drop(h, drop_path, keys[3], per_example=True), "mlp")
        if self.adapter is not None:
            h = self.adapter(h, row["adapter"], self.dropout, keys[4])
        if self.parallel is not None and "parallel" in row:
            key = None if key is None else jax.random.fold_in(key, len(keys))  # none of `keys`
            h = h + self.parallel(x, row["parallel"], self.dropout, key)
        return x + h, live

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
        h = self.norm1(x).astype(x.dtype)
        qkv = self.qkv(h)
        if self.lora is not None:
            qkv = qkv + self.lora(h, lora_size, self.dropout, key)
        qkv = jax.lax.split(checkpoint_name(qkv, "qkv"), (d, d, d), axis=2)
        q, k, v = (part.reshape(b, n, self.heads, d // self.heads) for part in qkv)
        fused = self.fused_attention and wanted is None
        slots = 0 if self.vpt is None else self.vpt.tokens.shape[0]
        # Empty slots come last, so a length says which they are.
        keys = n - slots + live if slots or fused else None
        out = attend(q[:, :wanted], k, v, keys, fused)
        return self.proj(out.reshape(b, -1, d))


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
        return jnp.pad(x, ((0, 0), (0, self.max_vpt), (0, 0)))

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
        drop_path = jnp.linspace(0.0, self.config.drop_path, self.config.depth)
        keys = None if key is None else jax.random.split(key, self.config.depth)

        def run_block(carry, i, prompts, wanted=None):
            # Indexed here, because backbone[:-1] as the loop's input would be a copy.
            weights = jax.tree.map(lambda w: jnp.asarray(w)[i], backbone)
            weights = gather(weights) if gather else weights
            key = None if keys is None else keys[i]
            block = nnx.merge(graphdef, prompts, weights)
            return block(*carry, genome[i], drop_path[i], key, wanted)

        policies = jax.checkpoint_policies
        kept = policies.save_from_both_policies(
            policies.save_only_these_names(*_KEPT),
            lambda primitive, *_, **__: FUSED in primitive.name,
        )

        @functools.partial(
            jax.checkpoint,
            prevent_cse=False,  # the loop prevents it already
            policy=policies.nothing_saveable if self.config.rematerialise else kept,
        )
        def step(carry, block):
            return run_block(carry, *block), None

        # No slot is live yet. The 0 is made from the genome so that vmap batches it likewise.
        start = (self.embed(images), 0 * genome[0, 0])
        first = jax.tree.map(lambda w: w[:-1], prompts)
        carry, _ = jax.lax.scan(step, start, (jnp.arange(last), first))
        return run_block(carry, last, jax.tree.map(lambda w: w[-1], prompts), wanted)[0]

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
        use_fast_variance=False,
        dtype=jnp.float32,
        rngs=rngs,
    )
