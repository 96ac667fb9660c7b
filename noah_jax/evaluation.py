"""Evaluation: a population on validation images that stay on the devices, a subnet on a stream."""

import functools
from collections.abc import Callable, Iterable

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from noah_jax import memory, sharding
from noah_jax.network import Network
from noah_jax.settings import Search


def make_evaluator(network: Network, mesh: Mesh):
    """The compiled `evaluate(params, frozen, images, labels, genomes, classes)`.

    Args of the result:
      images, labels: uint8 `[chunks, b, h, w, 3]`, int32 `[chunks, b]`; label -1 does not count.
      genomes: `[calls, g, depth, modules]`: g genomes at a time go side by side.
      classes: bool `[num_classes]`, those that a test set shows.

    Returns, each `[calls, g]`: correct predictions among `classes` and among all (int32), summed
    cross-entropy (float32).
    """

    @functools.partial(jax.jit, out_shardings=sharding.replicated(mesh))
    def evaluate(params, frozen, images, labels, genomes, classes):
        wide = genomes.shape[1] % mesh.size == 0  # else the images are spread, not the genomes

        def judge(genome, images, labels):
            logits = network.logits(params, frozen, images, genome)
            among = jnp.where(classes[None], logits, -jnp.inf)
            right, right_of_all = (
                (x.argmax(-1) == labels).sum(dtype=jnp.int32)  # never at label -1
                for x in (among, logits)
            )
            log_probability = jax.nn.log_softmax(logits)
            picked = jnp.take_along_axis(log_probability, jnp.maximum(labels, 0)[:, None], axis=-1)
            return right, right_of_all, -jnp.where(labels >= 0, picked[:, 0], 0.0).sum()

        def call(_, genomes):
            genomes = sharding.spread(mesh, genomes)

            def chunk(totals, batch):
                images, labels = batch
                images = images if wide else sharding.spread(mesh, images)
                counts = jax.vmap(judge, (0, None, None))(genomes, images, labels)
                return jax.tree.map(jnp.add, totals, counts), None

            zeros = [
                jnp.zeros(len(genomes), dtype) for dtype in (jnp.int32, jnp.int32, jnp.float32)
            ]
            return None, jax.lax.scan(chunk, tuple(zeros), (images, labels))[0]

        return jax.lax.scan(call, None, genomes)[1]

    return evaluate


def population_evaluator(
    network: Network,
    params,
    batches: Iterable[tuple[np.ndarray, np.ndarray]],
    settings: Search,
    mesh: Mesh,
) -> Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """`genomes [n, depth, modules]` → accuracy `[n]`, mean loss `[n]`, for n up to the population.

    The batches, see `loader.batches`, are put on the devices once. A population is padded to one
    shape.
    """
    images, labels = (np.stack(part) for part in zip(*batches, strict=True))
    total = int((labels >= 0).sum())
    chunks = sharding.replicate(mesh, (images, labels))
    evaluate = memory.watch(make_evaluator(network, mesh))
    classes = np.ones(params["head"]["bias"].shape, bool)
    a_device = -(-settings.population // mesh.size)
    side_by_side = min(settings.genomes_per_call, a_device) * mesh.size
    calls = -(-settings.population // side_by_side)

    def run(genomes):
        padded = np.resize(genomes, (calls * side_by_side, *genomes.shape[1:]))  # repeats
        calls_of = padded.reshape(calls, side_by_side, *genomes.shape[1:])
        correct, _, loss = evaluate(params, network.frozen, *chunks, calls_of, classes)
        n = len(genomes)
        return np.ravel(correct)[:n] / total, np.ravel(loss)[:n] / total

    return run


def score_stream(
    network: Network,
    params,
    batches: Iterable[tuple[np.ndarray, np.ndarray]],
    total: int,
    batch: int,
    genome: np.ndarray,
    classes: tuple[int, ...],
    evaluate: Callable,
    progress: Callable[[int], None],
    mesh: Mesh,
) -> np.ndarray:
    """Sums over a test set, float64 `[3]`: correct among its classes, correct among all, loss.

    Args:
      batches: the `sharding.local_rows` of batches of `batch`, see `loader.batches`; one at a
        time is in memory.
      total: images in the set.
      classes: those that the set shows; empty = all.
      evaluate: from `make_evaluator`.
      progress: is told how many images were done since the last call.
    """
    shown = np.zeros(params["head"]["bias"].shape, bool)
    shown[list(classes) or slice(None)] = True
    totals, waiting = np.zeros(3), np.zeros(3)
    for number, local in enumerate(batches):
        placed = [sharding.from_local_rows(mesh, part[None], batch, axis=1) for part in local]
        counts = evaluate(params, network.frozen, *placed, genome[None, None], shown)
        totals += np.ravel(waiting)  # one batch late: the host goes on decoding
        waiting = counts
        progress(min(batch, total - number * batch))
    return totals + np.ravel(waiting)
