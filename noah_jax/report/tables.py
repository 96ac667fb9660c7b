"""Tables of results for a terminal: one line a run, or the paper's table of a benchmark."""

import dataclasses
import textwrap
from collections.abc import Sequence

import numpy as np

from noah_jax import uncertainty
from noah_jax.data.tasks import FEW_SHOT, FEW_SHOT_MEANS, GROUPS, METRIC, TASKS, VTAB
from noah_jax.report.standings import Results, Standing, by_method, compare, explained, interval
from noah_jax.training.result import Result
from noah_jax.uncertainty import Interval

_COMPARED = ("less the best", "p", "")  # titles; the last column has the marks

Pair = tuple[str, str]  # a figure and its interval


def runs(results: Results) -> str:
    """A line for each run on the same images with the same seed, the best first.

    It has method, parameters, accuracy, any published figure, and how the run compares with the
    best.
    """
    standings = compare(results)
    by_name = {result["method"]: result for result in results.values()}
    rows = [("task", "method", "seed", "params (M)", METRIC, "published (%)", *_COMPARED)]
    for one in standings:
        result = by_name[one.method]
        figure = published(result)
        rows.append(
            (
                result["task"],
                result["method"],
                str(result["seed"]),
                f"{result['params'] / 1e6:.4f}",
                _joined(percent(result["test_accuracy"], interval([result]))),
                "-" if figure is None else f"{figure:.1f}",
                *_compared(one),
            )
        )
    rows = rows if len(standings) > 1 else [row[: -len(_COMPARED)] for row in rows]
    return aligned(rows)


def percent(share: float, interval: Interval | None, sign: str = "") -> Pair:
    """A share and its interval in percent; the second is empty without an interval."""
    ends = [f"{100 * end:{sign}.2f}" for end in interval or ()]
    return f"{100 * share:{sign}.2f}", f"[{', '.join(ends)}]" if ends else ""


def compared(one: Standing) -> tuple[Pair, str, str]:
    """The difference from the best in points and its interval, p, and the mark."""
    if one.difference is None:
        return ("", ""), "", one.mark
    difference = percent(one.difference.mean, one.difference.interval, "+")
    p = "-" if one.p is None else "< 0.001" if one.p < 0.001 else f"{one.p:.3f}"
    return difference, p, one.mark


def _compared(one: Standing) -> tuple[str, str, str]:
    """The cells under `_COMPARED`."""
    difference, p, mark = compared(one)
    return _joined(difference), p, mark


def _joined(pair: Pair) -> str:
    return " ".join(filter(None, pair))


def words(results: Results) -> str:
    """The sentences that go with either table, in lines of 100 letters."""
    said = explained(results, compare(results))
    return "\n".join(textwrap.fill(each, 100, subsequent_indent="  ") for each in said)


def published(result: Result) -> float | None:
    """The paper's test accuracy in percent; None if the run is not like one of the paper's."""
    task = TASKS.get(result["task"])
    if task is None or result["shots"] or not _comparable(result):  # the figures are VTAB-1k's
        return None
    return task.published.get(result["method"])


def _comparable(result: Result) -> bool:
    """Tells whether the run had the paper's backbone and image size."""
    return (result["backbone"], result["image_size"]) == ("vit_b16_in21k", 224)


# --- The table of a benchmark --------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class _Cell:
    """Accuracy in percent for each seed, its interval, and the published figure."""

    scores: dict[int, float]
    figure: float | None
    images: int = 0  # that a seed is tested on; 0 for a mean of several tests

    def __str__(self) -> str:
        shares = [score / 100 for score in self.scores.values()]
        found = uncertainty.of_accuracies(shares, self.images)
        figure = "" if self.figure is None else f" ({self.figure:.1f})"
        return f"{_joined(percent(float(np.mean(shares)), found))}{figure}"


def benchmark(results: Results) -> str:
    """A row for each task, a column for each method: mean over seeds [95 % interval] (published).

    The best method is first. Further rows follow if all their tasks are there: the mean of each of
    VTAB-1k's groups, of all its tasks, and of its groups; the mean of the few-shot sets at each
    number of shots. The last row has the parameters without the head. A second table compares each
    method with the best.
    """
    methods = by_method(results.values())
    columns = [_column(own) for own in methods.values()]
    names = dict.fromkeys(name for column in columns for name in column)
    rows = [("", *methods)]
    rows += [(name, *(str(column.get(name, "-")) for column in columns)) for name in names]
    params = (np.mean([result["params"] for result in own]) for own in methods.values())
    rows.append(("parameters (M)", *(f"{number / 1e6:.3f}" for number in params)))
    title = f"{METRIC}, mean over seeds [95 % interval] (published)"
    standings = compare(results)
    if len(methods) == 1:
        return f"{title}\n{aligned(rows)}"
    pairs = [("method", "pairs", *_COMPARED)]
    for one in standings:
        difference = one.difference
        count = str(difference.pairs) if difference and not difference.by_image else ""
        pairs.append((one.method, count, *_compared(one)))
    return f"{title}\n{aligned(rows)}\n\n{aligned(pairs)}"


def _column(results: Sequence[Result]) -> dict[str, _Cell]:
    """The cells of one method, including means, by the names of their rows."""
    cells: dict[tuple[str, int], _Cell] = {}
    for result in results:
        tests = {result["task"]: (result["test_accuracy"], result["images"]["test"])}
        for name, test in result["more_tests"].items():
            tests[name] = test["accuracy"], test["images"]
            if "accuracy_among_all" in test:
                tests[f"{name} among all classes"] = test["accuracy_among_all"], test["images"]
        for name, (accuracy, images) in tests.items():
            figure = published(result) if name == result["task"] else None
            cell = cells.setdefault((name, result["shots"]), _Cell({}, figure, images))
            cell.scores[result["seed"]] = 100 * accuracy
    column: dict[str, _Cell | None] = {
        f"{name}, {shots}-shot" if shots else name: cell for (name, shots), cell in cells.items()
    }
    for shots in sorted({shots for _, shots in cells}):
        mean = _mean([cells.get((name, shots)) for name in FEW_SHOT])
        if mean and all(map(_comparable, results)) and results[0]["method"] == "noah":
            mean = dataclasses.replace(mean, figure=FEW_SHOT_MEANS.get(shots))
        column[f"mean of {len(FEW_SHOT)}, {shots}-shot"] = mean
    tasks = {
        group: [cells.get((name, 0)) for name, task in VTAB.items() if task.group == group]
        for group in GROUPS
    }
    groups = {group: _mean(members) for group, members in tasks.items()}
    column |= {f"mean, {group}": mean for group, mean in groups.items()}
    column[f"mean of {len(VTAB)} tasks"] = _mean([cell for row in tasks.values() for cell in row])
    column["mean of groups"] = _mean(list(groups.values()))
    return {name: cell for name, cell in column.items() if cell}


def _mean(cells: Sequence[_Cell | None]) -> _Cell | None:
    """The mean for each seed; None if a cell is missing or has other seeds."""
    found = [cell for cell in cells if cell]
    if len(found) < len(cells) or any(
        cell.scores.keys() != found[0].scores.keys() for cell in found
    ):
        return None
    figures = [cell.figure for cell in found if cell.figure is not None]
    scores = {
        seed: float(np.mean([cell.scores[seed] for cell in found])) for seed in found[0].scores
    }
    return _Cell(scores, float(np.mean(figures)) if len(figures) == len(found) else None)


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """Rows of cells in columns of equal width; a line parts the first row, the titles."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    rows = [rows[0], ["-" * width for width in widths], *rows[1:]]
    lines = ("  ".join(map(str.ljust, row, widths)) for row in rows)
    return "\n".join(line.rstrip() for line in lines)
