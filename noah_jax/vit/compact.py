"""The ViT of one genome: each block has its own prompt modules, and no masks."""

import jax.numpy as jnp
import numpy as np
from flax import nnx

from noah_jax.space.genomes import ALL_MODULES
from noah_jax.vit.config import ViTConfig
from noah_jax.vit.model import Block, ViT


class CompactViT(ViT):
    """A ViT in which each block has the prompt modules of its own size, and no others.

    `model(images)` gives the logits of the ViT that holds them at maximum size and masks them.

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

    def features(self, images, genome=None, key=None, wanted=None, gather=None):
        """See `ViT.features`; the genome is its own, and there is no training."""
        x = self.embed(images)
        others, last = x.shape[1], len(self.blocks) - 1
        for i, (block, row) in enumerate(zip(self.blocks, self.genome, strict=True)):
            if prompts := row[ALL_MODULES.index("vpt")]:  # these take the place of those before
                x = jnp.pad(x[:, :others], ((0, 0), (0, prompts), (0, 0)))
            live = x.shape[1] - others
            x, _ = block(x, live, row, 0.0, None, wanted if i == last else None)
        return x

    def __call__(self, images, genome=None, train=False, key=None, gather=None):
        """float32 logits `[b, num_classes]` of normalised images `[b, h, w, 3]`."""
        return super().__call__(images, genome)
