"""Sampling, moving and counting genomes; counts against the model's own parameters."""

import jax
import numpy as np
import pytest
from flax import nnx

from noah_jax.prompts import PromptParam
from noah_jax.space import MODULES, SearchSpace
from noah_jax.vit import ViT, ViTConfig

NOAH = SearchSpace({name: (1, 5, 10) for name in MODULES}, (3, 6, 9, 12), 12, 768)
FEW_SHOT = SearchSpace({name: (5, 10, 50, 100) for name in MODULES}, (3, 6, 9, 12), 12, 768)


def in_space(space, genome):
    """Whether every column is a prefix of an allowed depth with allowed sizes."""
    for column, name in enumerate(MODULES):
        sizes = genome[:, column]
        depth = int((sizes > 0).sum())
        if depth not in space.depths or (sizes[depth:] != 0).any():
            return False
        if not set(sizes[:depth].tolist()) <= set(space.sizes[name]):
            return False
    return True


@pytest.mark.parametrize("space", [NOAH, FEW_SHOT])
def test_samples_lie_in_the_space_and_are_uniform(space):
    genomes = space.sample(np.random.default_rng(0), 4000)
    assert genomes.shape == (4000, 12, 3) and genomes.dtype == np.int32
    assert all(in_space(space, genome) for genome in genomes[:500])
    depths = (genomes > 0).sum(axis=1)
    for column, name in enumerate(MODULES):
        for depth in space.depths:
            assert abs((depths[:, column] == depth).mean() - 1 / 4) < 0.04
        for size in space.sizes[name]:  # block 0 always has the module
            share = (genomes[:, 0, column] == size).mean()
            assert abs(share - 1 / len(space.sizes[name])) < 0.04


def test_same_seed_same_genomes():
    draw = lambda seed: NOAH.sample(np.random.default_rng(seed), 20)  # noqa: E731
    np.testing.assert_array_equal(draw(3), draw(3))
    assert (draw(3) != draw(4)).any()


@pytest.mark.parametrize("operators", ["block", "paper"])
def test_children_stay_in_the_space(operators):
    rng = np.random.default_rng(0)
    parents = NOAH.sample(rng, 500)
    for children in (
        NOAH.mutate(rng, parents, operators),
        NOAH.crossover(rng, parents, parents[::-1], operators),
    ):
        assert children.shape == parents.shape and children.dtype == np.int32
        assert all(in_space(NOAH, child) for child in children)
        assert (children != parents).any()


def test_paper_mutation_changes_depths_only_and_block_mutation_sizes_too():
    rng = np.random.default_rng(0)
    parents = NOAH.sample(rng, 500)
    for operators in ("paper", "block"):
        children = NOAH.mutate(rng, parents, operators)
        in_both = (parents > 0) & (children > 0)
        resized = (parents != children)[in_both].mean()
        assert resized == 0 if operators == "paper" else 0.1 < resized < 0.17  # 0.2 · 2/3
    touched = (NOAH.mutate(rng, parents, "paper") != parents).any(axis=1).mean()
    assert abs(touched - 0.2 * 0.4 * 3 / 4) < 0.03


def test_crossover_takes_every_size_from_a_parent():
    rng = np.random.default_rng(0)
    mothers, fathers = NOAH.sample(rng, 300), NOAH.sample(rng, 300)
    for operators in ("paper", "block"):
        children = NOAH.crossover(rng, mothers, fathers, operators)
        assert ((children == mothers) | (children == fathers) | (children == 0)).all()
    columns = NOAH.crossover(rng, mothers, fathers, "paper")
    whole = (columns == mothers).all(axis=1) | (columns == fathers).all(axis=1)
    assert whole.all()


def test_counts_by_hand():
    genome = np.zeros((12, 3), np.int32)
    assert NOAH.count(genome) == 0
    genome[2] = (5, 10, 1)
    assert NOAH.count(genome) == 5 * 768 + 4 * 10 * 768 + (2 * 768 + 1 + 768)
    assert NOAH.count_noah(genome) == NOAH.count(genome)  # no prompts in block 0
    genome[0, 0] = 10
    assert NOAH.count_noah(genome) - NOAH.count(genome) == (10 + 100) * 768
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


def test_smallest_is_smallest_and_number_of_genomes():
    space = SearchSpace({"vpt": (1, 2), "lora": (), "adapter": (3,)}, (0, 2), 2, 8)
    assert space.num_genomes == (1 + 4) * 2
    drawn = space.sample(np.random.default_rng(0), 500)
    assert len(np.unique(drawn, axis=0)) == 10
    assert space.count(drawn).min() == space.count(space.smallest()) == 0
    assert space.max_sizes == {"vpt": 2, "lora": 0, "adapter": 3}


def test_shrink_reaches_any_budget_that_the_smallest_meets():
    rng = np.random.default_rng(0)
    budget = int(NOAH.count(NOAH.smallest()))
    for genome in NOAH.sample(rng, 50):
        for allowed in (budget, 200_000):
            small = NOAH.shrink(rng, genome, allowed)
            assert NOAH.count(small) <= allowed and in_space(NOAH, small)


def test_impossible_spaces_are_refused():
    sizes = {name: (1,) for name in MODULES}
    with pytest.raises(ValueError, match="depths .*0..12"):
        SearchSpace(sizes, (3, 24), 12, 768)
    with pytest.raises(ValueError, match="sizes of lora must be positive"):
        SearchSpace(sizes | {"lora": (0, 5)}, (3,), 12, 768)
    with pytest.raises(ValueError, match="exactly"):
        SearchSpace({"lora": (1,)}, (3,), 12, 768)
