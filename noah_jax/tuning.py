"""What one would do by hand: train single modules of several sizes, keep the best.

Each candidate is trained on the training images with the recipe of retraining, and judged by the
validation images; the best is then retrained on both, as a genome that a search has found.
"""

import numpy as np

from noah_jax import search, workdir
from noah_jax.candidates import Candidate
from noah_jax.run import Run


def tune(run: Run) -> list[Candidate]:
    """All candidates, best first; those that an earlier start trained are read.

    Raises:
      UserError: a training diverges.
      Preempted: after a checkpoint.
    """
    genomes = run.config.candidates()
    workdir.make_folder(run.workdir / "tuning")
    names = {genome.tobytes(): name for name, genome in genomes.items()}

    def evaluate(wanted):
        for genome in wanted:
            name = names[genome.tobytes()]
            run.writer.say(f"  tuning: {name}, {list(genomes).index(name) + 1} of {len(genomes)}")
            params, network = run.fit_genome(
                "tuning", genome, run.source.splits["train"], run.workdir / "tuning" / name
            )
            yield run.judge(network, params, genome, run.source.splits["val"])

    return search.judge_all(
        run.space, np.stack(list(genomes.values())), evaluate, run.workdir / "search", run.writer
    )
