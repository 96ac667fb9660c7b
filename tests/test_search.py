"""The evolution's promises, on a cheap stand-in for accuracy."""

import dataclasses
import json

import numpy as np
import pytest

from noah_jax.errors import UserError
from noah_jax.search import Candidate, evolve
from noah_jax.settings import Search
from noah_jax.space import MODULES, SearchSpace
from noah_jax.writer import Writer

SPACE = SearchSpace({name: (1, 5, 10) for name in MODULES}, (3, 6, 9, 12), 12, 768)
SETTINGS = Search(
    population=20,
    generations=4,
    parents=5,
    mutations=8,
    crossovers=8,
    m_prob=0.2,
    s_prob=0.4,
    budget_millions=0.25,
    operators="block",
    genomes_per_call=2,
)


class Judge:
    """Likes prompts in the first blocks and LoRA in the last; remembers what it was shown."""

    def __init__(self):
        self.seen, self.calls = [], 0

    def __call__(self, genomes):
        self.calls += 1
        self.seen += [genome.tobytes() for genome in genomes]
        score = genomes[:, :6, 0].sum(1) + genomes[:, 6:, 1].sum(1)
        results = np.floor(score / 10) / 20, 1.0 / (1 + score)
        for start in range(0, len(genomes), 3):
            yield tuple(part[start : start + 3] for part in results)


def _evolve(folder, settings=SETTINGS, space=SPACE, seed=0):
    judge = Judge()
    ranked = evolve(space, settings, judge, seed, folder / "search", Writer(folder))
    return ranked, judge


@pytest.mark.parametrize("operators", ["block", "paper"])
def test_never_over_budget_never_twice_all_ranked(tmp_path, operators):
    settings = dataclasses.replace(SETTINGS, operators=operators)
    ranked, judge = _evolve(tmp_path, settings)
    assert len(judge.seen) == len(set(judge.seen)) == len(ranked) == 5 * 20
    assert all(SPACE.count(candidate.genome) <= 250_000 for candidate in ranked)
    assert all(SPACE.count(candidate.genome) == candidate.params for candidate in ranked)
    assert ranked == sorted(ranked, key=lambda candidate: candidate.rank)
    files = sorted((tmp_path / "search").iterdir())
    assert [path.name for path in files] == [f"gen_{i:03d}.json" for i in range(5)]
    last = [Candidate.from_json(row) for row in json.loads(files[-1].read_text())["candidates"]]
    genomes = {candidate.genome.tobytes() for candidate in ranked}
    assert {candidate.genome.tobytes() for candidate in last} <= genomes  # the last counts too


def test_better_than_random_at_equal_cost(tmp_path):
    wins = 0
    for seed in range(5):
        (tmp_path / f"{seed}").mkdir()
        ranked, judge = _evolve(tmp_path / f"{seed}", seed=seed)
        rng = np.random.default_rng(seed)
        random = SPACE.sample(rng, 5000)
        random = random[SPACE.count(random) <= 250_000][: len(judge.seen)]
        assert len(random) == len(judge.seen)
        wins += ranked[0].loss < min(loss.min() for _, loss in judge(random))
    assert wins == 5


def test_same_seed_same_search_and_resume_evaluates_only_what_is_missing(tmp_path):
    folders = [tmp_path / name for name in "abc"]
    for folder in folders:
        folder.mkdir()
    first, _ = _evolve(folders[0])
    other, _ = _evolve(folders[1], seed=1)
    again, judge = _evolve(folders[2])
    assert [c.to_json() for c in first] == [c.to_json() for c in again]
    assert [c.to_json() for c in first] != [c.to_json() for c in other]
    for path in sorted((folders[2] / "search").iterdir())[2:]:
        path.unlink()
    resumed, judge = _evolve(folders[2])
    assert judge.calls == 3
    assert [c.to_json() for c in first] == [c.to_json() for c in resumed]


def test_a_budget_that_admits_no_genome(tmp_path):
    settings = dataclasses.replace(SETTINGS, budget_millions=0.001)
    with pytest.raises(UserError, match=r"admits no genome: the smallest .* 0.0184 M"):
        _evolve(tmp_path, settings)
    assert not (tmp_path / "search").exists()


def test_a_budget_that_admits_almost_none(tmp_path):
    """Blind sampling finds next to nothing here, the search still gets its population."""
    least = int(SPACE.count(SPACE.smallest()))
    settings = dataclasses.replace(SETTINGS, budget_millions=(least + 20_000) / 1e6)
    rng = np.random.default_rng(0)
    assert (SPACE.count(SPACE.sample(rng, 10_000)) <= settings.budget).mean() < 1e-3
    ranked, _ = _evolve(tmp_path, settings)
    assert len(ranked) == 100 and all(c.params <= settings.budget for c in ranked)


def test_a_small_space_is_exhausted_and_ends(tmp_path):
    space = SearchSpace({"vpt": (1, 2), "lora": (), "adapter": (3,)}, (0, 2), 12, 768)
    ranked, judge = _evolve(tmp_path, space=space)
    assert len(ranked) == len(set(judge.seen)) == space.num_genomes


def test_ties_go_to_the_lower_loss_then_to_fewer_parameters():
    genome = np.zeros((12, 3), np.int32)
    worse, better, small, exact = (
        Candidate(genome, params, accuracy, loss)
        for params, accuracy, loss in ((5, 0.5, 2.0), (5, 0.5, 1.0), (4, 0.5, 1.0), (9, 0.6, 9.0))
    )
    ranked = sorted([worse, better, small, exact], key=lambda candidate: candidate.rank)
    assert ranked == [exact, small, better, worse]
