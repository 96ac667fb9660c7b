"""Vision Transformer (arXiv 2010.11929) with prompt modules in every block.

The same code is DeiT, DeiT III, DINO, DINOv2 (with registers too), DINOv3, I-JEPA, MAE's encoder,
and the image towers of CLIP, SigLIP and SigLIP 2. The blocks are stacked in one set of arrays
`[depth, ...]`. `lax.scan` runs them, so that compile time does not grow with depth, or each is a
part of the program, which is faster on a GPU or TPU; see execution.py. The genome is an argument,
as the images are. No shape depends on it.
"""

import operator
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from noah_jax.space.genomes import ALL_MODULES, MODULES
from noah_jax.vit.block import Block, layer_norm, remembering
from noah_jax.vit.config import ViTConfig
from noah_jax.vit.pooling import AttentionPool
from noah_jax.vit.prompts import Noise, PromptParam, draw_noise

_NORMAL = nnx.initializers.truncated_normal(0.02)  # one object, so that equal models compare equal
Gather = Callable[[nnx.State], nnx.State]  # of the weights of a block, one array a parameter


class ViT(nnx.Module):
    """A classifier on the class token, or on the pooled patches: `model(images, genome)` → logits.

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

        def tokens(count):
            return nnx.Param(_NORMAL(rngs.params(), (1, count, d), jnp.float32)) if count else None

        self.cls_token = tokens(config.class_tokens)
        self.pos_embed = tokens(0 if config.rope else config.class_tokens + config.grid**2)
        self.register_tokens = tokens(config.registers)
        self.norm_pre = layer_norm(config, rngs) if config.pre_norm else None

        @nnx.split_rngs(splits=config.depth)
        @nnx.vmap
        def stack(rngs):
            return Block(config, max_sizes, rngs=rngs)

        self.blocks = stack(rngs)
        self.norm = layer_norm(config, rngs)
        self.pool = AttentionPool(config, rngs=rngs) if config.pooling == "attention" else None
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
        positions = None if self.pos_embed is None else self.pos_embed[...].astype(dtype)
        before = []
        if self.cls_token is not None:
            token = self.cls_token[...].astype(dtype)
            before.append(token if positions is None else token + positions[:, :1])
        if self.register_tokens is not None:
            before.append(self.register_tokens[...].astype(dtype))
        if before:
            prefix = jnp.concatenate(before, axis=1)
            before = [jnp.broadcast_to(prefix, (b, *prefix.shape[1:]))]
        if positions is not None:
            x = x + positions[:, self.config.class_tokens :]
        x = jnp.concatenate([*before, x], axis=1)
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
        noise = Noise() if key is None else self._draw(key, images.shape[0])
        return self._through_blocks(self.embed(images), genome, noise, wanted, gather)

    def _through_blocks(self, x, genome, noise, wanted, gather):
        """Applies all blocks to tokens `[b, n, d]`, and returns the first `wanted` or all."""
        graphdef, *states = nnx.split(self.blocks, PromptParam, ...)
        prompts, backbone = states
        last = self.config.depth - 1

        def run_block(carry, weights, prompts, others, wanted=None):
            block = nnx.merge(graphdef, prompts, gather(weights) if gather else weights)
            return block(*carry, *others, wanted)

        def inputs(i):
            # Indexed here, because backbone[:-1] as a loop's input would be a copy.
            weights = jax.tree.map(lambda w: jnp.asarray(w)[i], backbone)
            return weights, (genome[i], jax.tree.map(lambda x: x[i], noise))

        # No slot is live yet. The 0 is made from the genome so that vmap batches it likewise.
        carry = (x, 0 * genome[0, 0])
        if self.config.execution.unrolled:
            block_step = jax.jit(remembering(run_block, self.config))  # traced once
            for i in range(last):
                weights, others = inputs(i)
                own = jax.tree.map(operator.itemgetter(i), prompts)
                carry = block_step(carry, weights, own, others)
        else:

            def step(carry, block):
                weights, others = inputs(block[0])
                return run_block(carry, weights, block[1], others), None

            first = jax.tree.map(lambda w: w[:-1], prompts)
            carry, _ = jax.lax.scan(
                remembering(step, self.config), carry, (jnp.arange(last), first)
            )
        weights, others = inputs(last)
        return run_block(carry, weights, jax.tree.map(lambda w: w[-1], prompts), others, wanted)[0]

    def _draw(self, key: jax.Array, examples: int) -> Noise:
        """Draws for all blocks at once, along a first axis."""
        depth = self.config.depth
        rates = jnp.linspace(0.0, self.config.drop_path, depth)
        return jax.vmap(draw_noise, (0, 0, None))(jax.random.split(key, depth), rates, examples)

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
        wanted = self.config.class_tokens or None
        tokens = self.features(images, genome, key if train else None, wanted, gather)
        return self.head(self.representation(tokens))

    def representation(self, tokens: jax.Array) -> jax.Array:
        """Makes what the head classifies, `[b, d]`, of the `tokens` `[b, n, d]` of `features`.

        It is the class token after the final layer norm, or what the patches are pooled to. Prompts
        are not pooled.
        """
        if self.config.class_tokens:
            return self.norm(tokens[:, 0])
        patches = self.norm(tokens[:, self.config.first_patch : self.config.first_slot])
        return self.pool(patches) if self.pool is not None else patches.mean(axis=1)
