"""The parameters of a genome, counted and compared with the model's own."""

import jax
import numpy as np
from flax import nnx

from noah_jax.space import SearchSpace
from noah_jax.space.genomes import MODULES, count_noah
from noah_jax.vit import ViT, ViTConfig
from noah_jax.vit.prompts import PromptParam

NOAH = SearchSpace({name: (1, 5, 10) for name in MODULES}, (3, 6, 9, 12), 12, 768)


def test_counts_by_hand():
    genome = np.zeros((12, 3), np.int32)
    assert NOAH.count(genome) == 0
    genome[2] = (5, 10, 1)
    assert NOAH.count(genome) == 5 * 768 + 4 * 10 * 768 + (2 * 768 + 1 + 768)
    assert count_noah(genome, 768) == NOAH.count(genome)  # no prompts in block 0
    genome[0, 0] = 10
    assert count_noah(genome, 768) - NOAH.count(genome) == (10 + 100) * 768
    lora8 = SearchSpace.single({"lora": 8}, 12, 768).smallest()
    assert NOAH.count(lora8) == 294_912  # 0.29 M in the paper
    adapter8 = SearchSpace.single({"adapter": 8}, 12, 768).smallest()
    assert NOAH.count(adapter8) == 156_768  # 0.16 M in the paper
    largest = np.full((12, 3), 10)
    assert NOAH.count(largest) == 654_456


def test_count_is_what_the_model_uses():
    """A model whose maximum sizes are those of a uniform genome has exactly that many."""
    config = ViTConfig(width=32, depth=3, heads=4, patch_size=8, image_size=16, num_classes=2)
    sizes = {"vpt": 4, "lora": 3, "adapter": 5, "parallel": 2}
    model = nnx.eval_shape(lambda: ViT(config, sizes, rngs=nnx.Rngs(0)))
    real = sum(leaf.size for leaf in jax.tree.leaves(nnx.state(model, PromptParam)))
    space = SearchSpace.single(sizes, blocks=3, width=32)
    assert space.count(space.smallest()) == real
