"""Compares several runs in a page, `comparison.html`."""

import itertools
import os
import pathlib
import urllib.parse
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np

from noah_jax.data.tasks import METRIC
from noah_jax.report import figures, page
from noah_jax.report.figures import GREY, RED, Drawing, new_figure
from noah_jax.report.page import picture
from noah_jax.report.report import losses_by_epoch
from noah_jax.report.tables import benchmark, published
from noah_jax.runtime.durations import duration
from noah_jax.runtime.workdir import make_folder, read_json_here, read_lines
from noah_jax.space.genomes import ALL_MODULES
from noah_jax.space.modules import PROMPT_MODULES
from noah_jax.training.result import Result

_OTHERS = ("#7f5539", "#17a2a6", "#b5487d", "#7c8a1e", "#5d5fb0", "#c29a2b")
_MARKERS = "osD^vPX*"
_MOST_SETS, _MOST_ARCHITECTURES = 4, 24

Results = Mapping[pathlib.Path, Result]  # by workdir
Looks = Mapping[str, tuple[str, str]]  # method → colour and marker


def write(
    folder: pathlib.Path, workdirs: Sequence[pathlib.Path], failed: Sequence[str] = ()
) -> pathlib.Path:
    """Writes `comparison.html` and `figures/` into `folder`.

    Args:
      workdirs: the workdirs of finished runs.
      failed: the workdirs of runs that failed, which the page names.

    Raises:
      UserError: a result is damaged, or something cannot be written.
    """
    make_folder(folder, parents=True)
    results: Results = {path: read_json_here(path / "result.json") for path in workdirs}
    sets: dict[str, dict[pathlib.Path, Result]] = {}
    for workdir, result in results.items():
        sets.setdefault(_set_name(result), {})[workdir] = result
    looks = _looks(dict.fromkeys(result["method"] for result in results.values()))
    tasks = next(iter(sets)) if len(sets) == 1 else f"{len(sets)} tasks"
    several = len(sets) > 1 or any(result["more_tests"] for result in results.values())
    with matplotlib.rc_context(figures.STYLE):
        values = {
            "title": f"{len(looks)} method{'s' * (len(looks) > 1)} on {tasks}",
            "failed": failed,
            "all_tests": benchmark(list(results.values())) if several else "",
            "sets_found": len(sets),
            "sets": [
                _one_set(folder, number, name, sets[name], looks)
                for number, name in enumerate(itertools.islice(sets, _MOST_SETS))
            ],
            **_architectures(folder, list(results.values()), len(sets) > 1),
            "runs": [
                {
                    "link": _link(workdir / "report.html", folder),
                    "workdir": str(workdir),
                    "accuracy": result["test_accuracy"],
                }
                for workdir, result in results.items()
            ],
        }
    return page.write(folder / "comparison.html", "comparison.html", values)


def _set_name(result: Result) -> str:
    """The name of the images that a result comes from; results of one name are comparable."""
    shots = result["shots"]
    return f"{result['task']}, {shots}-shot" if shots else result["task"]


def _link(path: pathlib.Path, folder: pathlib.Path) -> str:
    return urllib.parse.quote(os.path.relpath(path, folder), errors="replace")


def _looks(methods: Iterable[str]) -> Looks:
    fixed = {name: module.colour for name, module in PROMPT_MODULES.items()}
    fixed |= {"noah": RED, "linear": GREY}
    free = iter(_OTHERS * len(_MARKERS))
    return {
        method: (fixed.get(method) or next(free), _MARKERS[number % len(_MARKERS)])
        for number, method in enumerate(methods)
    }


def _one_set(
    folder: pathlib.Path, number: int, name: str, results: Results, looks: Looks
) -> dict[str, Any]:
    """The table and the drawings of all runs on the same images."""
    suffix = f"_{number + 1}" if number else ""
    drawings = [_trade(f"accuracy{suffix}", list(results.values()), looks)]
    logs = {workdir: read_lines(workdir / "metrics.jsonl") for workdir in results}
    losses = {workdir: losses_by_epoch(log).get("retrain") for workdir, log in logs.items()}
    curves = [(results[workdir], curve) for workdir, curve in losses.items() if curve]
    if curves:
        drawings.append(_learning(f"learning{suffix}", curves, looks))
    header, *rows = _table(list(results.values()))
    shown = [picture(drawing, folder) for drawing in drawings]
    return {"name": name, "header": header, "rows": rows, "drawings": shown}


def _table(results: Sequence[Result]) -> list[tuple[str, ...]]:
    """A row of titles, and a row for each method; columns that would say nothing are left out."""
    by_method: dict[str, list[Result]] = {}
    for result in results:
        by_method.setdefault(result["method"], []).append(result)
    rows = []
    for method, own in by_method.items():
        scores = [100 * result["test_accuracy"] for result in own]
        spread = f" ± {np.std(scores, ddof=1):.2f}" if len(own) > 1 else ""
        params = np.mean([result["params"] for result in own]) / 1e6
        seconds = float(np.mean([sum(result["stages"].values()) for result in own]))
        paper = published(own[0])
        rows.append(
            (
                method,
                f"{np.mean(scores):.2f}{spread}",
                f"{params:.4f}",
                duration(seconds),
                str(len(own)),
                "" if paper is None else f"{paper:.1f}",
            )
        )
    header = ("method", METRIC, "parameters (M)", "time", "seeds", "published")
    told = [True] * 4 + [len(results) > len(rows), any(row[-1] for row in rows)]
    return [tuple(itertools.compress(row, told)) for row in [header, *rows]]


def _trade(name: str, results: Sequence[Result], looks: Looks) -> Drawing:
    """Draws test accuracy against parameters."""
    figure, (axis,) = new_figure(3.4)
    for method, (colour, marker) in looks.items():
        own = [result for result in results if result["method"] == method]
        if own:
            x = [result["params"] / 1e6 for result in own]
            y = [100 * result["test_accuracy"] for result in own]
            axis.scatter(x, y, s=55, color=colour, marker=marker, label=method, zorder=3)
    sizes = sorted(result["params"] / 1e6 for result in results if result["params"])
    if sizes and sizes[-1] > 20 * sizes[0]:  # full fine-tuning is far off
        axis.set_xscale("symlog", linthresh=10 ** np.floor(np.log10(sizes[0])))
        axis.xaxis.set_major_formatter("{x:g}")  # the scale's own writes formulas
    axis.margins(0.08)
    axis.set(xlabel="parameters (M), head excluded", ylabel=METRIC)
    axis.grid(alpha=0.25)
    figure.legend(loc="outside upper left", ncols=4)
    rows = [(r["method"], r["seed"], r["params"], r["test_accuracy"]) for r in results]
    alt = "Test accuracy against parameters: " + "; ".join(
        f"{r['method']} {100 * r['test_accuracy']:.2f} % with {r['params'] / 1e6:.4f} M"
        for r in results
    )
    header = ("method", "seed", "params", "test_accuracy")
    return Drawing(name, figure, alt, [header, *rows])


def _learning(
    name: str, curves: Sequence[tuple[Result, dict[int, float]]], looks: Looks
) -> Drawing:
    """Draws the training loss of the tested networks by epoch."""
    figure, (axis,) = new_figure(3.4)
    rows: figures.Rows = [("method", "seed", "epoch", "loss")]
    labelled: dict[str, None] = {}
    for result, losses in curves:
        method = result["method"]
        colour, marker = looks[method]
        label = None if method in labelled else method
        figures.draw_losses(axis, losses, marker, color=colour, label=label)
        labelled[method] = None
        rows += [(method, result["seed"], *point) for point in losses.items()]
    axis.set_ylabel("training loss")
    figure.legend(loc="outside upper left", ncols=4)
    alt = f"Training loss by epoch of {', '.join(labelled)}."
    return Drawing(name, figure, alt, rows)


def _architectures(
    folder: pathlib.Path, results: Sequence[Result], several_sets: bool
) -> dict[str, Any]:
    """Draws the subnets, and counts those that are too many to show.

    Subnets of a single module, which is alike in all blocks, have nothing to show.
    """
    mixed = [
        result
        for result in results
        if np.any(result["genome"]) and result["method"] not in ALL_MODULES
    ]
    shown = []
    for number, result in enumerate(mixed[:_MOST_ARCHITECTURES], 1):
        title = f"{result['method']}, seed {result['seed']}"
        if several_sets:
            title += f", {_set_name(result)}"
        title += f": {result['params'] / 1e6:.4f} M, {100 * result['test_accuracy']:.2f} %"
        drawing = picture(figures.architecture(result, f"architecture_{number:02d}"), folder)
        shown.append({"title": title, "drawing": drawing})
    return {"architectures": shown, "more_architectures": len(mixed) - len(shown)}
