"""A ViT with only the prompt modules that its genome uses."""

import jax.numpy as jnp
import numpy as np
from flax import nnx

from noah_jax.space.genomes import ALL_MODULES, COLUMNS
from noah_jax.vit.config import ViTConfig
from noah_jax.vit.model import Block, ViT


class CompactViT(ViT):
    """A ViT in which each block has the prompt modules of its own size, and no others.

    `model(images)` gives the logits of the ViT that holds them at maximum size and masks them.

    Args:
      sizes: int `[depth, 4]`, of `ALL_MODULES`.
    """

    def __init__(self, config: ViTConfig, sizes: np.ndarray, *, rngs: nnx.Rngs):
        super().__init__(config, {}, rngs=rngs)
        self.sizes = tuple(map(tuple, np.asarray(sizes).tolist()))
        self.blocks = nnx.List(
            Block(config, dict(zip(ALL_MODULES, row, strict=True)), rngs=rngs) for row in self.sizes
        )

    def features(self, images, genome=None, key=None, wanted=None, gather=None):
        """See `ViT.features`; the genome is its own, and there is no training."""
        x = self.embed(images)
        others, last = x.shape[1], len(self.blocks) - 1
        for i, (block, sizes) in enumerate(zip(self.blocks, self.sizes, strict=True)):
            row = dict(zip(ALL_MODULES, sizes, strict=True))
            if row["vpt"]:  # these take the place of those before
                x = jnp.pad(x[:, :others], ((0, 0), (0, row["vpt"]), (0, 0)))
            row = [row.get(name, 0) for name in COLUMNS]
            x, _ = block(x, x.shape[1] - others, row, 0.0, None, wanted if i == last else None)
        return x

    def __call__(self, images, genome=None, train=False, key=None, gather=None):
        """float32 logits `[b, num_classes]` of normalised images `[b, h, w, 3]`."""
        return super().__call__(images, genome)
