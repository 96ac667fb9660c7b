"""The evolution's promises, on a cheap stand-in for accuracy."""

import dataclasses
import json
import signal

import numpy as np
import pytest

from noah_jax.errors import UserError
from noah_jax.runtime import preemption
from noah_jax.runtime.writer import Writer
from noah_jax.search import evolve
from noah_jax.space import SearchSpace
from noah_jax.space.candidates import Candidate, pareto_front, pareto_order
from noah_jax.space.genomes import MODULES
from tests.helpers.search import SETTINGS

SPACE = SearchSpace({name: (1, 5, 10) for name in MODULES}, (3, 6, 9, 12), 12, 768)


class Evaluator:
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


def _evolve(folder, settings=SETTINGS, space=SPACE, seed=0, evaluate=None):
    evaluate = evaluate or Evaluator()
    folder.mkdir(exist_ok=True)
    ranked = evolve(space, settings, evaluate, seed, folder / "search", Writer(folder))
    return ranked, evaluate


@pytest.mark.parametrize("operators", ["block", "paper"])
def test_never_over_budget_never_twice_all_ranked(tmp_path, operators):
    settings = dataclasses.replace(SETTINGS, operators=operators)
    ranked, evaluate = _evolve(tmp_path, settings)
    assert len(evaluate.seen) == len(set(evaluate.seen)) == len(ranked) == 5 * 20
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
        ranked, evaluate = _evolve(tmp_path / f"{seed}", seed=seed)
        rng = np.random.default_rng(seed)
        random = SPACE.sample(rng, 5000)
        random = random[SPACE.count(random) <= 250_000][: len(evaluate.seen)]
        assert len(random) == len(evaluate.seen)
        wins += ranked[0].loss < min(loss.min() for _, loss in evaluate(random))
    assert wins == 5


def test_a_band_of_parameters(tmp_path):
    settings = dataclasses.replace(SETTINGS, least_millions=0.24)
    ranked, _ = _evolve(tmp_path, settings)
    assert len(ranked) == 100 and all(240_000 <= c.params <= 250_000 for c in ranked)
    with pytest.raises(UserError, match="admits no genome that was found; change search"):
        odd = dataclasses.replace(SETTINGS, least_millions=0.6500001, budget_millions=0.6500002)
        _evolve(tmp_path / "none", odd)
    with pytest.raises(UserError, match="0.7000 to .* admits no genome: the largest .*0.6545"):
        _evolve(tmp_path / "above", dataclasses.replace(odd, least_millions=0.7))


class Trade(Evaluator):
    """More parameters are better, if they are in the last blocks."""

    def __call__(self, genomes):
        self.calls += 1
        self.seen += [genome.tobytes() for genome in genomes]
        score = (genomes * np.linspace(0.1, 1, 12)[:, None]).sum((1, 2))
        yield score / 360, 1.0 / (1 + score)


def test_one_front_is_as_good_as_three_searches(tmp_path):
    """Both cost the same in total, and are compared at the budgets of the three."""
    pareto = dataclasses.replace(SETTINGS, objective="pareto", generations=14)
    worse = []
    for seed in range(3):
        folder = tmp_path / f"{seed}"
        ranked, evaluate = _evolve(folder, pareto, seed=seed, evaluate=Trade())
        assert len(evaluate.seen) == len(set(evaluate.seen)) == len(ranked) == 300
        front = pareto_front(ranked)
        params = [point.params for point in front]
        assert params == sorted(params) and len(set(params)) == len(params) > 15
        accuracies = [point.accuracy for point in front]
        assert accuracies == sorted(accuracies)
        for budget in (0.1, 0.25, 0.5):
            alone = dataclasses.replace(SETTINGS, budget_millions=budget)
            best = _evolve(folder / f"{budget}", alone, seed=seed, evaluate=Trade())[0][0]
            reached = max(p.accuracy for p in front if p.params <= budget * 1e6)
            worse.append(best.accuracy - reached)
    assert np.mean(worse) < 0.01 and max(worse) < 0.05, worse


def test_the_front_by_hand():
    genome = np.zeros((12, 3), np.int32)
    values = [(5, 0.5, 2.0), (5, 0.5, 1.0), (4, 0.5, 1.0), (9, 0.6, 9.0), (2, 0.1, 1.0)]
    values += [(3, 0.05, 0.5), (1, 0.0, np.inf)]
    candidates = [Candidate(genome, *value) for value in values]
    front = pareto_front(candidates)
    assert [(point.params, point.accuracy) for point in front] == [(2, 0.1), (4, 0.5), (9, 0.6)]
    places = {id(candidate): place for place, candidate in enumerate(candidates)}
    order = [places[id(candidate)] for candidate in pareto_order(candidates)]
    assert set(order[:4]) == {6, 4, 2, 3} and order[4:] == [1, 5, 0]
    assert set(order[:2]) == {6, 3}  # the extremes
    assert order[2] == 2  # its neighbours are farther apart


def test_same_seed_same_search_and_resume_evaluates_only_what_is_missing(tmp_path):
    folders = [tmp_path / name for name in "abc"]
    first, _ = _evolve(folders[0])
    other, _ = _evolve(folders[1], seed=1)
    again, evaluate = _evolve(folders[2])
    assert [c.to_json() for c in first] == [c.to_json() for c in again]
    assert [c.to_json() for c in first] != [c.to_json() for c in other]
    for path in sorted((folders[2] / "search").iterdir())[2:]:
        path.unlink()
    resumed, evaluate = _evolve(folders[2])
    assert evaluate.calls == 3
    assert [c.to_json() for c in first] == [c.to_json() for c in resumed]


def test_stopped_inside_a_generation_it_evaluates_only_the_rest(tmp_path, monkeypatch):
    whole, _ = _evolve(tmp_path / "whole")
    monkeypatch.setattr(preemption._signals, "first", signal.SIGTERM)
    seen = []
    for stop in range(7):  # a call evaluates 3 of 20
        evaluate = Evaluator()
        with pytest.raises(preemption.Preempted) as stopped:
            _evolve(tmp_path / "parts", evaluate=evaluate)
        seen += evaluate.seen
        done = min(3 * (stop + 1), 20)
        assert len(set(seen)) == 20 and stopped.value.saved == (
            f"the search is saved after {done} of 20 genomes of generation 1"
        )
        assert len(evaluate.seen) == 20 - 3 * stop
    monkeypatch.setattr(preemption._signals, "first", None)
    evaluate = Evaluator()
    resumed, _ = _evolve(tmp_path / "parts", evaluate=evaluate)
    assert len(evaluate.seen) == 80  # nothing of the first generation
    assert [c.to_json() for c in resumed] == [c.to_json() for c in whole]
    folders = [tmp_path / name / "search" for name in ("whole", "parts")]
    assert _texts(folders[0]) == _texts(folders[1])


def _texts(folder):
    return {path.name: path.read_text() for path in folder.iterdir()}


def test_a_damaged_generation_is_evaluated_again(tmp_path, capsys):
    whole, _ = _evolve(tmp_path)
    before = _texts(tmp_path / "search")
    path = tmp_path / "search/gen_002.json"
    path.write_text(before["gen_002.json"].replace("0.2", "0.3", 1))  # still JSON
    again, evaluate = _evolve(tmp_path)
    assert f"{path} is damaged" in capsys.readouterr().out and evaluate.calls == 1
    assert [c.to_json() for c in again] == [c.to_json() for c in whole]
    assert (tmp_path / "search/gen_002.json.damaged").is_file()
    assert before.items() <= _texts(tmp_path / "search").items()


class Blind(Evaluator):
    """Cannot tell the loss of genomes with much LoRA."""

    def __call__(self, genomes):
        for i, (accuracy, loss) in enumerate(super().__call__(genomes)):
            lora = genomes[3 * i : 3 * i + len(loss), :, 1].sum(1)
            yield np.where(lora > 40, 1.0, accuracy), np.where(lora > 40, np.nan, loss)


def test_a_genome_without_a_finite_loss_is_last_and_told(tmp_path, capsys):
    ranked, _ = _evolve(tmp_path, evaluate=Blind())
    finite = [candidate.is_finite for candidate in ranked]
    assert finite == sorted(finite, reverse=True) and 0 < sum(finite) < 100
    said = capsys.readouterr().out
    assert said.count("has no finite loss") == 100 - sum(finite)
    assert f"the genome {ranked[-1].genome.tolist()} has no finite loss" in said
    best = json.loads((tmp_path / "metrics.jsonl").read_text().splitlines()[-1])
    assert best["val_accuracy"] < 1.0
    again, evaluate = _evolve(tmp_path)  # as read from the files
    assert [c.to_json() for c in again] == [c.to_json() for c in ranked] and not evaluate.calls

    class Nothing(Evaluator):
        def __call__(self, genomes):
            return [(np.ones(len(genomes)), np.full(len(genomes), np.inf))]

    with pytest.raises(UserError, match="no genome has a finite loss"):
        _evolve(tmp_path / "nothing", evaluate=Nothing())


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
    assert (SPACE.count(SPACE.sample(rng, 10_000)) <= settings.limits.most).mean() < 1e-3
    ranked, _ = _evolve(tmp_path, settings)
    assert len(ranked) == 100 and all(c.params <= settings.limits.most for c in ranked)


def test_a_small_space_is_exhausted_and_ends(tmp_path):
    space = SearchSpace({"vpt": (1, 2), "lora": (), "adapter": (3,)}, (0, 2), 12, 768)
    ranked, evaluate = _evolve(tmp_path, space=space)
    assert len(ranked) == len(set(evaluate.seen)) == space.num_genomes


def test_ties_go_to_the_lower_loss_then_to_fewer_parameters():
    genome = np.zeros((12, 3), np.int32)
    worse, better, small, exact = (
        Candidate(genome, params, accuracy, loss)
        for params, accuracy, loss in ((5, 0.5, 2.0), (5, 0.5, 1.0), (4, 0.5, 1.0), (9, 0.6, 9.0))
    )
    ranked = sorted([worse, better, small, exact], key=lambda candidate: candidate.rank)
    assert ranked == [exact, small, better, worse]
