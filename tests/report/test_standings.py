"""The order of methods, and how each compares with the best, from results and predictions."""

import html

import numpy as np
import pytest

from noah_jax.report import comparison, standings, tables
from noah_jax.report.standings import BEST, NOT_WORSE, UNKNOWN, WORSE
from noah_jax.runtime.workdir import write_json

LABELS = np.arange(100) % 3


@pytest.fixture
def finished(tmp_path):
    """A function that leaves a run with certain images wrong, and returns workdir → result."""

    def finish(method, wrong=0, *, seed=0, task="a", params=1000, labels=LABELS, inputs="same"):
        wrong = range(wrong) if isinstance(wrong, int) else wrong
        predictions = np.where(np.isin(np.arange(len(labels)), wrong), labels + 1, labels)
        workdir = tmp_path / f"{task}-{method}-s{seed}"
        workdir.mkdir()
        result = {
            "task": task,
            "method": method,
            "seed": seed,
            "shots": 0,
            "test_accuracy": float((labels == predictions).mean()),
            "more_tests": {},
            "params": params,
            "images": {"test": len(labels)},
            "inputs": {"images": inputs},
            "backbone": "vit_ti16",
            "image_size": 32,
            "stages": {"test": 1.0},
            "genome": np.zeros((12, 3), int).tolist(),
        }
        write_json(workdir / "result.json", result)
        test = {"labels": labels.tolist(), "predictions": predictions.tolist()}
        kept = {"tests": {"test": test}, "class_names": [], "examples": []}
        write_json(workdir / "predictions.json", kept)
        return {workdir: result}

    return finish


def _marks(results):
    return {one.method: one.mark for one in standings.compare(results)}


def test_not_worse_until_the_test_tells(finished):
    """The best has all right. Five images cannot tell (p = 2 / 2**5 = 0.06), six can (0.03)."""
    best, five, six = finished("vpt"), finished("lora", 5), finished("noah", 6)
    assert _marks(best | five) == {"vpt": BEST, "lora": NOT_WORSE}
    assert _marks(best | six) == {"vpt": BEST, "noah": WORSE}
    # Of two rivals the first needs p < 0.025: six are too few then, seven (0.016) are enough.
    assert _marks(best | five | six) == {"vpt": BEST, "lora": NOT_WORSE, "noah": NOT_WORSE}
    seven = finished("adapter", 7)
    found = standings.compare(best | five | seven)
    assert [(one.method, one.mark) for one in found[1:]] == [
        ("lora", NOT_WORSE),
        ("adapter", WORSE),
    ]
    assert [one.p for one in found[1:]] == [0.0625, 2 * 2 / 2**7]
    assert found[2].difference.mean == pytest.approx(-0.07)


def test_the_same_images_count_and_not_the_accuracies_alone(finished):
    """Twelve points less are worse if all else is alike, and may be chance if nothing is."""
    best, inside = finished("vpt", range(20)), finished("lora", range(32))
    assert _marks(best | inside)["lora"] == WORSE
    apart = finished("noah", range(40, 72))
    assert _marks(best | apart)["noah"] == NOT_WORSE


def test_one_order_everywhere(finished, tmp_path):
    """By accuracy; of equals the one with fewer parameters is first, and none of them is worse."""
    results = finished("linear", 50, params=0) | finished("noah", 5, params=3000)
    results |= finished("lora", 5, params=2000) | finished("vpt", 1, params=5000)
    order = ["vpt", "lora", "noah", "linear"]
    assert list(_marks(results).items()) == [
        *(("vpt", BEST), ("lora", NOT_WORSE), ("noah", NOT_WORSE), ("linear", WORSE))
    ]
    equal = {path: results[path] for path in results if path.name in ("a-noah-s0", "a-lora-s0")}
    (_, second) = standings.compare(equal)
    assert second.method == "noah" and second.p == 1.0 and second.difference.mean == 0
    lines = tables.runs(results).splitlines()
    assert [line.split()[1] for line in lines[2:6]] == order
    assert tables.benchmark(results).splitlines()[1].split() == order
    page = comparison.write(tmp_path, list(results)).read_text()
    places = [page.index(f"a-{method}-s0/report.html") for method in order]
    assert places == sorted(places)
    places = [page.index(f"<td>{method}</td>") for method in order]
    assert places == sorted(places)
    rows = (tmp_path / "figures/accuracy.csv").read_text().splitlines()[1:]
    assert [row.split(",")[0] for row in rows] == order


def test_several_seeds_are_paired(finished):
    """One point less in each of three seeds, give or take a third, is worse; less and more is not.

    By hand: differences -1, -1, -2, mean -4/3, standard error 1/3, t = -4, p = 0.0572 on 2 degrees.
    """
    results = {}
    for seed, (ours, theirs) in enumerate(((10, 11), (20, 21), (30, 32))):
        results |= finished("noah", ours, seed=seed) | finished("lora", theirs, seed=seed)
    (best, rival) = standings.compare(results)
    assert best.method == "noah" and rival.p == pytest.approx(0.0572, abs=1e-4)
    assert rival.difference.pairs == 3 and not rival.difference.by_image
    assert rival.mark == NOT_WORSE
    results |= finished("noah", 40, seed=3) | finished("lora", 41, seed=3)
    assert _marks(results) == {"noah": BEST, "lora": WORSE}  # t = -5, p = 0.0154
    said = tables.words(results)
    assert "paired t test over the pairs of seed" in said and "McNemar" not in said


def test_pairs_are_over_tasks_and_seeds(finished):
    results = {}
    for task in ("a", "b", "c"):
        for seed in (0, 1):
            results |= finished("noah", 10 + seed, seed=seed, task=task)
            results |= finished("lora", 12 + 2 * seed, seed=seed, task=task)
    (_, rival) = standings.compare(results)
    assert rival.difference.pairs == 6 and rival.difference.mean == pytest.approx(-0.025)
    row = next(line for line in tables.benchmark(results).splitlines() if "worse" in line)
    assert row.split()[:3] == ["lora", "6", "-2.50"]
    assert "over the pairs of task and seed" in tables.words(results)


def test_unequal_seeds(finished):
    """What both have is compared; a single common seed by its images."""
    results = finished("noah", 1) | finished("noah", 2, seed=1) | finished("lora", 20, seed=1)
    (_, rival) = standings.compare(results)
    assert rival.difference.by_image and rival.difference.mean == pytest.approx(-0.18)
    assert rival.mark == WORSE
    results = finished("vpt", 3, seed=8) | results
    found = {one.method: one for one in standings.compare(results)}
    assert found["vpt"].mark == UNKNOWN and "no seed in common" in found["vpt"].problem
    assert "vpt has no seed in common with the best." in tables.words(results)


def test_other_test_images_are_not_compared(finished):
    best, other = finished("noah"), finished("lora", 50, inputs="other")
    (_, rival) = standings.compare(best | other)
    assert rival.mark == UNKNOWN and rival.difference is None
    assert "lora was tested on other images than the best." in tables.words(best | other)
    labels = finished("vpt", 20, labels=LABELS[::-1])
    (_, rival) = standings.compare(best | labels)
    assert rival.mark == UNKNOWN and "have other test labels" in rival.problem
    results = best | other | finished("noah", 1, seed=1) | finished("lora", 50, seed=1)
    found = standings.compare(results)[1]
    assert found.difference.by_image and found.mark == WORSE
    assert "in 1 of 2 pairs, which are left out" in found.problem


def test_predictions_that_cannot_be_read_are_said(finished, tmp_path):
    results = finished("noah") | finished("lora", 9) | finished("vpt", 50)
    (tmp_path / "a-lora-s0/predictions.json").unlink()
    marks = {"noah": BEST, "lora": UNKNOWN, "vpt": WORSE}
    assert _marks(results) == marks
    page = html.unescape(comparison.write(tmp_path, list(results)).read_text())
    assert "lora cannot be compared" in page and "predictions.json is not there" in page
    (tmp_path / "a-lora-s0/predictions.json").write_text("{")
    assert _marks(results) == marks and "predictions.json is damaged" in tables.words(results)
    (tmp_path / "a-noah-s0/predictions.json").unlink()  # the best's
    assert _marks(results) == {"noah": BEST, "lora": UNKNOWN, "vpt": UNKNOWN}


def test_little_to_compare(finished):
    """One run, one image, nothing wrong."""
    alone = finished("noah")
    assert standings.compare(alone) == [standings.Standing("noah", BEST)]
    text = tables.runs(alone)
    assert "100.00 [96.30, 100.00]" in text and "less the best" not in text
    assert "best" not in tables.benchmark(alone)
    one = finished("lora", task="b", labels=LABELS[:1])
    one |= finished("vpt", 1, task="b", labels=LABELS[:1])
    assert _marks(one) == {"lora": BEST, "vpt": NOT_WORSE}
    assert "100.00 [20.65, 100.00]" in tables.runs(one)
    row = next(line for line in tables.runs(one).splitlines() if "vpt" in line)
    assert "-100.00  " in row and "1.000  not worse" in row  # an interval of one image there is not
