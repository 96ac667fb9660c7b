"""The evolutionary search (NOAH, section 3.3).

ranking.py measures whether its ranking of genomes can be trusted.
"""

import dataclasses
import functools
import math
import pathlib
import time
from collections.abc import Callable, Iterable, Sequence

import numpy as np

from noah_jax.config.settings import Search
from noah_jax.errors import UserError
from noah_jax.runtime import preemption, workdir
from noah_jax.runtime.writer import Writer
from noah_jax.space import SearchSpace
from noah_jax.space.budget import Budget
from noah_jax.space.candidates import Candidate, pareto_order

_TRIES = 100  # drawings for each genome that is wanted; then the space counts as exhausted
_FAILURES = 5  # failed repairs in a row; then the budget counts as one that no genome fits
_SECONDS_BETWEEN_SAVES = 1.0

# Genomes `[n, blocks, columns]` → accuracy and mean loss of the first few, of the next few, ….
Evaluate = Callable[[np.ndarray], Iterable[tuple[np.ndarray, np.ndarray]]]


def evolve(
    space: SearchSpace,
    settings: Search,
    evaluate: Evaluate,
    seed: int,
    folder: pathlib.Path,
    writer: Writer,
) -> list[Candidate]:
    """Searches, and returns all candidates of all generations, best first.

    No genome is evaluated twice. None outside the budget is evaluated, unless the objective is a
    front over all budgets. Each generation is saved as `<folder>/gen_NNN.json`. A saved generation
    is read, not evaluated again. The results of a generation in progress are in `unfinished.json`.
    The search ends early when nothing new can be drawn.

    Args:
      evaluate: genomes `[n, blocks, columns]` → accuracy and mean loss of the first few, of the
        next few, ….
      seed: of all random numbers of the search.

    Raises:
      UserError: no genome fits the budget, or none has a finite loss.
      Preempted: a signal came; the results so far are saved.
    """
    if problem := space.unreachable(settings.limits):
        raise UserError(problem)
    generations = _Generations(space, evaluate, folder, writer)
    candidates: list[Candidate] = []
    count = settings.generations + 1
    with writer.progress("search", count, 0, "generations") as progress, preemption.deferred():
        for number in range(count):
            found = generations.read(number)
            if not found:
                rng = np.random.default_rng([seed, number])
                genomes = propose(space, settings, rng, candidates)
                if not len(genomes):
                    writer.say(f"  search: nothing new to evaluate in generation {number}")
                    break
                found = generations.evaluate(number, genomes)
            candidates = sorted(candidates + found, key=lambda candidate: candidate.rank)
            best = candidates[0]
            writer.log(
                stage="search",
                generation=number,
                evaluated=len(candidates),
                val_accuracy=best.accuracy,
                val_loss=best.to_json()["val_loss"],
                params=best.params,
            )
            progress.update(1, val_accuracy=best.accuracy, params=best.params)
            preemption.stop_if_requested(
                f"the search is saved after generation {number + 1} of {count}"
            )
    generations.finish()
    if not candidates:
        raise UserError(f"search: {settings.limits.refusal('no genome that was found')}")
    if not candidates[0].is_finite:
        raise UserError("search: no genome has a finite loss, so the supernet cannot be used")
    return candidates


def evaluate_all(
    space: SearchSpace,
    genomes: np.ndarray,
    evaluate: Evaluate,
    folder: pathlib.Path,
    writer: Writer,
) -> list[Candidate]:
    """Evaluates and saves genomes `[n, blocks, columns]` as `evolve` does a first generation.

    Returns:
      The candidates, best first.

    Raises:
      Preempted: a signal came; the results so far are saved.
    """
    generations = _Generations(space, evaluate, folder, writer)
    with preemption.deferred():
        found = generations.read(0) or generations.evaluate(0, genomes)
    generations.finish()
    return sorted(found, key=lambda candidate: candidate.rank)


class _Generations:
    """The generations of one search, evaluated or read from its folder."""

    def __init__(
        self, space: SearchSpace, evaluate: Evaluate, folder: pathlib.Path, writer: Writer
    ):
        workdir.make_folder(folder)
        self._space, self._evaluate, self._folder = space, evaluate, folder
        self._writer, self._unfinished = writer, folder / "unfinished.json"

    def read(self, number: int) -> list[Candidate]:
        """Returns the candidates of a generation that is saved; empty if it is not."""
        saved = workdir.read_json(self._path(number), self._writer.say)
        return [Candidate.from_json(values) for values in saved["candidates"]] if saved else []

    def evaluate(self, number: int, genomes: np.ndarray) -> list[Candidate]:
        """Returns and saves the candidates of a generation that is not saved yet."""
        found = self._known(genomes)
        params, saved_at = self._space.count(genomes), time.monotonic()
        for results in self._evaluate(genomes[len(found) :]):
            for accuracy, loss in zip(*results, strict=True):
                i, known = len(found), math.isfinite(loss)
                loss = float(loss) if known else math.inf  # NaN has no order
                found.append(Candidate(genomes[i], int(params[i]), float(accuracy), loss))
                if not known:
                    genome = genomes[i].tolist()
                    self._writer.say(f"  search: the genome {genome} has no finite loss")
            if preemption.requested() or time.monotonic() > saved_at + _SECONDS_BETWEEN_SAVES:
                workdir.write_json(self._unfinished, _to_json(number, found))
                saved_at = time.monotonic()
                preemption.stop_if_requested(
                    f"the search is saved after {len(found)} of {len(genomes)} genomes of "
                    f"generation {number + 1}"
                )
        workdir.write_json(self._path(number), _to_json(number, found))
        return found

    def finish(self) -> None:
        """Deletes the file of the generation in progress."""
        workdir.discard(self._unfinished)

    def _path(self, number: int) -> pathlib.Path:
        return self._folder / f"gen_{number:03d}.json"

    def _known(self, genomes: np.ndarray) -> list[Candidate]:
        """Reads the results of the first genomes, if an interrupted start evaluated them."""
        saved, found = workdir.read_json(self._unfinished, self._writer.say), []
        for values, genome in zip(saved["candidates"] if saved else (), genomes, strict=False):
            if values["genome"] != genome.tolist():  # of another generation
                break
            found.append(Candidate.from_json(values))
        return found


def _to_json(number: int, found: list[Candidate]) -> dict:
    return {"generation": number, "candidates": [c.to_json() for c in found]}


def propose(
    space: SearchSpace,
    settings: Search,
    rng: np.random.Generator,
    ranked: Sequence[Candidate],
) -> np.ndarray:
    """Draws the next generation: genomes that are new, distinct and within the budget.

    It consists of mutations and crossovers of the best so far, filled up with random genomes to the
    size of the population. There are fewer only if the space has no more. With the paper's
    operators genomes are drawn until they fit the budget; with the others a genome that does not
    fit is repaired.

    Args:
      ranked: all candidates so far, best first.

    Returns:
      int32 `[n, blocks, columns]`
    """
    pareto, paper = settings.objective == "pareto", settings.operators == "paper"
    budget = Budget(0, int(space.count(space.largest()))) if pareto else settings.limits
    new = _NewGenomes(space, rng, budget, {each.genome.tobytes() for each in ranked})
    parents = _parents(settings, ranked, pareto)
    if len(parents):
        breeding = _Breeding(space, settings, rng, parents)
        new.draw(breeding.mutate, settings.mutations, repair=not paper)
        new.draw(breeding.cross, settings.crossovers, repair=not paper)
    sample = space.sample if paper else space.sample_broad
    sample = functools.partial(space.sample_spread if pareto else sample, rng)
    new.draw(sample, settings.population - len(new.found), repair=not paper)
    # Where few genomes fit the budget, blind drawing fails.
    new.draw(sample, settings.population - len(new.found), repair=True)
    return np.array(new.found, np.int32).reshape(-1, space.blocks, len(space.modules))


@dataclasses.dataclass
class _NewGenomes:
    """Collects genomes that are within the budget and not in `seen`."""

    space: SearchSpace
    rng: np.random.Generator
    budget: Budget
    seen: set[bytes]
    found: list[np.ndarray] = dataclasses.field(default_factory=list)

    def draw(self, make: Callable[[int], np.ndarray], count: int, repair: bool) -> None:
        """Adds up to `count` genomes; those outside the budget are repaired or left out."""
        wanted, failures = len(self.found) + count, 0
        for _ in range(_TRIES):
            for genome in make(count) if count else ():
                if len(self.found) == wanted or failures == _FAILURES:
                    return
                if repair:
                    genome = self.space.repair(self.rng, genome, self.budget)
                    failures = failures + 1 if genome is None else 0
                elif not self.budget.admits(self.space.count(genome)):
                    continue
                if genome is not None and genome.tobytes() not in self.seen:
                    self.seen.add(genome.tobytes())
                    self.found.append(genome)


@dataclasses.dataclass
class _Breeding:
    """Makes children of `parents`, int32 `[n, blocks, columns]`, best first."""

    space: SearchSpace
    settings: Search
    rng: np.random.Generator
    parents: np.ndarray

    def mutate(self, n: int) -> np.ndarray:
        settings = self.settings
        chances = settings.operators, settings.m_prob, settings.s_prob
        return self.space.mutate(self.rng, self._choose(n), *chances)

    def cross(self, n: int) -> np.ndarray:
        mothers, fathers = self._choose(n), self._choose(n)
        return self.space.crossover(self.rng, mothers, fathers, self.settings.operators)

    def _choose(self, n: int) -> np.ndarray:
        """Draws `n` parents, by binary tournaments if a front is sought."""
        if self.settings.objective == "pareto":
            return self.parents[self.rng.integers(len(self.parents), size=(2, n)).min(axis=0)]
        return self.parents[self.rng.integers(len(self.parents), size=n)]


def _parents(settings: Search, ranked: Sequence[Candidate], pareto: bool) -> np.ndarray:
    """Picks the genomes that may have children, int32 `[n, blocks, columns]`, best first."""
    if pareto:
        survivors = pareto_order(ranked)[: settings.population]
    else:
        survivors = ranked[: settings.parents]
    return np.array([candidate.genome for candidate in survivors])


def within_budget(ranked: Sequence[Candidate], settings: Search) -> list[Candidate]:
    """Picks the candidates that fit the budget, in their order.

    Raises:
      UserError: none fits.
    """
    budget = settings.limits
    if not (admitted := [candidate for candidate in ranked if budget.admits(candidate.params)]):
        refusal = budget.refusal("none of the genomes that were evaluated")
        raise UserError(f"search: {refusal}; front.json has the whole front")
    return admitted
