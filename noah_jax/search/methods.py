"""The methods that find a genome: a name and a function each.

A function takes the run and returns the contents of `best.json`: the genome, its number of
parameters and, if it was evaluated, its accuracy and loss on the validation images. The other
methods are single modules, the linear probe and full fine-tuning. Their spaces have one point, so
there is nothing to find.
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
    """Finds the run's genome, or reads it if `best.json` is there already.

    Returns:
      The contents of `best.json`; None if the run ends with its supernet.

    Raises:
      UserError: no genome fits the budget, or a training diverges.
      Preempted: a signal came; what could be saved is saved.
    """
    path = run.workdir / "best.json"
    if best := read_json(path, run.writer.say):
        return best
    best = METHODS[run.config.method](run)
    if best:
        write_json(path, best)
    return best


def search_supernet(run: Run) -> Best | None:
    """Trains a supernet and searches in it; None if only the supernet is wanted (NOAH, section 3).

    Random search is the same without mutations and crossovers.
    """
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


def spread_evenly(run: Run) -> Best:
    """Shares the budget as equally as possible between the paper's modules, alike in all blocks."""
    with run.writer.stage("search"):
        return _alone(
            run, uniform(run.config.search.limits.most, run.space.blocks, run.space.width)
        )


def follow_gradients(run: Run) -> Best:
    """Spends the budget where one pass of gradients is large; see baselines.py."""
    with run.writer.stage("search"):
        scores = baselines.scores(run)
        return _alone(run, baselines.allot(run.space, scores, run.config.search.limits.most))


def uniform(budget: int, blocks: int, width: int) -> np.ndarray:
    """Makes the genome, alike in all blocks, in which `MODULES` share the budget equally.

    One size at a time grows by one: that of the module with the fewest parameters among those whose
    growth still fits.

    Args:
      budget: the most parameters, without the head.
      width: token width of the backbone.

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
    """Describes a genome that was not evaluated; UserError if the budget forbids it."""
    params, budget = int(run.space.count(genome)), run.config.search.limits
    if not genome.any() or not budget.admits(params):
        found = f"the genome of {params / 1e6:.4f} M parameters that {run.config.method} finds"
        raise UserError(budget.refusal(f"not {found}"))
    return {"genome": genome.tolist(), "params": params}


METHODS: dict[str, Callable[[Run], Best | None]] = {
    "noah": search_supernet,
    "random": search_supernet,
    "tuned": baselines.tune,
    **{f"tuned_{name}": baselines.tune for name in MODULES},
    "uniform": spread_evenly,
    "sensitivity": follow_gradients,
}
