"""Methods that find a genome without a supernet.

By sensitivity: the budget goes where one pass of gradients is large. The score of a module in a
block is the mean square of the gradient of its parameters, summed over the batches of one pass
through the training images. It is taken at the start of training, with fresh modules and head on
the pre-trained weights. (SPT, arXiv 2303.08566, allots single weights in this way.)

By tuning, as one would do by hand: single modules of several sizes are trained on the training
images with the recipe of retraining, and evaluated on the validation images. The best is then
retrained on both, like a genome that a search has found.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from noah_jax.config import derived
from noah_jax.data import loader
from noah_jax.errors import UserError
from noah_jax.runtime import sharding, workdir
from noah_jax.search import evolution
from noah_jax.space import SearchSpace
from noah_jax.training.run import Run


def scores(run: Run) -> np.ndarray:
    """Computes the sensitivity of each module in each block.

    Returns:
      float64 `[blocks, modules]`, mean squared gradients; 0 for a module that is not used.

    Raises:
      UserError: an image cannot be read, or the gradients are not finite.
    """
    network = run.network(run.space.max_sizes, "supernet init")
    images, labels = loader.load(
        run.source.splits["train"], run.config.image_size, run.config.center_crop
    )
    batch = min(run.schedule("retrain").batch_size, len(labels))
    largest = run.space.largest()

    @jax.jit
    def squares(params, frozen, images, labels):
        def loss(params):
            logits = network.logits(params, frozen, sharding.spread(run.mesh, images), largest)
            return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

        gradient, blocks = jax.grad(loss)(params)["blocks"], run.space.blocks

        def score(name):
            leaves = [leaf.reshape(blocks, -1) for leaf in jax.tree.leaves(gradient[name])]
            return jnp.square(jnp.concatenate(leaves, axis=1)).mean(axis=1)

        used = run.space.max_sizes
        columns = [score(name) if used[name] else jnp.zeros(blocks) for name in run.space.modules]
        return jnp.stack(columns, axis=1)

    found = np.zeros((run.space.blocks, len(run.space.modules)))
    for start in range(0, len(labels) - batch + 1, batch):
        part = slice(start, start + batch)
        placed = sharding.replicate(run.mesh, (images[part], labels[part]))
        found += squares(network.params, network.frozen, *placed)
    if not np.isfinite(found).all():
        raise UserError("sensitivity: the gradients are not finite; check the images and weights")
    return found


def allot(space: SearchSpace, scores: np.ndarray, budget: int) -> np.ndarray:
    """Makes the genome whose sizes are in proportion to `scores`, within the budget.

    One size at a time grows by one: the one with the highest quotient of its score and the size
    that it would have (D'Hondt's method). This ends when no size can grow within the budget and the
    space's largest sizes.

    Args:
      scores: float `[blocks, modules]`.
      budget: the most parameters, without the head.

    Returns:
      int32 `[blocks, columns]`.
    """
    most = np.array([space.max_sizes[name] for name in space.modules])
    genome = np.zeros(scores.shape, np.int32)
    grows = np.broadcast_to(most > 0, scores.shape).copy()
    while grows.any():
        worth = np.where(grows, scores / (genome + 1), -np.inf)
        cell = np.unravel_index(worth.argmax(), worth.shape)
        genome[cell] += 1
        if space.count(genome) > budget:
            genome[cell] -= 1
            grows[cell] = False
        elif genome[cell] == most[cell[1]]:
            grows[cell] = False
    return genome


def tune(run: Run) -> dict[str, Any]:
    """Trains single modules of several sizes one after the other; the best on validation wins.

    Those that an earlier start has trained are read.

    Returns:
      The contents of `best.json`.

    Raises:
      UserError: a training diverges.
      Preempted: a signal came; a checkpoint is saved.
    """
    genomes = derived.candidates(run.config)
    names = {genome.tobytes(): name for name, genome in genomes.items()}

    def evaluate(wanted):
        for genome in wanted:
            name = names[genome.tobytes()]
            run.writer.say(f"  tuning: {name}, {list(genomes).index(name) + 1} of {len(genomes)}")
            params, network = run.fit_genome(
                "tuning", genome, run.source.splits["train"], run.workdir / "tuning" / name
            )
            yield run.evaluate(network, params, genome, run.source.splits["val"])

    with run.writer.stage("search"):
        workdir.make_folder(run.workdir / "tuning")
        everything, folder = np.stack(list(genomes.values())), run.workdir / "search"
        tuned = evolution.evaluate_all(run.space, everything, evaluate, folder, run.writer)
    return tuned[0].to_json() | {"evaluated": len(tuned)}
