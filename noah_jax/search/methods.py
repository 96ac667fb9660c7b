"""The methods that find a genome: a name and a function each.

A function takes the run and returns what `best.json` holds: the genome, its parameters and, where
it was evaluated, its accuracy and loss on validation images. The other methods, single modules, the
linear probe and full fine-tuning, have spaces of one point, in which nothing is to be found.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np

from noah_jax.errors import UserError
from noah_jax.runtime.workdir import read_json, write_json
from noah_jax.search import baselines, evolution, supernet
from noah_jax.space.candidates import pareto_front
from noah_jax.space.genomes import MODULES, count_params
from noah_jax.training.run import Run

Best = dict[str, Any]


def find(run: Run) -> Best | None:
    """Finds the run's genome, or reads it where `best.json` has it already.

    Returns:
      What `best.json` holds; None if the run ends with its supernet.

    Raises:
      UserError: no genome fits the budget, or a training diverges.
      Preempted: what could be saved is.
    """
    path = run.workdir / "best.json"
    if best := read_json(path, run.writer.say):
        return best
    best = METHODS[run.config.method](run)
    if best:
        write_json(path, best)
    return best


def search_supernet(run: Run) -> Best | None:
    """NOAH: a supernet, and an evolutionary search in it; None if only the supernet is wanted."""
    config = run.config
    with run.writer.stage("supernet"):
        trained = supernet.train(run)
    if config.stage == "supernet":
        return None
    settings = config.search
    if config.method == "random":
        settings = dataclasses.replace(settings, mutations=0, crossovers=0)
    with run.writer.stage("search"):
        evaluate, seed = supernet.evaluator(run, trained), run.seed("search")
        folder = run.workdir / "search"
        ranked = evolution.evolve(run.space, settings, evaluate, seed, folder, run.writer)
    evaluated = {"evaluated": len(ranked)}
    if settings.objective == "pareto":
        points = enumerate(pareto_front(ranked), 1)
        front = [{"name": f"p{number}"} | point.to_json() for number, point in points]
        write_json(run.workdir / "front.json", {"points": front} | evaluated)
        ranked = evolution.within_budget(ranked, settings)
    return ranked[0].to_json() | evaluated


def tune(run: Run) -> Best:
    """Single modules of several sizes, trained one after the other; the best on validation."""
    with run.writer.stage("search"):
        tuned = baselines.tune(run)
    return tuned[0].to_json() | {"evaluated": len(tuned)}


def spread_evenly(run: Run) -> Best:
    """The budget shared as equally as can be by the paper's modules, alike in all blocks."""
    with run.writer.stage("search"):
        return _alone(
            run, uniform(run.config.search.limits.most, run.space.blocks, run.space.width)
        )


def follow_gradients(run: Run) -> Best:
    """The budget where one pass of gradients is large."""
    with run.writer.stage("search"):
        scores = baselines.scores(run)
        return _alone(run, baselines.allot(run.space, scores, run.config.search.limits.most))


def uniform(budget: int, blocks: int, width: int) -> np.ndarray:
    """The genome, alike in all blocks, whose `MODULES` share the budget as equally as can be.

    Sizes grow by one, always that of the module with the fewest parameters that still fits.

    Returns:
      int32 `[blocks, modules]`.
    """
    sizes, each = np.zeros(len(MODULES), np.int32), np.eye(len(MODULES), dtype=np.int32)
    while True:
        fits = blocks * count_params((sizes + each)[:, None], width) <= budget
        if not fits.any():
            return np.tile(sizes, (blocks, 1))
        shares = count_params((sizes * each)[:, None], width)  # of each module by itself
        sizes = sizes + each[np.where(fits, shares, np.iinfo(np.int64).max).argmin()]


def _alone(run: Run, genome: np.ndarray) -> Best:
    """A genome that was not evaluated, if it fits the budget."""
    params, budget = int(run.space.count(genome)), run.config.search.limits
    if not genome.any() or not budget.admits(params):
        found = f"the genome of {params / 1e6:.4f} M parameters that {run.config.method} finds"
        raise UserError(budget.refusal(f"not {found}"))
    return {"genome": genome.tolist(), "params": params}


METHODS: dict[str, Callable[[Run], Best | None]] = {
    "noah": search_supernet,
    "random": search_supernet,  # the same without mutations and crossovers
    "tuned": tune,
    **{f"tuned_{name}": tune for name in MODULES},
    "uniform": spread_evenly,
    "sensitivity": follow_gradients,
}
