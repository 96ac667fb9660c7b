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
from noah_jax.report.comparison_figures import Looks, learning, trade
from noah_jax.report.figures import GREY, RED
from noah_jax.report.page import picture
from noah_jax.report.report import Log, losses_by_epoch
from noah_jax.report.standings import (
    Results,
    Standing,
    by_method,
    by_set,
    compare,
    explained,
    in_order,
    interval,
    set_name,
)
from noah_jax.report.tables import Pair, benchmark, compared, percent, published
from noah_jax.report.usage import commands
from noah_jax.runtime.durations import duration
from noah_jax.runtime.workdir import make_folder, read_json_here, read_lines
from noah_jax.space.genomes import ALL_MODULES
from noah_jax.space.modules import PROMPT_MODULES
from noah_jax.training.result import Result

_OTHERS = ("#7f5539", "#17a2a6", "#b5487d", "#7c8a1e", "#5d5fb0", "#c29a2b")
_MARKERS = "osD^vPX*"
_MOST_SETS, _MOST_ARCHITECTURES = 4, 24

Logs = Mapping[pathlib.Path, Log]  # by workdir
Cell = str | Pair


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
    results = in_order({path: read_json_here(path / "result.json") for path in workdirs})
    sets, standings = by_set(results), compare(results)
    looks = _looks(one.method for one in standings)
    tasks = next(iter(sets)) if len(sets) == 1 else f"{len(sets)} tasks"
    several = len(sets) > 1 or any(result["more_tests"] for result in results.values())
    logs = {workdir: read_lines(workdir / "metrics.jsonl") for workdir in results}
    with matplotlib.rc_context(figures.STYLE):
        values = {
            "title": f"{len(looks)} method{'s' * (len(looks) > 1)} on {tasks}",
            "failed": failed,
            "all_tests": benchmark(results) if several else "",
            "all_said": explained(results, standings) if len(sets) > 1 else [],
            "sets_found": len(sets),
            "sets": [
                _one_set(folder, number, some, looks, logs)
                for number, some in enumerate(itertools.islice(sets.values(), _MOST_SETS))
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
            "commands": list(dict.fromkeys(commands(itertools.chain(*logs.values())))),
        }
    return page.write(folder / "comparison.html", "comparison.html", values)


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
    folder: pathlib.Path, number: int, results: Results, looks: Looks, logs: Logs
) -> dict[str, Any]:
    """The table and the drawings of all runs on the same images."""
    suffix = f"_{number + 1}" if number else ""
    drawings = [trade(f"accuracy{suffix}", list(results.values()), looks)]
    losses = {workdir: losses_by_epoch(logs[workdir]).get("retrain") for workdir in results}
    curves = [(results[workdir], curve) for workdir, curve in losses.items() if curve]
    if curves:
        drawings.append(learning(f"learning{suffix}", curves, looks))
    standings = compare(results)
    header, *rows = _table(results, standings)
    return {
        "name": set_name(next(iter(results.values()))),
        "header": header,
        "rows": rows,
        "said": explained(results, standings),
        "drawings": [picture(drawing, folder) for drawing in drawings],
    }


def _table(results: Results, standings: Sequence[Standing]) -> list[tuple[Cell, ...]]:
    """A row of titles, and a row for each method; columns that would say nothing are left out."""
    methods = by_method(results.values())
    rows: list[tuple[Cell, ...]] = []
    for one in standings:
        own = methods[one.method]
        scores = [result["test_accuracy"] for result in own]
        params = np.mean([result["params"] for result in own]) / 1e6
        seconds = float(np.mean([sum(result["stages"].values()) for result in own]))
        paper = published(own[0])
        difference, p, mark = compared(one)
        rows.append(
            (
                one.method,
                percent(float(np.mean(scores)), interval(own)),
                "" if paper is None else f"{paper:.1f}",
                mark.replace(" ", "\N{NO-BREAK SPACE}"),
                difference,
                p,
                f"{params:.4f}",
                duration(seconds),
                f"{100 * np.std(scores, ddof=1):.2f}" if len(own) > 1 else "",
                str(len(own)),
            )
        )
    titles = METRIC, "published", "", "less the best", "p", "parameters (M)", "time"
    header = ("method", *titles, "deviation", "seeds")
    several, seeds = len(rows) > 1, len(results) > len(rows)
    known = any(row[2] for row in rows)
    told = [True, True, known, several, several, several, True, True, seeds, seeds]
    return [tuple(itertools.compress(row, told)) for row in (header, *rows)]


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
            title += f", {set_name(result)}"
        title += f": {result['params'] / 1e6:.4f} M, {100 * result['test_accuracy']:.2f} %"
        drawing = picture(figures.architecture(result, f"architecture_{number:02d}"), folder)
        shown.append({"title": title, "drawing": drawing})
    return {"architectures": shown, "more_architectures": len(mixed) - len(shown)}
