"""Tables of results for a terminal: one line a run, or the paper's table of a benchmark."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from noah_jax.data.tasks import FEW_SHOT, FEW_SHOT_MEANS, GROUPS, METRIC, TASKS, VTAB
from noah_jax.training.result import Result


def runs(results: Sequence[Result]) -> str:
    """One line a result: method, parameters, accuracy, and the published figure if there is one."""
    rows = [("task", "method", "seed", "params (M)", METRIC, "published (%)")]
    for result in results:
        figure = published(result)
        rows.append(
            (
                result["task"],
                result["method"],
                str(result["seed"]),
                f"{result['params'] / 1e6:.4f}",
                f"{100 * result['test_accuracy']:.2f}",
                "-" if figure is None else f"{figure:.1f}",
            )
        )
    return _aligned(rows)


def published(result: Result) -> float | None:
    """The paper's test accuracy in percent, for a run like the paper's."""
    task = TASKS.get(result["task"])
    if task is None or result["shots"] or not _comparable(result):  # the figures are VTAB-1k's
        return None
    return task.published.get(result["method"])


def _comparable(result: Result) -> bool:
    """Whether the run had the paper's backbone and image size."""
    return (result["backbone"], result["image_size"]) == ("vit_b16_in21k", 224)


# --- The table of a benchmark --------------------------------------------------------------------


class _Cell(NamedTuple):
    """Accuracy in percent for each seed, and the published figure."""

    scores: dict[int, float]
    figure: float | None

    def __str__(self) -> str:
        scores = list(self.scores.values())
        spread = f" ± {np.std(scores, ddof=1):.2f}" if len(scores) > 1 else ""
        figure = "" if self.figure is None else f" ({self.figure:.1f})"
        return f"{np.mean(scores):.2f}{spread}{figure}"


def benchmark(results: Sequence[Result]) -> str:
    """A row a task, a column a method: mean ± standard deviation over seeds, (published).

    Below them, where their tasks are complete: VTAB-1k's groups, the mean of its tasks and that of
    its groups; the mean of the few-shot sets at each number of shots; parameters without the head.
    """
    by_method: dict[str, list[Result]] = {}
    for result in results:
        by_method.setdefault(result["method"], []).append(result)
    columns = [_column(own) for own in by_method.values()]
    names = dict.fromkeys(name for column in columns for name in column)
    rows = [("", *by_method)]
    rows += [(name, *(str(column.get(name, "-")) for column in columns)) for name in names]
    params = (np.mean([result["params"] for result in own]) for own in by_method.values())
    rows.append(("parameters (M)", *(f"{number / 1e6:.3f}" for number in params)))
    return f"{METRIC}, mean ± deviation over seeds (published)\n{_aligned(rows)}"


def _column(results: Sequence[Result]) -> dict[str, _Cell]:
    """One method's cells, means included, by the names of their rows."""
    cells: dict[tuple[str, int], _Cell] = {}
    for result in results:
        tests = {result["task"]: result["test_accuracy"]}
        for name, test in result["more_tests"].items():
            tests[name] = test["accuracy"]
            if "accuracy_among_all" in test:
                tests[f"{name} among all classes"] = test["accuracy_among_all"]
        for name, accuracy in tests.items():
            figure = published(result) if name == result["task"] else None
            cell = cells.setdefault((name, result["shots"]), _Cell({}, figure))
            cell.scores[result["seed"]] = 100 * accuracy
    column: dict[str, _Cell | None] = {
        f"{name}, {shots}-shot" if shots else name: cell for (name, shots), cell in cells.items()
    }
    for shots in sorted({shots for _, shots in cells}):
        mean = _mean([cells.get((name, shots)) for name in FEW_SHOT])
        if mean and all(map(_comparable, results)) and results[0]["method"] == "noah":
            mean = mean._replace(figure=FEW_SHOT_MEANS.get(shots))
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


def _aligned(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    rows = [rows[0], ["-" * width for width in widths], *rows[1:]]
    lines = ("  ".join(map(str.ljust, row, widths)) for row in rows)
    return "\n".join(line.rstrip() for line in lines)
