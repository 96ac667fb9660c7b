"""The evolutionary search (NOAH, section 3.3): one call evaluates a population."""

import dataclasses
import pathlib
from collections.abc import Callable, Sequence

import numpy as np

from noah_jax.errors import UserError
from noah_jax.settings import Search
from noah_jax.space import SearchSpace
from noah_jax.writer import Writer, make_folder, read_json, write_json

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
    make_folder(folder)
    candidates: list[Candidate] = []
    with writer.progress("search", settings.generations + 1, 0, "generations") as progress:
        for generation in range(settings.generations + 1):
            path = folder / f"gen_{generation:03d}.json"
            if saved := read_json(path):
                candidates += [Candidate.from_json(values) for values in saved["candidates"]]
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
