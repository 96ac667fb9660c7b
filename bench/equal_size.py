"""Measures whether the validation images can tell genomes of one size apart.

    python -m bench.equal_size WORKDIR --genomes=48 --out=FILE.json

`WORKDIR` holds a run with a supernet. Genomes that its search admits are evaluated with inherited
weights, as in a search: on the validation images, and on five equal parts of the first `--images`
test images. If two parts do not agree on which genomes are better, no search can climb. One or more
parts choose the best genome, by accuracy or by loss; its distance from the mean is measured on the
other parts.
"""

import argparse
import dataclasses
import itertools
import pathlib

import numpy as np
import scipy.stats

from bench import machine
from noah_jax import search
from noah_jax.data import loader
from noah_jax.runtime import backend
from noah_jax.search import ranking, supernet
from noah_jax.search.places import add_places
from noah_jax.training.run import Run

_PARTS = 5


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("workdir", type=pathlib.Path)
    parser.add_argument("--genomes", type=int, default=48)
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--out", type=pathlib.Path)
    add_places(parser)
    arguments = parser.parse_args(argv)
    backend.keep_compiled_programs()
    run = ranking.open_run(arguments.workdir, vars(arguments))
    genomes = draw(run, arguments.genomes)
    images = min(arguments.images, len(run.source.splits["test"])) // _PARTS * _PARTS
    accuracies, losses = evaluate(run, genomes, images)
    settings = run.config.search
    found = {
        "task": run.config.task,
        "images": images,
        "millions": [settings.least_millions, settings.budget_millions],
        **summary(accuracies, losses),
        "genomes": genomes.tolist(),
        "accuracies": accuracies.round(4).tolist(),  # validation, then the parts of the test
        "losses": losses.round(4).tolist(),
    }
    machine.finish(machine.describe("bench.equal_size", argv) | found, table(found), arguments.out)


def draw(run: Run, count: int) -> np.ndarray:
    """Draws distinct genomes, int32 `[count, blocks, columns]`, as a search's first generation."""
    settings = dataclasses.replace(run.config.search, population=count)
    return search.propose(run.space, settings, np.random.default_rng(1), [])


def evaluate(run: Run, genomes: np.ndarray, images: int) -> tuple[np.ndarray, np.ndarray]:
    """Evaluates genomes: accuracy and mean loss, each `[1 + parts, genomes]`, validation first.

    Args:
      images: of the test, a multiple of the number of parts.
    """
    trained = supernet.train(run)
    splits = [run.source.splits["val"]]
    for part in range(_PARTS):
        rows = np.arange(part, images, _PARTS)
        splits.append(loader.subset(run.source.splits["test"], rows))
    found = []
    for split in splits:
        inherited = supernet.evaluator(run, trained, split)
        found.append([np.concatenate(part) for part in zip(*inherited(genomes), strict=True)])
    accuracies, losses = zip(*found, strict=True)
    return np.array(accuracies), np.array(losses)


def summary(accuracies: np.ndarray, losses: np.ndarray) -> dict:
    """Sums up how far the parts agree, and how well validation predicts the test accuracy.

    Args:
      accuracies, losses: as from `evaluate`.
    """
    test = accuracies[1:].mean(axis=0)
    return {
        "test_accuracy": machine.spread(test.tolist()),
        "test_accuracy_deviation": float(test.std(ddof=1)),
        "between_parts": {"accuracy": _agreement(accuracies), "loss": _agreement(losses)},
        "tau_with_test_accuracy": {
            name: _known(scipy.stats.kendalltau(values, test).statistic)
            for name, values in (("val_accuracy", accuracies[0]), ("val_loss", -losses[0]))
        },
        "gain_of_the_best": {
            "by_accuracy": _gains(accuracies, accuracies - 1e-6 * losses),  # ties: by loss
            "by_loss": _gains(accuracies, -losses),
        },
    }


def _agreement(values: np.ndarray) -> float | None:
    """The mean correlation between two of the parts, over genomes."""
    with np.errstate(invalid="ignore"):
        table = np.corrcoef(values)
    pairs = itertools.combinations(range(len(table)), 2)
    return _known(np.mean([table[i, j] for i, j in pairs]))


def _gains(accuracies: np.ndarray, scores: np.ndarray) -> list[float]:
    """Measures how far the genome with the best score is above the mean accuracy of all.

    The score is taken on 1, 2, … of the parts, the accuracy on the others. The result is the mean
    over all ways to divide the parts.
    """
    parts, gains = range(len(scores)), []
    above = accuracies - accuracies.mean(axis=1, keepdims=True)
    for count in parts[1:]:
        ways = []
        for chosen in itertools.combinations(parts, count):
            best = scores[list(chosen)].mean(axis=0).argmax()
            ways.append(above[[part for part in parts if part not in chosen], best].mean())
        gains.append(float(np.mean(ways)))
    return gains


def _known(value) -> float | None:
    """Turns NaN, which a part with equal genomes makes, into None; JSON has no NaN."""
    return None if np.isnan(value) else float(value)


def table(found: dict) -> list[list[str]]:
    rows = [["of the genomes", "accuracy", "loss"]]
    between, taus = found["between_parts"], found["tau_with_test_accuracy"]
    for name, values in (
        ("correlation between two parts", between.values()),
        ("tau of the validation's with test accuracy", taus.values()),
    ):
        rows.append([name, *("-" if value is None else f"{value:.2f}" for value in values)])
    for count, gains in enumerate(zip(*found["gain_of_the_best"].values(), strict=True), 1):
        name = f"gain of the best on other images, chosen by {count} of the {_PARTS + 1} parts"
        rows.append([name, *(f"{100 * gain:+.2f} points" for gain in gains)])
    deviation = f"{100 * found['test_accuracy_deviation']:.2f} points"
    rows.append(["standard deviation of test accuracy", deviation, ""])
    return rows


if __name__ == "__main__":
    main()
