"""The evolutionary search (NOAH, section 3.3): one call evaluates a population."""

import dataclasses
import json
import pathlib
from collections.abc import Callable, Iterable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from noah_jax import sharding
from noah_jax.config import Search
from noah_jax.errors import UserError
from noah_jax.space import SearchSpace
from noah_jax.train import Network
from noah_jax.writer import Writer, write_json

_TRIES = 100  # drawings for each genome that is wanted, before the space counts as exhausted


@dataclasses.dataclass(frozen=True)
class Candidate:
    """A genome and what it showed on the validation images, with inherited weights."""

    genome: np.ndarray
    params: int
    accuracy: float
    loss: float

    @property
    def rank(self):
        """Sorts best first: 200 images make ties of accuracy the rule, so loss, then size."""
        return -self.accuracy, self.loss, self.params

    def to_json(self) -> dict:
        return {
            "genome": self.genome.tolist(),
            "params": self.params,
            "val_accuracy": self.accuracy,
            "val_loss": self.loss,
        }

    @classmethod
    def from_json(cls, values: dict) -> "Candidate":
        genome = np.array(values["genome"], np.int32)
        return cls(genome, values["params"], values["val_accuracy"], values["val_loss"])


def make_evaluator(network: Network, mesh: Mesh):
    """The compiled `evaluate(params, frozen, images, labels, genomes, classes)`.

    Args of the result:
      images, labels: uint8 `[chunks, b, h, w, 3]`, int32 `[chunks, b]`; label -1 does not count.
      genomes: `[calls, g, depth, modules]`: g genomes at a time go side by side.
      classes: bool `[num_classes]`, those that a test set shows.

    Returns, each `[calls, g]`: correct predictions among `classes` and among all (int32), summed
    cross-entropy (float32).
    """

    @jax.jit
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
    evaluate = make_evaluator(network, mesh)
    classes = np.ones(params["head"]["bias"].shape, bool)
    side_by_side = settings.genomes_per_call * mesh.size
    calls = -(-settings.population // side_by_side)

    def run(genomes):
        padded = np.resize(genomes, (calls * side_by_side, *genomes.shape[1:]))  # repeats
        calls_of = padded.reshape(calls, side_by_side, *genomes.shape[1:])
        correct, _, loss = evaluate(params, network.frozen, *chunks, calls_of, classes)
        n = len(genomes)
        return np.ravel(correct)[:n] / total, np.ravel(loss)[:n] / total

    return run


def check_budget(space: SearchSpace, settings: Search) -> None:
    """Raises UserError if no genome of `space` fits the budget."""
    if (least := int(space.count(space.smallest()))) > settings.budget:
        raise UserError(
            f"search.budget_millions={settings.budget_millions} admits no genome: the smallest of "
            f"this search space has {least / 1e6:.4f} M parameters"
        )


def evolve(
    space: SearchSpace,
    settings: Search,
    evaluate: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]],
    seed: int,
    folder: pathlib.Path,
    writer: Writer,
) -> list[Candidate]:
    """All candidates, best first, every generation ranked.

    No genome is evaluated twice, none over budget. Each generation is saved as
    `<folder>/gen_NNN.json`, and one that is there already is read, not evaluated. Ends early when
    nothing new can be drawn.

    Raises:
      UserError: no genome fits the budget.
    """
    check_budget(space, settings)
    folder.mkdir(exist_ok=True)
    candidates: list[Candidate] = []
    with writer.progress("search", settings.generations + 1, 0, "generations") as progress:
        for generation in range(settings.generations + 1):
            path = folder / f"gen_{generation:03d}.json"
            if path.is_file():
                found = json.loads(path.read_text())["candidates"]
                candidates += [Candidate.from_json(values) for values in found]
            else:
                rng = np.random.default_rng([seed, generation])
                genomes = propose(space, settings, rng, candidates)
                if not len(genomes):
                    writer.say(f"  search: nothing new to evaluate in generation {generation}")
                    break
                params = space.count(genomes)
                rows = zip(genomes, params, *evaluate(genomes), strict=True)
                found = [Candidate(g, int(p), float(a), float(v)) for g, p, a, v in rows]
                value = {"generation": generation, "candidates": [c.to_json() for c in found]}
                write_json(path, value)
                candidates += found
            candidates.sort(key=lambda candidate: candidate.rank)
            best = candidates[0]
            writer.log(
                stage="search",
                generation=generation,
                evaluated=len(candidates),
                val_accuracy=best.accuracy,
                val_loss=best.loss,
                params=best.params,
            )
            progress.update(1, val_accuracy=best.accuracy, params=best.params)
    return candidates


def propose(
    space: SearchSpace,
    settings: Search,
    rng: np.random.Generator,
    ranked: Sequence[Candidate],
) -> np.ndarray:
    """The next generation `[n, blocks, modules]`: new, distinct and within budget.

    Mutations and crossovers of the best so far, and random genomes up to the population; fewer
    than that only when the space has no more to give.
    """
    seen = {candidate.genome.tobytes() for candidate in ranked}
    parents = np.array([candidate.genome for candidate in ranked[: settings.parents]])
    found: list[np.ndarray] = []

    def draw(make, count):
        wanted = len(found) + count
        for _ in range(_TRIES):
            for genome in make(count) if count else ():
                if len(found) == wanted:
                    return
                if space.count(genome) <= settings.budget and genome.tobytes() not in seen:
                    seen.add(genome.tobytes())
                    found.append(genome)

    def choose(n):
        return parents[rng.integers(len(parents), size=n)]

    def mutate(n):
        return space.mutate(rng, choose(n), settings.operators, settings.m_prob, settings.s_prob)

    def cross(n):
        return space.crossover(rng, choose(n), choose(n), settings.operators)

    def shrunk(n):  # where few genomes fit, drawing blindly finds none
        return [space.shrink(rng, genome, settings.budget) for genome in space.sample(rng, n)]

    if len(parents):
        draw(mutate, settings.mutations)
        draw(cross, settings.crossovers)
    draw(lambda n: space.sample(rng, n), settings.population - len(found))
    draw(shrunk, settings.population - len(found))
    return np.array(found, np.int32).reshape(-1, space.blocks, space.smallest().shape[1])
