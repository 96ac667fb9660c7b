"""The ViT of one genome: each block has prompt modules of its own sizes, without masks."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from noah_jax.space.genomes import ALL_MODULES
from noah_jax.vit.block import Block
from noah_jax.vit.config import ViTConfig
from noah_jax.vit.model import ViT
from noah_jax.vit.prompts import Noise


class CompactViT(ViT):
    """A ViT in which each block holds exactly the prompt modules of its row of the genome.

    `model(images)` gives the same logits as the `ViT` that holds all modules at maximum size and
    masks them.

    Args:
      genome: int `[depth, columns]`.
    """

    def __init__(self, config: ViTConfig, genome: np.ndarray, *, rngs: nnx.Rngs):
        super().__init__(config, {}, rngs=rngs)
        self.genome = tuple(map(tuple, np.asarray(genome).tolist()))
        self.blocks = nnx.List(
            Block(config, dict(zip(ALL_MODULES, row, strict=False)), rngs=rngs)
            for row in self.genome
        )

    def features(
        self, images: jax.Array, genome=None, key=None, wanted: int | None = None, gather=None
    ) -> jax.Array:
        """See `ViT.features`; the genome is the model's own, and `key` and `gather` are unused."""
        x = self.embed(images)
        others, last = self.config.first_slot, len(self.blocks) - 1
        for i, (block, row) in enumerate(zip(self.blocks, self.genome, strict=True)):
            if prompts := row[ALL_MODULES.index("vpt")]:  # they replace those of earlier blocks
                x = jnp.pad(x[:, :others], ((0, 0), (0, prompts), (0, 0)))
            live = x.shape[1] - others
            x, _ = block(x, live, row, Noise(), wanted if i == last else None)
        return x

    def __call__(
        self, images: jax.Array, genome=None, train=False, key=None, gather=None
    ) -> jax.Array:
        """Computes float32 logits `[b, num_classes]` of normalised images `[b, h, w, 3]`."""
        return super().__call__(images, genome)
