"""Results for people: report.html in the workdir."""

import base64
import html
import io
import json
import pathlib

import matplotlib
import matplotlib.figure
import numpy as np

from noah_jax.errors import UserError
from noah_jax.genomes import ALL_MODULES, COLUMNS, MODULES, complete
from noah_jax.settings import SEARCHED
from noah_jax.tables import published
from noah_jax.workdir import read_json_here, read_lines, write_text

_COLOURS = {"vpt": "#3b6fb6", "lora": "#d1792c", "adapter": "#4a9a5c", "parallel": "#8c5aa8"}
_TITLES = {
    "vpt": "Visual prompts",
    "lora": "LoRA",
    "adapter": "Adapter",
    "parallel": "Parallel adapter",
}

_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem;
  color: #222; }}
h1 {{ font-size: 1.5rem; }} h2 {{ font-size: 1.15rem; margin-top: 2.2rem; }}
img {{ width: 100%; height: auto; }}
table {{ border-collapse: collapse; }}
td {{ padding: .15rem 1.2rem .15rem 0; vertical-align: top; overflow-wrap: anywhere; }}
td:first-child {{ color: #666; white-space: nowrap; }}
.big {{ font-size: 2.2rem; font-weight: 600; }}
</style></head><body>
{body}
</body></html>
"""


def write(workdir: pathlib.Path) -> pathlib.Path:
    """Writes `report.html`, one file without outside links, from what the run left in `workdir`.

    Raises:
      UserError: a file is damaged, or the page cannot be written.
    """
    result = read_json_here(workdir / "result.json")
    config = read_json_here(workdir / "config.json")
    log = read_lines(workdir / "metrics.jsonl")
    generations, left_out = [], []
    for path in sorted((workdir / "search").glob("gen_*.json")):
        try:
            generations.append(read_json_here(path)["candidates"])
        except UserError as error:
            left_out.append(f"<p>Left out: {html.escape(str(error))}</p>")
    title = f"{result['method']} on {result['task']}, seed {result['seed']}"
    body = [f"<h1>{html.escape(title)}</h1>", _summary(result)]
    if np.any(result["genome"]):
        body += ["<h2>Size of each module in each block</h2>", _image(_architecture(result), title)]
    if generations:
        figure = _search(generations, result, config["search"]["budget_millions"])
        body += ["<h2>Search</h2>", _image(figure, "accuracy against parameters"), *left_out]
    if stages := _losses_by_epoch(log):
        body += ["<h2>Training loss</h2>", _image(_losses(stages), "training loss by epoch")]
    body += ["<h2>Settings</h2>", _rows({key: json.dumps(config[key]) for key in config})]
    path = workdir / "report.html"
    write_text(path, _PAGE.format(title=html.escape(title), body="\n".join(body)))
    return path


def _summary(result) -> str:
    correct = round(result["test_accuracy"] * (tests := result["images"]["test"]))
    facts = {
        "Test": f"{correct} of {tests} images right (last epoch)",
        "Parameters": f"{result['params']:,} in prompt modules, {result['head_params']:,} in the "
        f"head; {result['params_noah_count']:,} as the original counts",
        "Backbone": f"{result['backbone']}, {result['image_size']} px, "
        f"{result['normalisation']} normalisation, {result['dtype']}, {result['encoding']} images",
        "Time": ", ".join(f"{name} {seconds:.0f} s" for name, seconds in result["stages"].items()),
        "Device": f"{len(result['devices'])} × {result['devices'][0]}",
    }
    if result["val_accuracy"] is not None:
        how = "with the supernet's weights"
        if result["method"] not in SEARCHED:
            how = "trained on the training images alone"
        facts["Validation"] = f"{100 * result['val_accuracy']:.1f} % {how}"
    if result["warnings"]:
        facts["Warnings"] = "; ".join(result["warnings"])
    if figure := published(result):
        facts["Published"] = f"{figure:.1f} % (NOAH, table 1)"
    for name, test in result["more_tests"].items():
        among = f" among its {test['classes']} classes" if "classes" in test else ""
        facts[name] = f"{100 * test['accuracy']:.2f} % of {test['images']} images right{among}"
        if "accuracy_among_all" in test:
            facts[name] += f", {100 * test['accuracy_among_all']:.2f} % among all"
    return f'<p class="big">{100 * result["test_accuracy"]:.2f} %</p>' + _rows(facts)


def _rows(facts: dict[str, str]) -> str:
    cells = (
        f"<tr><td>{html.escape(key)}</td><td>{html.escape(value)}</td></tr>"
        for key, value in facts.items()
    )
    return f"<table>{''.join(cells)}</table>"


def _figure(columns: int, height: float, rows: int = 1):
    """Made without pyplot, which would keep it, and need a display on some systems."""
    figure = matplotlib.figure.Figure(figsize=(9, height), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False, sharey=columns > 1).ravel()
    for axis in axes:
        axis.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _image(figure: matplotlib.figure.Figure, alt: str) -> str:
    data = io.BytesIO()
    figure.savefig(data, format="png", dpi=150)
    encoded = base64.b64encode(data.getvalue()).decode()
    return f'<img alt="{html.escape(alt)}" src="data:image/png;base64,{encoded}">'


def _architecture(result) -> matplotlib.figure.Figure:
    genome = complete(result["genome"])
    columns = dict(zip(COLUMNS, genome.T, strict=True))
    names = ALL_MODULES if columns["parallel"].any() else MODULES
    highest = max(columns[name].max() for name in names)
    figure, axes = _figure(3, 2.8) if names == MODULES else _figure(2, 5.2, rows=2)
    blocks = np.arange(1, len(genome) + 1)
    for axis, name in zip(axes, names, strict=True):
        powers = (columns[name] > 0) * columns.get(f"{name}_scale", 0)
        bars = axis.bar(blocks, columns[name], color=_COLOURS[name])
        labels = list(map(_label, columns[name], powers))
        if powers.any():  # long labels: they stand, and need room above the bars
            axis.bar_label(bars, labels, fontsize=min(8, 160 / len(blocks)), rotation=90, padding=3)
            axis.set_ylim(0, 1.55 * highest)
        else:
            axis.bar_label(bars, labels, fontsize=8)
        axis.set(title=_TITLES[name], xlabel="block", xlim=(0.3, len(genome) + 0.7))
        axis.set_xticks(blocks[:: max(1, len(blocks) // 6)])
        if axis.get_subplotspec().is_first_col():
            axis.set_ylabel("size")
    return figure


def _label(size: int, power: int) -> str:
    """What stands on a bar: the size and, unless it is 1, the factor of the output."""
    factor = f" ×{10.0**power:g}" if power else ""
    return f"{size}{factor}" if size else ""


def _search(generations, result, budget: float) -> matplotlib.figure.Figure:
    figure, (axis,) = _figure(1, 3.8)
    colours = matplotlib.colormaps["viridis"](np.linspace(0, 0.92, len(generations)))
    for number, (candidates, colour) in enumerate(zip(generations, colours, strict=True)):
        x = [candidate["params"] / 1e6 for candidate in candidates]
        y = [100 * candidate["val_accuracy"] for candidate in candidates]
        few = len(generations) <= 8 or number in (0, len(generations) - 1)
        label = f"generation {number}" if few else None
        axis.scatter(x, y, s=22, color=colour, alpha=0.8, linewidths=0, label=label)
    place = result["params"] / 1e6, 100 * result["val_accuracy"]
    axis.scatter(*place, s=130, facecolors="none", edgecolors="#c0392b", label="chosen")
    low, high = axis.get_xlim()
    if budget <= high + (high - low):  # else the budget is too far off to be worth a line
        axis.axvline(budget, color="#888", linestyle="--", linewidth=1, label="budget")
    axis.set(xlabel="parameters (M), head excluded", ylabel="validation accuracy (%)")
    axis.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def _losses_by_epoch(log) -> list[tuple[str, dict[int, float]]]:
    rows = [
        (row.get("stage"), row.get("epoch"), row.get("loss"))
        for row in log
        if isinstance(row.get("epoch"), int) and isinstance(row.get("loss"), float)
    ]
    stages = (
        (name, {epoch: loss for stage, epoch, loss in rows if stage == name})
        for name in ("supernet", "retrain")
    )
    return [(name, losses) for name, losses in stages if losses]


def _losses(stages) -> matplotlib.figure.Figure:
    figure, axes = _figure(len(stages), 2.8)
    for axis, (name, rows) in zip(axes, stages, strict=True):
        axis.plot(list(rows), list(rows.values()), color="#333", marker="o", markersize=3)
        axis.set(title=name, xlabel="epoch")
        axis.set_ylim(bottom=0)
        axis.xaxis.get_major_locator().set_params(integer=True)
    axes[0].set_ylabel("cross-entropy")
    return figure
