"""How the methods of several runs stand: their order, and how each compares with the best.

One order holds in all tables, legends, figures and lists: sets of images as they come, the best
method first, then by seed. Of methods that are alike, the one with fewer parameters is first.
"""

import dataclasses
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from noah_jax import uncertainty
from noah_jax.errors import UserError
from noah_jax.training import predictions
from noah_jax.training.result import Result
from noah_jax.uncertainty import LEVEL, Difference, Interval

BEST, NOT_WORSE, WORSE, UNKNOWN = "best", "not worse", "worse", "not compared"

Results = Mapping[pathlib.Path, Result]  # by workdir


@dataclasses.dataclass(frozen=True)
class Standing:
    """A method, and how it compares with the best.

    Attributes:
      mark: one of the four above.
      difference: the method less the best; None for the best, and if they cannot be compared.
      p: its p value after Holm's correction.
      problem: why something was not compared; empty if nothing was left out.
    """

    method: str
    mark: str
    difference: Difference | None = None
    p: float | None = None
    problem: str = ""


class _Pair(NamedTuple):
    """The images and the seed, which two runs must have in common to be compared."""

    images: str
    seed: int


class _Run(NamedTuple):
    workdir: pathlib.Path
    result: Result


def set_name(result: Result) -> str:
    """The name of the images that a result comes from; results of one name are comparable."""
    shots = result["shots"]
    return f"{result['task']}, {shots}-shot" if shots else result["task"]


def by_set(results: Results) -> Mapping[str, Results]:
    """The results of each set of images."""
    found: dict[str, dict[pathlib.Path, Result]] = {}
    for workdir, result in results.items():
        found.setdefault(set_name(result), {})[workdir] = result
    return found


def by_method(results: Iterable[Result]) -> dict[str, list[Result]]:
    """The results of each method, the best method first.

    Of several sets of images, the mean over those counts that all methods have.
    """
    found: dict[str, list[Result]] = {}
    for result in results:
        found.setdefault(result["method"], []).append(result)
    sets = [{set_name(result) for result in own} for own in found.values()]
    common = set.intersection(*sets) if sets else set()

    def place(method: str) -> tuple[float, float]:
        own = found[method]
        scores: dict[str, list[float]] = {}
        for result in own:
            if not common or set_name(result) in common:
                scores.setdefault(set_name(result), []).append(result["test_accuracy"])
        accuracy = np.mean([np.mean(each) for each in scores.values()])
        return -round(float(accuracy), 9), float(np.mean([result["params"] for result in own]))

    return {
        method: sorted(found[method], key=lambda result: result["seed"])
        for method in sorted(found, key=place)
    }


def in_order(results: Results) -> Results:
    """The same results in the order of all tables."""
    ordered: dict[pathlib.Path, Result] = {}
    for some in by_set(results).values():
        methods = list(by_method(some.values()))

        def place(workdir, some=some, methods=methods):
            return methods.index(some[workdir]["method"]), some[workdir]["seed"]

        ordered |= {workdir: some[workdir] for workdir in sorted(some, key=place)}
    return ordered


def interval(results: Sequence[Result]) -> Interval | None:
    """The 95 % interval of one method's accuracy on one set of images."""
    accuracies = [result["test_accuracy"] for result in results]
    return uncertainty.of_accuracies(accuracies, results[0]["images"]["test"])


def compare(results: Results) -> list[Standing]:
    """Compares each method with the best, the best first.

    Runs are paired that have the same images and seed. A single pair is compared image by image,
    several are compared by their accuracies.
    """
    runs: dict[str, dict[_Pair, _Run]] = {}
    for workdir, result in results.items():
        pair = _Pair(set_name(result), result["seed"])
        runs.setdefault(result["method"], {})[pair] = _Run(workdir, result)
    best, *rivals = by_method(results.values())
    found = [_against(method, runs[method], runs[best]) for method in rivals]
    alone = {
        one.method: one.difference.p
        for one in found
        if one.difference and one.difference.p is not None
    }
    together = dict(zip(alone, uncertainty.holm([*alone.values()]), strict=True))
    return [Standing(best, BEST), *(_marked(one, together.get(one.method)) for one in found)]


def _marked(standing: Standing, p: float | None) -> Standing:
    if standing.difference is None or p is None:
        return standing
    worse = p < LEVEL and standing.difference.mean < 0
    return dataclasses.replace(standing, p=p, mark=WORSE if worse else NOT_WORSE)


def _against(method: str, own: Mapping[_Pair, _Run], best: Mapping[_Pair, _Run]) -> Standing:
    """One method less the best, with the p value of this comparison alone."""
    common = [pair for pair in best if pair in own]
    if not common:
        return Standing(method, UNKNOWN, problem="has no seed in common with the best")
    alike = [pair for pair in common if _images(own[pair]) == _images(best[pair])]
    problem = "" if len(alike) == len(common) else "was tested on other images than the best"
    if not alike:
        return Standing(method, UNKNOWN, problem=problem)
    if problem:
        problem += f" in {len(common) - len(alike)} of {len(common)} pairs, which are left out"
    if len(alike) == 1:
        try:
            difference = _image_by_image(own[alike[0]], best[alike[0]])
        except UserError as error:
            return Standing(method, UNKNOWN, problem=f"cannot be compared: {error}")
    else:
        accuracies = (
            [runs[pair].result["test_accuracy"] for pair in alike] for runs in (own, best)
        )
        difference = uncertainty.by_runs(*accuracies)
        if difference.p is None:
            problem = "differs from the best alike in all pairs, so that the test is not defined"
    return Standing(method, UNKNOWN, difference, problem=problem)


def _images(run: _Run) -> str | None:
    """The fingerprint of the images, which changes with their labels and order, too."""
    return run.result.get("inputs", {}).get("images")


def _image_by_image(own: _Run, best: _Run) -> Difference:
    """Compares two runs by their predictions.

    Raises:
      UserError: predictions are missing or damaged, or are for other images.
    """
    ours, theirs = (predictions.read(run.workdir, run.result) for run in (own, best))
    if not np.array_equal(ours.labels, theirs.labels):
        raise UserError(f"{own.workdir} and {best.workdir} have other test labels")
    return uncertainty.by_images(ours.right, theirs.right)


# --- In words ------------------------------------------------------------------------------------


def explained(results: Results, standings: Sequence[Standing]) -> list[str]:
    """A sentence or two for each kind of interval and test in a table, and what was left out."""
    counts = {
        len(own) for some in by_set(results).values() for own in by_method(some.values()).values()
    }
    said = []
    if 1 in counts:
        said.append(
            "95 % interval of one run (Wilson's): what other test images might change. What "
            "another seed might change comes on top."
        )
    if max(counts) > 1:
        said.append(
            "95 % interval of a mean over seeds (Student's t): what other seeds might change, on "
            "these test images. It is left out where all seeds are alike."
        )
    differences = [one.difference for one in standings if one.difference]
    if any(difference.by_image for difference in differences):
        said.append(
            "Less the best, in points, with one seed: exact McNemar test on the images that only "
            "one of the two has right; 95 % interval over all images (Student's t)."
        )
    if any(not difference.by_image for difference in differences):
        of = "task and seed" if len(by_set(results)) > 1 else "seed"
        said.append(
            f"Less the best, in points, with several runs: paired t test over the pairs of {of}."
        )
    if rivals := sum(one.p is not None for one in standings):
        said.append(
            f"p is corrected for {rivals} comparison{'s' * (rivals > 1)} (Holm), the intervals are "
            f"not. Not worse: p ≥ {LEVEL:g}, so the test cannot tell it from the best. That does "
            "not make it as good."
        )
    return said + [f"{one.method} {one.problem}." for one in standings if one.problem]
