"""Evaluation: a population on validation images that stay on the devices, a subnet on a stream."""

import dataclasses
import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh

from noah_jax.config.settings import Search
from noah_jax.runtime import memory, sharding
from noah_jax.vit.network import Network

_T = TypeVar("_T")


def make_evaluator(network: Network, mesh: Mesh, with_logits: bool = False) -> jax.stages.Wrapped:
    """Makes the compiled `evaluate(params, frozen, images, labels, genomes, classes)`.

    Networks that differ in their weights alone share it, with all that it has compiled.

    Args:
      with_logits: for the test of a subnet; a search needs none.

    Args of the result:
      images, labels: uint8 `[chunks, b, h, w, 3]`, int32 `[chunks, b]`; label -1 does not count.
      genomes: `[g, depth, modules]`, which go side by side, or on each device in turn.
      classes: bool `[num_classes]`, those that a test set shows.

    Returns:
      Each `[g]`: correct predictions among `classes` and among all (int32), summed cross-entropy
      (float32). Then the labels, int32 `[chunks, b]`, and the predictions among `classes`, int32
      `[chunks, g, b]`; with logits also these, float32 `[chunks, g, b, num_classes]`.
    """
    return _evaluator(network.without_weights(), mesh, with_logits)


@functools.lru_cache(maxsize=32)
def _evaluator(network: Network, mesh: Mesh, with_logits: bool) -> jax.stages.Wrapped:
    @functools.partial(
        jax.jit, out_shardings=sharding.replicated(mesh), compiler_options=network.options
    )
    def evaluate(params, frozen, images, labels, genomes, classes):
        wide = len(genomes) % mesh.size == 0  # else the images are spread, not the genomes

        def evaluate_one(genome, images, labels):
            logits = network.logits(params, frozen, images, genome)
            among = jnp.where(classes[None], logits, -jnp.inf)
            predicted = among.argmax(-1)
            right, right_of_all = (
                (x == labels).sum(dtype=jnp.int32)  # never at label -1
                for x in (predicted, logits.argmax(-1))
            )
            log_probability = jax.nn.log_softmax(logits)
            picked = jnp.take_along_axis(log_probability, jnp.maximum(labels, 0)[:, None], axis=-1)
            loss = -jnp.where(labels >= 0, picked[:, 0], 0.0).sum()
            kept = (logits,) if with_logits else ()
            return (right, right_of_all, loss), (predicted.astype(jnp.int32), *kept)

        def side_by_side(genomes):
            genomes = sharding.spread(mesh, genomes)

            def chunk(totals, batch):
                images, labels = batch
                images = images if wide else sharding.spread(mesh, images)
                counts, answers = jax.vmap(evaluate_one, (0, None, None))(genomes, images, labels)
                return jax.tree.map(jnp.add, totals, counts), answers

            dtypes = jnp.int32, jnp.int32, jnp.float32
            zeros = tuple(jnp.zeros(len(genomes), dtype) for dtype in dtypes)
            return jax.lax.scan(chunk, zeros, (images, labels))

        if wide and network.execution.genomes_in_turn:
            turns = genomes.reshape(-1, mesh.size, *genomes.shape[1:])
            totals, answers = jax.lax.map(side_by_side, turns)
            totals = [total.reshape(-1) for total in totals]
            answers = [  # of [turns, chunks, devices, b, …]
                x.swapaxes(0, 1).reshape(x.shape[1], len(genomes), *x.shape[3:]) for x in answers
            ]
        else:
            totals, answers = side_by_side(genomes)
        return *totals, labels, *answers  # labels, as a process has only those of its own rows

    return evaluate


def population_evaluator(
    network: Network,
    params: nnx.State,
    batches: Iterable[tuple[np.ndarray, np.ndarray]],
    settings: Search,
    mesh: Mesh,
) -> Callable[[np.ndarray], Iterator[tuple[np.ndarray, np.ndarray]]]:
    """Makes `evaluate(genomes)`, which yields accuracy and mean loss of a few genomes at a time.

    The batches, see `loader.batches`, are put on the devices once. The last genomes of `[n, depth,
    modules]` are padded to the shape of the others.
    """
    images, labels = (np.stack(part) for part in zip(*batches, strict=True))
    total = int((labels >= 0).sum())
    chunks = sharding.replicate(mesh, (images, labels))
    evaluate = memory.watch(make_evaluator(network, mesh))
    head: Any = params["head"]
    classes = np.ones(head["bias"].shape, bool)
    a_device = -(-settings.population // mesh.size)
    side_by_side = min(settings.genomes_per_call, a_device) * mesh.size

    def call(genomes):
        padded = np.resize(genomes, (side_by_side, *genomes.shape[1:]))  # repeats
        return len(genomes), evaluate(params, network.frozen, *chunks, padded, classes)

    def run(genomes):
        starts = range(0, len(genomes), side_by_side)
        calls = (call(genomes[start : start + side_by_side]) for start in starts)
        for n, (correct, _, loss, *_) in one_late(calls):
            yield np.asarray(correct)[:n] / total, np.asarray(loss)[:n] / total

    return run


@dataclasses.dataclass(frozen=True)
class Remaining:
    """The images of a test set that are not evaluated yet, and the sums over the others.

    Attributes:
      batches: the `sharding.local_rows` of batches of `batch_size`, from the image `done` on, see
        `loader.batches`. Only one at a time is in memory.
      total: number of images in the set.
      classes: those that the set shows; empty = all.
      sums: as `score_stream` yields them.
    """

    batches: Iterable[tuple[np.ndarray, np.ndarray]]
    batch_size: int
    total: int
    classes: tuple[int, ...] = ()
    done: int = 0
    sums: Sequence[float] = (0.0, 0.0, 0.0)


def score_stream(
    network: Network,
    params: nnx.State,
    genome: np.ndarray,
    remaining: Remaining,
    evaluate: Callable,
    mesh: Mesh,
) -> Iterator[tuple[int, np.ndarray, np.ndarray, np.ndarray]]:
    """Yields, batch by batch, how many images are done, sums over them, predictions and logits.

    The sums, float64 `[3]`: correct among the set's classes, correct among all, loss. The
    predictions, int32 `[2, images]`: label and prediction of each image of the batch, in the set's
    order. The logits of these images, float32 `[images, num_classes]`.

    Args:
      evaluate: from `make_evaluator`, with logits.
    """
    head: Any = params["head"]
    shown = np.zeros(head["bias"].shape, bool)
    shown[list(remaining.classes) or slice(None)] = True
    batch, done, totals = remaining.batch_size, remaining.done, np.array(remaining.sums)

    def count(local):
        placed = [sharding.from_local_rows(mesh, part[None], batch, axis=1) for part in local]
        return evaluate(params, network.frozen, *placed, genome[None], shown)

    for *sums, labels, predicted, logits in one_late(map(count, remaining.batches)):
        done, totals = min(done + batch, remaining.total), totals + np.ravel(sums)
        pairs = np.stack([np.ravel(labels), np.ravel(predicted)])
        rows = pairs[0] >= 0
        yield done, totals, pairs[:, rows], np.asarray(logits).reshape(len(rows), -1)[rows]


def one_late(results: Iterable[_T]) -> Iterator[_T]:
    """Yields each result after the next has been made, so that the devices never wait for us."""
    waiting = []
    for result in results:
        waiting.append(result)
        if len(waiting) == 2:
            yield waiting.pop(0)
    yield from waiting
