"""Measures how good the mean of the folds' supernets is as a start for a subnet.

    python -m bench.averaged WORKDIR … --retrain=1 --out=FILE.json

Each `WORKDIR` holds a run with one supernet, or with one for each of several `search.folds`
(`--config.stage=supernet` is enough). All have the same task, search space and seed. Genomes that
their searches admit are tested on the first `--images` test images, with the weights of each
supernet and with their mean (`supernet.average`). The first `--retrain` genomes are then retrained
from that mean, as `retrain.inherit` does, and tested on all test images.
"""

import argparse
import pathlib
import tempfile
from collections.abc import Sequence

import numpy as np

from bench import equal_size, machine
from noah_jax.data import loader
from noah_jax.runtime import backend
from noah_jax.search import ranking, supernet
from noah_jax.search.places import add_places
from noah_jax.training import evaluation
from noah_jax.training.run import Run


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("workdirs", type=pathlib.Path, nargs="+", metavar="WORKDIR")
    parser.add_argument("--genomes", type=int, default=12)
    parser.add_argument("--images", type=int, default=500)
    parser.add_argument("--retrain", type=int, default=0)
    parser.add_argument("--out", type=pathlib.Path)
    add_places(parser)
    arguments = parser.parse_args(argv)
    backend.keep_compiled_programs()
    runs = [ranking.open_run(workdir, vars(arguments)) for workdir in arguments.workdirs]
    first = runs[0]
    for run in runs[1:]:
        if _shared(run) != _shared(first):
            parser.error(f"{run.workdir} has another task, space or seed than {first.workdir}")
    genomes = equal_size.draw(first, arguments.genomes)
    found = {
        "task": first.config.task,
        "images": min(arguments.images, len(first.source.splits["test"])),
        "genomes": genomes.tolist(),
        "runs": [measure(run, genomes, arguments.images, arguments.retrain) for run in runs],
    }
    machine.finish(machine.describe("bench.averaged", argv) | found, table(found), arguments.out)


def measure(run: Run, genomes: np.ndarray, images: int, retrain: int) -> dict:
    """Measures test accuracies, `{name of the weights: [genome → …]}`, and those once retrained."""
    trained, test = supernet.train(run), run.source.splits["test"]
    weights = {f"supernet {i}": params for i, (_, params) in enumerate(trained, 1)}
    start = supernet.average(trained)
    if len(trained) > 1:
        weights["mean"] = start
    (network, *_), *_ = trained
    some = loader.subset(test, np.arange(min(images, len(test))))
    accuracies = {}
    for name, params in weights.items():
        evaluate = evaluation.population_evaluator(
            network, params, run.batches(some), run.config.search, run.mesh
        )
        accuracies[name] = _joined(accuracy for accuracy, _ in evaluate(genomes))
    retrained = []
    for genome in genomes[:retrain]:
        with tempfile.TemporaryDirectory() as folder:
            everything, home = run.source.splits["trainval"], pathlib.Path(folder)
            params, subnet = run.fit_genome("retrain", genome, everything, home, start)
        accuracy, _ = run.evaluate(subnet, params, genome, test)
        retrained.append(float(accuracy[0]))
    return {"folds": run.config.search.folds, "accuracies": accuracies, "retrained": retrained}


def _shared(run: Run) -> tuple:
    return run.config.task, run.config.seed, run.space


def _joined(parts) -> list[float]:
    return np.concatenate(list(parts)).round(4).tolist()


def table(found: dict) -> list[list[str]]:
    rows: list[Sequence[str]] = [
        ["folds", "weights", "test accuracy (%), mean over genomes", "retrained"]
    ]
    for run in found["runs"]:
        retrained = f"{100 * np.mean(run['retrained']):.2f}" if run["retrained"] else "-"
        for name, accuracies in run["accuracies"].items():
            last = name == list(run["accuracies"])[-1]
            mean = f"{100 * np.mean(accuracies):.2f}"
            rows.append([str(run["folds"]), name, mean, retrained if last else ""])
    return rows


if __name__ == "__main__":
    main()
