"""Measures the search against random search, the cost of a genome, and a front against searches.

    python -m bench.search_gain WORKDIR --seeds=5 --out=bench/results/search_gain_cpu2.json

`WORKDIR` holds a run with a supernet (`--config.stage=supernet` is enough). The searches have its
settings, and its supernet evaluates all genomes. For each seed there are a search and a random
search with as many genomes. There is also one search for a front, with as many genomes as the
searches under all `--budgets` (millions of parameters) together; without budgets there is no front.
A plot of the curves lies beside the JSON. All accuracies are those on the validation images, which
the searches climb, with the supernet's weights. For the best few genomes of both searches there is
also the accuracy on the first `--images` test images, with the same weights. `bench.study` shows
the accuracy after retraining.
"""

import argparse
import dataclasses
import json
import pathlib
import tempfile
import time

import matplotlib.figure
import numpy as np

from bench import machine
from noah_jax import search
from noah_jax.config.settings import Search
from noah_jax.data import loader
from noah_jax.runtime import backend
from noah_jax.runtime.writer import Writer
from noah_jax.search import ranking, supernet
from noah_jax.search.places import add_places
from noah_jax.space import candidates
from noah_jax.training.run import Run

_TESTED = 5  # genomes of each search: their mean is less noisy than one


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("workdir", type=pathlib.Path)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--budgets", type=float, nargs="*", default=[0.1, 0.25, 0.5])
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--out", type=pathlib.Path)
    add_places(parser)
    arguments = parser.parse_args(argv)
    backend.keep_compiled_programs()
    run = ranking.open_run(arguments.workdir, vars(arguments))
    least, largest = (run.space.count(g) / 1e6 for g in (run.space.smallest(), run.space.largest()))
    if not all(least <= budget < largest for budget in arguments.budgets):
        parser.error(f"--budgets: expected {least:.4f} to {largest:.4f}, as the space has them")
    with tempfile.TemporaryDirectory() as folder:
        found = measure(
            run, arguments.seeds, arguments.budgets, arguments.images, pathlib.Path(folder)
        )
    settings = {"task": run.config.task, "images": len(run.source.splits["val"])}
    settings |= {"search": dataclasses.asdict(run.config.search), "seeds": arguments.seeds}
    result = machine.describe("bench.search_gain", argv) | settings | found
    machine.finish(result, _table(found), arguments.out)
    if arguments.out:
        _plot(found["curves"]).savefig(arguments.out.with_suffix(".png"), dpi=150)


def measure(run: Run, seeds: int, budgets: list[float], images: int, folder: pathlib.Path) -> dict:
    """Measures curves `{method: [seed][genome] → best validation accuracy so far}` and more.

    That is seconds, fronts, and test accuracies `{method: [seed][place] → accuracy}` of the few
    genomes that are best on validation.
    """
    trained = supernet.train(run)
    inherited, seconds = supernet.evaluator(run, trained), []
    images = min(images, len(run.source.splits["test"]))
    test = supernet.evaluator(
        run, trained, loader.subset(run.source.splits["test"], np.arange(images))
    )
    known: dict[bytes, tuple[float, float]] = {}  # shared, so that no genome is evaluated twice

    def evaluate(genomes):
        new = np.array([genome for genome in genomes if genome.tobytes() not in known])
        if len(new):
            start = time.perf_counter()
            results = [np.concatenate(part) for part in zip(*inherited(new), strict=True)]
            seconds.append((time.perf_counter() - start) / len(new))
            known.update(zip(map(np.ndarray.tobytes, new), zip(*results, strict=True), strict=True))
        found = [known[genome.tobytes()] for genome in genomes]
        yield tuple(np.array(part) for part in zip(*found, strict=True))

    def evolve(name: str, seed: int, **changes) -> list[list[candidates.Candidate]]:
        """Searches; returns the candidates in the order of evaluation, and again best first."""
        settings = dataclasses.replace(run.config.search, **changes)
        home = folder / f"{name}-{seed}"
        home.mkdir()
        ranked = search.evolve(run.space, settings, evaluate, seed, home / "search", Writer(home))
        print(f"{name}, seed {seed}: {len(ranked)} genomes, {ranked[0].accuracy:.4f}", flush=True)
        return [_in_order(home / "search"), ranked]

    curves: dict[str, list[list[float]]] = {"search": [], "random": []}
    tests: dict[str, list[list[float]]] = {"search": [], "random": []}
    fronts = []
    for seed in range(seeds):
        for name, changes in (("search", {}), ("random", {"mutations": 0, "crossovers": 0})):
            in_order, ranked = evolve(name, seed, objective="accuracy", **changes)
            curves[name].append(np.maximum.accumulate([c.accuracy for c in in_order]).tolist())
            best = test(np.stack([candidate.genome for candidate in ranked[:_TESTED]]))
            tests[name].append(np.concatenate([accuracy for accuracy, _ in best]).tolist())
        if budgets:
            fronts.append(_front(run.config.search, budgets, evolve, seed))
    return {
        "seconds_a_genome": machine.spread(seconds[1:]),  # the first compiles
        "curves": curves,
        "test_images": images,
        "test_accuracies": tests,
        "fronts": fronts,
    }


def _front(settings: Search, budgets: list[float], evolve, seed: int) -> dict:
    """Compares, at each budget, the best genome of one front with that of a search of its own."""
    longer = len(budgets) * (settings.generations + 1) - 1
    free = {"least_millions": 0.0, "budget_millions": max(budgets)}
    _, ranked = evolve("front", seed, objective="pareto", generations=longer, **free)
    front = candidates.pareto_front(ranked)
    found = {}
    for budget in budgets:
        own = free | {"objective": "accuracy", "budget_millions": budget}
        best = evolve(f"budget {budget}", seed, **own)[1][0]
        point = [point for point in front if point.params <= budget * 1e6][-1]
        found[str(budget)] = {"front": point.accuracy, "search": best.accuracy}
        found[str(budget)] |= {"front_params": point.params, "search_params": best.params}
    return found


def _in_order(folder: pathlib.Path) -> list[candidates.Candidate]:
    found = []
    for path in sorted(folder.glob("gen_*.json")):
        found += map(candidates.Candidate.from_json, json.loads(path.read_text())["candidates"])
    return found


def _table(found) -> list[list[str]]:
    rows = [["accuracy (%)", "mean", "standard error", "seeds"]]

    def row(name, values):
        values = 100 * np.array(values)
        error = values.std(ddof=1) / len(values) ** 0.5 if len(values) > 1 else 0.0
        rows.append([name, f"{values.mean():.2f}", f"{error:.2f}", str(len(values))])

    for name, curves in found["curves"].items():
        for part in (0.25, 0.5, 1.0):
            at = [curve[max(0, round(part * len(curve)) - 1)] for curve in curves]
            row(f"validation, {name}, after {round(part * len(curves[0]))} genomes", at)
    gained = zip(found["curves"]["search"], found["curves"]["random"], strict=True)
    row("validation, gain over random at the end", [a[-1] - b[-1] for a, b in gained])
    tests = {name: np.array(seeds) for name, seeds in found["test_accuracies"].items()}
    for name, values in tests.items():
        row(f"test, {name}, the best {_TESTED}", values.mean(axis=1))
    gained = tests["search"] - tests["random"]
    row("test, gain over random, the best", gained[:, 0])
    row(f"test, gain over random, the best {_TESTED}", gained.mean(axis=1))
    for budget in found["fronts"][0] if found["fronts"] else ():
        points = [front[budget] for front in found["fronts"]]
        row(f"validation, front at {budget} M", [point["front"] for point in points])
        row(
            f"validation, front minus search at {budget} M",
            [p["front"] - p["search"] for p in points],
        )
    return rows


def _plot(curves) -> matplotlib.figure.Figure:
    figure = matplotlib.figure.Figure(figsize=(7, 4), layout="constrained")
    axis = figure.subplots()
    for name, colour in (("search", "#3b6fb6"), ("random", "#888888")):
        length = min(map(len, curves[name]))
        values = 100 * np.array([curve[:length] for curve in curves[name]])
        mean, count = values.mean(axis=0), np.arange(1, length + 1)
        error = values.std(axis=0, ddof=1) / len(values) ** 0.5 if len(values) > 1 else 0 * mean
        axis.plot(count, mean, color=colour, label=name)
        axis.fill_between(count, mean - error, mean + error, color=colour, alpha=0.2, linewidth=0)
    axis.set(xlabel="evaluated genomes", ylabel="best validation accuracy so far (%)")
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(frameon=False, loc="lower right")
    return figure


if __name__ == "__main__":
    main()
