"""What one would do by hand: train single modules of several sizes, keep the best.

Each candidate is trained on the training images with the recipe of retraining, and judged by the
validation images; the best is then retrained on both, as a genome that a search has found.
"""

import numpy as np

from noah_jax import evaluation, search
from noah_jax.errors import UserError
from noah_jax.run import Run
from noah_jax.space import MODULES, SearchSpace


def candidates(run: Run) -> dict[str, np.ndarray]:
    """By name the single modules, of each of the sizes `baseline.tuned`, that fit the budget.

    Raises:
      UserError: none does.
    """
    method, sizes = run.config.method, run.config.baseline.tuned
    modules = MODULES if method == "tuned" else [method.removeprefix("tuned_")]
    genomes = {
        f"{module}-{size}": SearchSpace.single(
            {module: size}, run.space.blocks, run.space.width
        ).smallest()
        for module in modules
        for size in sizes
    }
    least, most = run.config.search.bounds
    fits = {name: g for name, g in genomes.items() if least <= run.space.count(g) <= most}
    if not fits:
        raise UserError(
            f"none of {', '.join(genomes)} has {least / 1e6:.4f} to {most / 1e6:.4f} M parameters: "
            "other sizes are baseline.tuned, other bounds search.budget_millions, least_millions"
        )
    return fits


def tune(run: Run) -> list[search.Candidate]:
    """All candidates, best first; those that an earlier start trained are read.

    Raises:
      UserError: none fits the budget, or a training diverges.
      Preempted: after a checkpoint.
    """
    genomes = candidates(run)
    names = {genome.tobytes(): name for name, genome in genomes.items()}

    def evaluate(wanted):
        for genome in wanted:
            name = names[genome.tobytes()]
            run.writer.say(f"  tuning: {name}, {list(genomes).index(name) + 1} of {len(genomes)}")
            params, network = run.fit_genome(
                "tuning", genome, run.source.splits["train"], run.workdir / "tuning" / name
            )
            batches = run.batches(run.source.splits["val"])
            judge = evaluation.population_evaluator(
                network, params, batches, run.config.search, run.mesh
            )
            yield from judge(genome[None])

    return search.judge_all(
        run.space, np.stack(list(genomes.values())), evaluate, run.workdir / "search", run.writer
    )
