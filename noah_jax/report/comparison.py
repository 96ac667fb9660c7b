"""Several runs side by side: `comparison.html`."""

import html
import itertools
import os
import pathlib
import urllib.parse
from collections.abc import Iterable, Mapping, Sequence

import matplotlib
import numpy as np

from noah_jax.data.tasks import METRIC
from noah_jax.report import figures, page
from noah_jax.report.figures import COLOURS, GREY, RED, Drawing, new_figure
from noah_jax.report.page import grid, note, picture, text
from noah_jax.report.report import losses_by_epoch
from noah_jax.report.tables import benchmark, published
from noah_jax.runtime.workdir import make_folder, read_json_here, read_lines
from noah_jax.runtime.writer import duration
from noah_jax.space.genomes import ALL_MODULES
from noah_jax.training.result import Result

_OTHERS = ("#7f5539", "#17a2a6", "#b5487d", "#7c8a1e", "#5d5fb0", "#c29a2b")
_MARKERS = "osD^vPX*"
_MOST_SETS, _MOST_ARCHITECTURES = 4, 24

_Set = tuple[str, int]  # task and shots


def write(
    folder: pathlib.Path, workdirs: Sequence[pathlib.Path], failed: Sequence[str] = ()
) -> pathlib.Path:
    """Writes `comparison.html` and `figures/` into `folder`.

    Args:
      workdirs: of finished runs.
      failed: the workdirs of others, which are named.

    Raises:
      UserError: a result is damaged, or something cannot be written.
    """
    make_folder(folder, parents=True)
    runs = {workdir: read_json_here(workdir / "result.json") for workdir in workdirs}
    results = list(runs.values())
    looks = _looks(dict.fromkeys(result["method"] for result in results))
    sets: dict[_Set, dict[pathlib.Path, Result]] = {}
    for workdir, result in runs.items():
        sets.setdefault((result["task"], result["shots"]), {})[workdir] = result
    title = f"{len(looks)} method{'s' * (len(looks) > 1)} on {_named(sets)}"
    with matplotlib.rc_context(figures.STYLE):
        parts = [f"<h1>{html.escape(title)}</h1>", *(note(f"Failed: {name}") for name in failed)]
        if len(sets) > 1 or any(result["more_tests"] for result in results):
            parts += ["<h2>All tests</h2>", f"<pre>{html.escape(benchmark(results))}</pre>"]
        for number, (name, found) in enumerate(sets.items()):
            if number == _MOST_SETS:
                rest = f"{len(sets) - number} more are in the table only; each run has a report."
                parts.append(text(rest))
                break
            if len(sets) > 1:
                parts.append(f"<h2>{html.escape(_label(name))}</h2>")
            parts.append(_one_set(folder, number, found, looks))
        parts.append(_architectures(folder, runs))
        parts.append(_where(folder, runs))
    return page.write(folder / "comparison.html", title, parts)


def _named(sets: Iterable[_Set]) -> str:
    names = list(map(_label, sets))
    return names[0] if len(names) == 1 else f"{len(names)} tasks"


def _label(name: _Set) -> str:
    task, shots = name
    return f"{task}, {shots}-shot" if shots else task


def _looks(methods: Iterable[str]) -> dict[str, tuple[str, str]]:
    """Colour and marker of each method."""
    fixed = COLOURS | {"noah": RED, "linear": GREY}
    free = iter(_OTHERS * len(_MARKERS))
    return {
        method: (fixed.get(method) or next(free), _MARKERS[number % len(_MARKERS)])
        for number, method in enumerate(methods)
    }


def _one_set(folder, number: int, runs: Mapping[pathlib.Path, Result], looks) -> str:
    results = list(runs.values())
    by_method: dict[str, list[Result]] = {}
    for result in results:
        by_method.setdefault(result["method"], []).append(result)
    rows = []
    for method, own in by_method.items():
        scores = [100 * result["test_accuracy"] for result in own]
        spread = f" ± {np.std(scores, ddof=1):.2f}" if len(own) > 1 else ""
        figure = published(own[0])
        rows.append(
            (
                method,
                f"{np.mean(scores):.2f}{spread}",
                f"{np.mean([result['params'] for result in own]) / 1e6:.4f}",
                duration(float(np.mean([sum(result["stages"].values()) for result in own]))),
                str(len(own)),
                "" if figure is None else f"{figure:.1f}",
            )
        )
    header = ("method", METRIC, "parameters (M)", "time", "seeds", "published")
    told = [True] * 4 + [len(runs) > len(rows), any(row[-1] for row in rows)]
    header, *rows = (tuple(itertools.compress(row, told)) for row in [header, *rows])
    target, suffix = folder / page.FOLDER, f"_{number + 1}" if number else ""
    drawn = [_trade(f"accuracy{suffix}", results, looks)]
    curves = {
        workdir: losses_by_epoch(read_lines(workdir / "metrics.jsonl")).get("retrain", {})
        for workdir in runs
    }
    if any(curves.values()):
        named = [(runs[workdir], curve) for workdir, curve in curves.items() if curve]
        drawn.append(_learning(f"learning{suffix}", named, looks))
    return page.table(header, rows) + "<p></p>" + grid(*(picture(one, target) for one in drawn))


def _trade(name: str, results: Sequence[Result], looks) -> Drawing:
    """Test accuracy against parameters."""
    figure, (axis,) = new_figure(3.4)
    for method, (colour, marker) in looks.items():
        own = [result for result in results if result["method"] == method]
        if own:
            x = [result["params"] / 1e6 for result in own]
            y = [100 * result["test_accuracy"] for result in own]
            axis.scatter(x, y, s=55, color=colour, marker=marker, label=method, zorder=3)
    sizes = sorted(result["params"] / 1e6 for result in results if result["params"])
    if sizes and sizes[-1] > 20 * sizes[0]:  # full fine-tuning is far off
        axis.set_xscale("symlog", linthresh=sizes[0])
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


def _learning(name: str, curves: Sequence[tuple[Result, dict[int, float]]], looks) -> Drawing:
    """The training loss of what was tested, by epoch."""
    figure, (axis,) = new_figure(3.4)
    rows: figures.Rows = [("method", "seed", "epoch", "loss")]
    labelled: set[str] = set()
    for result, losses in curves:
        method = result["method"]
        colour, marker = looks[method]
        label = None if method in labelled else method
        figures.draw_losses(axis, losses, marker, color=colour, label=label)
        labelled.add(method)
        rows += [(method, result["seed"], *point) for point in losses.items()]
    axis.set_ylabel("training loss")
    figure.legend(loc="outside upper left", ncols=4)
    alt = f"Training loss by epoch of {', '.join(labelled)}."
    return Drawing(name, figure, alt, rows)


def _architectures(folder, runs: Mapping[pathlib.Path, Result]) -> str:
    several = len({(result["task"], result["shots"]) for result in runs.values()}) > 1
    drawn = []
    with_modules = [  # of a single module, which is alike in all blocks, there is nothing to see
        result
        for result in runs.values()
        if np.any(result["genome"]) and result["method"] not in ALL_MODULES
    ]
    for number, result in enumerate(with_modules[:_MOST_ARCHITECTURES], 1):
        caption = f"{result['method']}, seed {result['seed']}"
        if several:
            caption += f", {_label((result['task'], result['shots']))}"
        caption += f": {result['params'] / 1e6:.4f} M, {100 * result['test_accuracy']:.2f} %"
        one = figures.architecture(result, f"architecture_{number:02d}")
        drawn.append(f"<h3>{html.escape(caption)}</h3>" + picture(one, folder / page.FOLDER))
    more = len(with_modules) - len(drawn)
    rest = text(f"{more} more are in the reports of their runs.") if more else ""
    return "<h2>Architectures</h2>" + grid(*drawn) + rest if drawn else ""


def _where(folder: pathlib.Path, runs: Mapping[pathlib.Path, Result]) -> str:
    lines = []
    for workdir, result in runs.items():
        link = urllib.parse.quote(
            os.path.relpath(workdir / "report.html", folder), errors="replace"
        )
        score = f": {100 * result['test_accuracy']:.2f} %"
        lines.append(f'<li><a href="{link}">{html.escape(str(workdir))}</a>{score}</li>')
    return f"<h2>The reports of the runs</h2><ul>{''.join(lines)}</ul>{page.kept()}"
