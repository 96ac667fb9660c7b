"""Sampling genomes, and moving among them."""

import numpy as np
import pytest

from noah_jax.space import SearchSpace
from noah_jax.space.budget import Budget
from noah_jax.space.genomes import ALL_MODULES, MODULES

NOAH = SearchSpace({name: (1, 5, 10) for name in MODULES}, (3, 6, 9, 12), 12, 768)
FEW_SHOT = SearchSpace({name: (5, 10, 50, 100) for name in MODULES}, (3, 6, 9, 12), 12, 768)

GAPS = SearchSpace(dict.fromkeys(ALL_MODULES, (0, 1, 4, 8)), (12,), 12, 384)


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


def test_smallest_is_smallest_and_number_of_genomes():
    space = SearchSpace({"vpt": (1, 2), "lora": (), "adapter": (3,)}, (0, 2), 2, 8)
    assert space.num_genomes == (1 + 4) * 2
    drawn = space.sample(np.random.default_rng(0), 500)
    assert len(np.unique(drawn, axis=0)) == 10
    assert space.count(drawn).min() == space.count(space.smallest()) == 0
    assert space.max_sizes == {"vpt": 2, "lora": 0, "adapter": 3, "parallel": 0}
    gaps = SearchSpace({"vpt": (0, 2), "lora": (0, 1)}, (0, 2), 2, 8)
    assert gaps.num_genomes == 2**2 * 2**2
    assert len(np.unique(gaps.sample(np.random.default_rng(0), 2000), axis=0)) == 16


@pytest.mark.parametrize("space", [NOAH, GAPS])
def test_repaired_genomes_reach_every_budget(space):
    rng = np.random.default_rng(0)
    least, most = (int(space.count(genome)) for genome in (space.smallest(), space.largest()))
    for genome in space.sample_broad(rng, 20):
        for bounds in ((0, least), (190_000, 200_000), (most, most)):
            repaired = space.repair(rng, genome, Budget(*bounds))
            assert bounds[0] <= space.count(repaired) <= bounds[1]
            assert in_space(space, repaired) or space is GAPS
        inside = int(space.count(genome))
        np.testing.assert_array_equal(space.repair(rng, genome, Budget(inside, inside + 1)), genome)
    assert space.repair(rng, space.largest(), Budget(most + 1, most + 2)) is None


def test_broad_samples_hold_what_uniform_ones_never_do():
    rng = np.random.default_rng(0)
    broad, plain = GAPS.sample_broad(rng, 2000), GAPS.sample(rng, 2000)
    spread = np.std(GAPS.count(broad)) / np.std(GAPS.count(plain))
    assert spread > 2
    for module in range(4):  # one size for all blocks
        alike = [(g[:, :, module] == g[:, :1, module]).all(axis=1).mean() for g in (broad, plain)]
        assert alike[0] > 0.2 and alike[1] < 0.01
    single = ((broad > 0).any(axis=1).sum(axis=1) == 1).mean()
    assert single > 0.1
    without = SearchSpace({"vpt": (1, 2), "lora": (1, 8)}, (0, 12), 12, 768)  # nothing has gaps
    for genome in without.sample_broad(rng, 100):
        sizes = genome[:, :2]
        assert sizes.any() and ((sizes > 0).all(axis=0) == sizes.any(axis=0)).all()
    evenly = GAPS.count(GAPS.sample_spread(rng, 12, 50_000, 300_000))
    edges = np.linspace(50_000, 300_000, 13)
    assert len(evenly) == 12 and (edges[:-1] - 1 <= evenly).all() and (evenly <= edges[1:]).all()


def test_with_gaps_children_have_allowed_values():
    rng = np.random.default_rng(0)
    parents = GAPS.sample_broad(rng, 300)
    children = np.concatenate(
        [GAPS.mutate(rng, parents), GAPS.crossover(rng, parents, parents[::-1])]
    )
    assert children.shape == (600, 12, 4)
    for column, name in enumerate(ALL_MODULES):
        assert set(np.unique(children[..., column])) <= set(GAPS.sizes[name])
    column = children[:, :, 0] > 0
    assert (np.diff(column.astype(int), axis=1) > 0).any()  # a gap
    pairs = GAPS.crossover(rng, parents, parents[::-1])
    assert ((pairs == parents) | (pairs == parents[::-1])).all()


def test_children_of_single_modules_are_often_single_modules():
    rng, space = (
        np.random.default_rng(0),
        SearchSpace(dict.fromkeys(MODULES, (0, 2, 4)), (4,), 4, 8),
    )
    parents = np.zeros((2000, 4, 3), np.int32)
    parents[..., MODULES.index("lora")] = 2
    children = space.mutate(rng, parents, m_prob=0.2)
    present = children.any(axis=1)  # a module comes or goes as a whole with 0.1
    assert abs(present.mean(axis=0) - (0.1, 0.9, 0.1)).max() < 0.03
    single = children[(present == (False, True, False)).all(axis=1)]
    assert abs((single[..., 1] != 2).mean() - 0.2 * 2 / 3) < 0.02


def test_impossible_spaces_are_refused():
    sizes = {name: (1,) for name in MODULES}
    with pytest.raises(ValueError, match="depths .*0..12"):
        SearchSpace(sizes, (3, 24), 12, 768)
    with pytest.raises(ValueError, match="sizes of lora must not be negative"):
        SearchSpace(sizes | {"lora": (-1, 5)}, (3,), 12, 768)
    with pytest.raises(ValueError, match="unknown modules .*prefix"):
        SearchSpace({"prefix": (1,)}, (3,), 12, 768)
