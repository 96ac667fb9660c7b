"""The tables of a study: accuracy, paired tests of NOAH against each method, ranks, cost.

`tuned` is a single module that is chosen by hand: among `tuned_vpt`, `tuned_lora` and
`tuned_adapter` of a task and seed, the one that validates best (accuracy, then loss, then
parameters, as the search ranks). Its cost is that of choosing among all three, and of retraining
one.

The tests pair the runs of one task and seed, and treat all pairs alike. The standard error contains
differences between tasks as well as the noise of the seeds. It says little about other tasks, since
these are few. The table of firsts has one task at a time. The p values are two-sided, and not
corrected for the number of methods.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from noah_jax.report.tables import aligned
from noah_jax.uncertainty import by_runs

TUNED = ("tuned_vpt", "tuned_lora", "tuned_adapter")
_ORDER = ("noah", "random", "uniform", "sensitivity", "tuned", *TUNED, "lora", "adapter", "vpt")
_FINAL_STAGES = ("retrain", "test")
_MOST_FLIPPED = 16  # pairs, of which all sign flips are computed; of more, random ones
_RANDOM_FLIPS = 99_999

Entry = dict[str, Any]
Scores = dict[str, dict[tuple[str, int], float]]  # method -> (task, seed) -> accuracy in percent
Rows = list[list[str]]


def tables(study: dict[str, Any], markdown: bool = False) -> str:
    """Writes all tables of a study's runs under its last settings, as plain text or Markdown."""
    runs = current(study)
    runs += list(tuned(runs))
    runs.sort(key=lambda run: _ORDER.index(run["method"]) if run["method"] in _ORDER else 99)
    found = scores(runs)
    parts = [
        ("test accuracy (%), mean ± standard deviation over seeds", accuracy_rows(found, runs)),
        ("NOAH less each method, in points, over pairs of task and seed", paired_rows(found)),
        ("the first of each task, and NOAH's distance ± its standard error", first_rows(found)),
        ("NOAH less random search: does validation say what the test does?", agreement_rows(runs)),
        ("cost, mean seconds of a run", cost_rows(runs)),
    ]
    texts = [f"{title}\n{_render(rows, markdown)}" for title, rows in parts if len(rows) > 1]
    return "\n\n".join(texts + _notes(study, runs))


def current(study: dict[str, Any]) -> list[Entry]:
    """The runs with the study's last settings."""
    return [run for run in study["runs"] if run["digest"] == study["digests"].get(run["method"])]


def tuned(runs: Sequence[Entry]) -> Iterable[Entry]:
    """The single module that one would choose, for each task and seed that has all three."""
    groups: dict[tuple[str, int], list[Entry]] = {}
    for run in runs:
        if run["method"] in TUNED and run["val_accuracy"] is not None:
            groups.setdefault((run["task"], run["seed"]), []).append(run)
    for three in groups.values():
        if {run["method"] for run in three} != {*TUNED}:
            continue
        best, stages = min(three, key=_rank), {}
        for run in three:
            for stage, seconds in run["stages"].items():
                if run is best or stage not in _FINAL_STAGES:
                    stages[stage] = stages.get(stage, 0.0) + seconds
        yield best | {"method": "tuned", "chosen": best["method"], "stages": stages}


def _rank(run: Entry):
    """A sort key like `candidates.Candidate.rank`; a loss of None is not finite and comes last."""
    loss = run["val_loss"]
    return loss is None, -run["val_accuracy"], loss or 0.0, run["params"]


def scores(runs: Iterable[Entry]) -> Scores:
    found: Scores = {}
    for run in runs:
        own = found.setdefault(run["method"], {})
        own[run["task"], run["seed"]] = 100 * run["test_accuracy"]
    return found


# --- Tables --------------------------------------------------------------------------------------


def accuracy_rows(found: Scores, runs: Sequence[Entry]) -> Rows:
    """A row for each method: each task, the mean of tasks, mean parameters in millions.

    A cell with fewer seeds than another says how many. The mean of tasks is computed seed by seed.
    It is left out if the tasks have different seeds.
    """
    tasks = list(dict.fromkeys(task for own in found.values() for task, _ in own))
    columns = {method: _by_task(own) for method, own in found.items()}
    most = max((len(seeds) for own in columns.values() for seeds in own.values()), default=0)
    rows = [["method", *tasks, "mean of tasks", "parameters (M)"]]
    for method, own in columns.items():
        cells = [_cell(list(own.get(task, {}).values()), most) for task in tasks]
        seeds = {frozenset(own.get(task, {})) for task in tasks}
        means = []
        if len(seeds) == 1:
            means = [np.mean([own[task][seed] for task in tasks]) for seed in sorted(*seeds)]
        params = np.mean([run["params"] for run in runs if run["method"] == method])
        rows.append([method, *cells, _cell(means, most), f"{params / 1e6:.4f}"])
    return rows


def _by_task(own: dict[tuple[str, int], float]) -> dict[str, dict[int, float]]:
    by_task: dict[str, dict[int, float]] = {}
    for (task, seed), score in own.items():
        by_task.setdefault(task, {})[seed] = score
    return by_task


def _cell(values: Sequence[float], most: int) -> str:
    if not values:
        return "-"
    spread = f" ± {np.std(values, ddof=1):.2f}" if len(values) > 1 else ""
    fewer = f" ({len(values)} of {most})" if len(values) < most else ""
    return f"{np.mean(values):.2f}{spread}{fewer}"


def paired_rows(found: Scores) -> Rows:
    """NOAH against each other method: pairs, mean difference, its standard error, p values."""
    rows = [["NOAH less", "pairs", "difference", "standard error", "t test p", "sign flips p"]]
    for method, own in found.items():
        if method == "noah" or not (pairs := sorted(own.keys() & found.get("noah", {}).keys())):
            continue
        differences = np.array([found["noah"][pair] - own[pair] for pair in pairs])
        error = standard_error(differences)
        p_values = (_p(t_test(differences)), _p(sign_flip_test(differences)))
        cells = f"{differences.mean():+.2f}", "-" if error is None else f"{error:.2f}", *p_values
        rows.append([method, str(len(pairs)), *cells])
    return rows


def standard_error(differences: np.ndarray) -> float | None:
    """The standard error of the mean; None for a single value."""
    count = len(differences)
    return float(np.std(differences, ddof=1) / np.sqrt(count)) if count > 1 else None


def t_test(differences: np.ndarray) -> float | None:
    """The p value of the paired t test; None if it is not defined."""
    return by_runs(differences, np.zeros_like(differences)).p


def sign_flip_test(differences: np.ndarray) -> float:
    """The share of all sign flips of the differences with a mean at least as far from 0."""
    count = len(differences)
    if exact := count <= _MOST_FLIPPED:
        signs = 1 - 2 * (np.arange(2**count)[:, None] >> np.arange(count) & 1)
    else:
        signs = np.random.default_rng(0).choice([-1, 1], (_RANDOM_FLIPS, count))
    as_far = np.abs(signs @ differences) > abs(differences.sum()) - 1e-9
    return float(as_far.mean() if exact else (as_far.sum() + 1) / (_RANDOM_FLIPS + 1))


def _p(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def first_rows(found: Scores) -> Rows:
    """Each task's best method among those with all of NOAH's seeds, and NOAH's distance from it.

    The distance is the mean over seeds of the paired differences.
    """
    header = ["task", "first", "its accuracy", "NOAH", "behind", "first or within one"]
    rows, columns = [header], {method: _by_task(own) for method, own in found.items()}
    for task, noah in columns.get("noah", {}).items():
        rivals = {
            method: np.array([own[task][seed] for seed in noah])
            for method, own in columns.items()
            if noah.keys() <= own.get(task, {}).keys()
        }
        ours = rivals["noah"]
        first = max(rivals, key=lambda name: (round(rivals[name].mean(), 9), name == "noah"))
        behind = rivals[first] - ours
        error = standard_error(behind)
        if first == "noah":
            answer = "first"
        elif error is None:
            answer = "unknown, one seed"
        else:
            answer = "within" if behind.mean() <= error else "no"
        distance = f"{behind.mean():.2f}" + ("" if error is None else f" ± {error:.2f}")
        means = f"{rivals[first].mean():.2f}", f"{ours.mean():.2f}"
        rows.append([task, first, *means, distance, answer])
    return rows


def agreement_rows(runs: Sequence[Entry]) -> Rows:
    """A row a task: over the seeds where NOAH and random search found different genomes, how their
    difference in test accuracy goes with those in validation accuracy and loss.
    """
    rows = [["task", "seeds", "correlation, validation accuracy", "validation loss"]]
    by_run = {(run["method"], run["task"], run["seed"]): run for run in runs}
    for task in dict.fromkeys(run["task"] for run in runs):
        pairs = [
            (run, by_run["random", task, seed])
            for (method, own, seed), run in by_run.items()
            if (method, own) == ("noah", task) and ("random", task, seed) in by_run
        ]
        pairs = [pair for pair in pairs if pair[0]["genome"] != pair[1]["genome"]]
        if len(pairs) < 3 or any(run["val_loss"] is None for pair in pairs for run in pair):
            continue
        test, accuracy, loss = (
            np.array([pair[0][key] - pair[1][key] for pair in pairs])
            for key in ("test_accuracy", "val_accuracy", "val_loss")
        )
        cells = [
            f"{np.corrcoef(values, test)[0, 1]:.2f}" if np.ptp(values) and np.ptp(test) else "-"
            for values in (accuracy, -loss)
        ]
        rows.append([task, str(len(pairs)), *cells])
    return rows


def cost_rows(runs: Sequence[Entry]) -> Rows:
    """A row for each method: the mean seconds of each stage, and of all."""
    stages = list(dict.fromkeys(stage for run in runs for stage in run["stages"]))
    stages.sort(key=lambda stage: stage in _FINAL_STAGES)
    rows = [["method", "runs", *stages, "all"]]
    for method in dict.fromkeys(run["method"] for run in runs):
        own = [run["stages"] for run in runs if run["method"] == method]
        means = [np.mean([seconds.get(stage, 0.0) for seconds in own]) for stage in stages]
        cells = [f"{mean:.1f}" if mean else "-" for mean in means]
        rows.append([method, str(len(own)), *cells, f"{sum(means):.1f}"])
    return rows


def _notes(study: dict[str, Any], runs: Sequence[Entry]) -> list[str]:
    """A paragraph with the caveats of the tables; empty if there are none."""
    lines = []
    if others := len(study["runs"]) - len(current(study)):
        lines.append(f"Left out: {others} runs with other settings.")
    if any(run["shared_supernet"] for run in runs):
        lines.append("random took NOAH's supernets; their time is not counted again.")
    for task in dict.fromkeys(run["task"] for run in runs):
        own = [run for run in runs if run["task"] == task]
        for what in ("images", "weights", "dtype"):
            if len({(run | run["inputs"]).get(what) for run in own}) > 1:
                lines.append(f"Warning: not all runs of {task} had the same {what}.")
    return ["\n".join(lines)] if lines else []


def _render(rows: Rows, markdown: bool) -> str:
    if markdown:
        rows = [rows[0], ["---"] * len(rows[0]), *rows[1:]]
        return "\n" + "\n".join(f"| {' | '.join(row)} |" for row in rows)
    return aligned(rows)
