"""The drawings of a report: each with the numbers that it shows.

Small, so that they stay readable on a phone; made without pyplot, which would keep them, and need a
display on some systems.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import matplotlib
import matplotlib.figure
import numpy as np
from matplotlib.colors import LinearSegmentedColormap

from noah_jax.space.genomes import ALL_MODULES, COLUMNS, MODULES, complete, count_params
from noah_jax.training.predictions import Predictions

INK = "#222222"  # the page changes it where it is dark
COLOURS = {"vpt": "#3b76c4", "lora": "#d9822b", "adapter": "#4aa564", "parallel": "#9a66c0"}
TITLES = {
    "vpt": "Visual prompts",
    "lora": "LoRA",
    "adapter": "Adapter",
    "parallel": "Parallel adapter",
}
RED, GREY = "#d0453a", "#8a8a8a"
_WIDTH, _MOST_BARS, _MOST_CELLS, _MOST_MARKS, _LONGEST_NAME = 4.8, 30, 20, 60, 22

STYLE = {
    "font.size": 9.5,
    "axes.titlesize": 9.5,
    "axes.labelcolor": INK,
    "axes.edgecolor": GREY,
    "text.color": INK,
    "xtick.color": GREY,
    "ytick.color": GREY,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "legend.fontsize": 8.5,
    "legend.frameon": False,
    "text.parse_math": False,  # a name may have a $
    "svg.fonttype": "none",  # text stays text: readers' fonts have letters that ours lacks
    "svg.hashsalt": "noah_jax",  # the same picture is the same file
}

Rows = list[tuple[Any, ...]]  # the first names the columns


@dataclasses.dataclass(frozen=True)
class Drawing:
    """A figure, the name of its files, what it shows in words, and its numbers."""

    name: str
    figure: matplotlib.figure.Figure
    alt: str
    numbers: Rows


def shown(name: str) -> str:
    """A name of somebody's folder, as it can stand beside an axis."""
    name = name if name.isprintable() else repr(name)
    return name if len(name) <= _LONGEST_NAME else f"{name[: _LONGEST_NAME - 1]}…"


def figure_of(height: float, rows: int = 1, columns: int = 1, **options):
    """A figure of a report's width, `height` in inches, and its axes `[rows · columns]`."""
    figure = matplotlib.figure.Figure(figsize=(_WIDTH, height), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False, **options).ravel()
    for axis in axes:
        axis.spines[["top", "right"]].set_visible(False)
    return figure, axes


def architecture(result: Mapping[str, Any], file: str = "architecture") -> Drawing:
    """As the paper draws a subnet: a row a module, a bar a block, and what these cost."""
    genome = complete(result["genome"])
    columns = dict(zip(COLUMNS, genome.T, strict=True))
    names = ALL_MODULES if columns["parallel"].any() else MODULES
    blocks, costs = np.arange(1, len(genome) + 1), _block_params(genome, width(result))
    heights = [0.85 if columns[name].any() else 0.15 for name in names] + [0.85]
    ratios = {"gridspec_kw": {"height_ratios": heights}}
    figure, axes = figure_of(
        sum(heights) + 0.22 * len(heights) + 0.45, len(heights), sharex=True, **ratios
    )
    for axis, name in zip(axes, names, strict=False):
        sizes, powers = columns[name], columns.get(f"{name}_scale", 0) * (columns[name] > 0)
        labels = list(map(_label, sizes, powers))
        bars = axis.bar(blocks, sizes, width=0.76, color=COLOURS[name])
        size = 66 * _WIDTH / len(blocks) / (0.75 * max(map(len, map(str, sizes))))
        stands = powers.any() or size < 6  # a label that is too long to lie
        options = {"rotation": 90, "padding": 2} if stands else {"padding": 1}
        axis.bar_label(bars, labels, fontsize=min(8.5, 8 if stands else size), **options)
        absent = blocks[sizes == 0]
        axis.scatter(absent, np.zeros(len(absent)), s=7, color=GREY, zorder=3, clip_on=False)
        axis.set_title(TITLES[name], loc="left", color=COLOURS[name], fontweight="bold", pad=4)
        axis.set_ylim(0, max(sizes.max(), 1) * (1.9 if stands else 1.35))
        axis.spines["left"].set_visible(False)
        axis.tick_params(bottom=False, left=False, labelleft=False)
    below = np.zeros(len(blocks))
    for name in names:
        axes[-1].bar(blocks, costs[name] / 1e3, width=0.76, bottom=below, color=COLOURS[name])
        below += costs[name] / 1e3
    axes[-1].set_title("Parameters in each block (thousands)", loc="left", pad=4)
    axes[-1].set_ylim(0, 1.15 * below.max() or 1)
    axes[-1].set(xlabel="block", xlim=(0.4, len(blocks) + 0.6))
    axes[-1].set_xticks(blocks[:: max(1, len(blocks) // 12)])
    means = ", ".join(f"{TITLES[name]} {columns[name].mean():.1f}" for name in names)
    alt = f"Size of each module in each of {len(blocks)} blocks; on average {means}."
    header = ("block", *COLUMNS, *(f"{name}_params" for name in names))
    parts = [columns[name] for name in COLUMNS] + [costs[name] for name in names]
    rows = map(tuple, np.column_stack([blocks, *parts]).tolist())
    return Drawing(file, figure, alt, [header, *rows])


def _label(size: int, power: int) -> str:
    """What stands on a bar: the size and, unless it is 1, the factor of the output."""
    factor = f" ×{10.0**power:g}" if power else ""
    return f"{size}{factor}" if size else ""


def width(result: Mapping[str, Any]) -> int:
    """The token width, which follows from how many parameters the genome has; 0 if it has none."""
    none, one = (int(count_params(np.array(result["genome"]), width)) for width in (0, 1))
    return (result["params"] - none) // (one - none) if one > none else 0


def _block_params(genome: np.ndarray, width: int) -> dict[str, np.ndarray]:
    """Of each module in each block."""
    found = {}
    for column, name in enumerate(ALL_MODULES):
        alone = np.zeros_like(genome)
        alone[:, column] = genome[:, column]
        found[name] = count_params(alone[:, None], width)
    return found


# --- Training ------------------------------------------------------------------------------------

Curves = Mapping[str, Mapping[int, float]]  # stage → epoch → mean training loss


def training(curves: Curves) -> Drawing:
    """The training loss by epoch, a panel a stage."""
    figure, axes = figure_of(2.6, 1, len(curves))
    for axis, (name, losses) in zip(axes, curves.items(), strict=True):
        draw_losses(axis, losses, color=COLOURS["vpt"], marker="o")
        axis.set_title(name, loc="left")
        axis.xaxis.get_major_locator().set_params(nbins=5)
    axes[0].set_ylabel("cross-entropy")
    ends = "; ".join(
        f"{name} from {list(losses.values())[0]:.3g} to {list(losses.values())[-1]:.3g}"
        for name, losses in curves.items()
    )
    rows = [(name, *point) for name, losses in curves.items() for point in losses.items()]
    return Drawing(
        "training", figure, f"Training loss: {ends}.", [("stage", "epoch", "loss"), *rows]
    )


def draw_losses(axis, losses: Mapping[int, float], marker: str, **options) -> None:
    """Losses by epoch, each with its mark unless they are many."""
    marks = {"marker": marker, "markersize": 3} if len(losses) <= _MOST_MARKS else {}
    axis.plot(list(losses), list(losses.values()), **marks, **options)
    axis.set_xlabel("epoch")
    axis.set_ylim(0, 1.05 * max(*losses.values(), axis.dataLim.y1))
    axis.xaxis.get_major_locator().set_params(integer=True)
    axis.grid(axis="y", alpha=0.25)


# --- Classes -------------------------------------------------------------------------------------


def classes(found: Predictions) -> Drawing:
    """The accuracy of each class, best first: bars with names or, of many classes, a profile."""
    rows = sorted(found.by_class(), key=lambda row: (-row[2] / row[1], row[0]))
    shares = np.array([100 * right / images for _, images, right in rows])
    if len(rows) <= _MOST_BARS:
        figure, (axis,) = figure_of(0.8 + 0.22 * len(rows))
        places = np.arange(len(rows))[::-1]
        axis.barh(places, shares, color=COLOURS["adapter"], height=0.75)
        axis.set_yticks(places, [shown(found.name(label)) for label, *_ in rows])
        axis.tick_params(left=False)
        axis.set(xlabel="test accuracy (%)", xlim=(0, 100), ylim=(-0.6, len(rows) - 0.4))
        axis.grid(axis="x", alpha=0.25)
    else:
        figure, (axis,) = figure_of(2.9)
        edges = np.arange(len(rows) + 1)
        axis.stairs(shares, edges, fill=True, color=COLOURS["adapter"], alpha=0.85)
        axis.set(xlabel="classes, best first", ylabel="test accuracy (%)", ylim=(0, 101))
        axis.set_xlim(0, len(rows))
        axis.axhline(shares.mean(), color=RED, linewidth=1, label=f"mean {shares.mean():.1f} %")
        axis.grid(axis="y", alpha=0.25)
        figure.legend(loc="outside upper right")
    header = ("label", "class", "images", "right", "accuracy")
    table = [
        (label, found.name(label), images, right, right / images) for label, images, right in rows
    ]
    alt = f"Test accuracy of {len(rows)} classes, from {shares[0]:.0f} to {shares[-1]:.0f} %."
    return Drawing("classes", figure, alt, [header, *table])


def confusion(found: Predictions) -> Drawing | None:
    """Labels against predictions; None for more classes than can be seen."""
    labels = np.union1d(found.labels, found.predicted)
    if len(labels) > _MOST_CELLS:
        return None
    counts = np.zeros((len(labels), len(labels)), int)
    places = np.searchsorted(labels, found.labels), np.searchsorted(labels, found.predicted)
    np.add.at(counts, places, 1)
    shares = 100 * counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    figure, (axis,) = figure_of(4.6)
    clear = LinearSegmentedColormap.from_list("", [f"{COLOURS['vpt']}00", COLOURS["vpt"]])
    axis.imshow(shares, cmap=clear, vmin=0, vmax=100)
    for row, column in np.argwhere(counts):
        colour = "#ffffff" if shares[row, column] > 55 else INK
        size = min(8.5, 90 / len(labels))
        text = {"ha": "center", "va": "center", "fontsize": size, "color": colour}
        axis.text(column, row, counts[row, column], **text)
    names = [found.name(int(label)).removeprefix("class ") for label in labels]
    names = list(map(shown, names))
    turn = {"rotation": 90} if max(map(len, names)) > 3 else {}
    axis.set_xticks(range(len(labels)), names, **turn)
    axis.set_yticks(range(len(labels)), names)
    axis.tick_params(length=0)
    axis.spines[:].set_visible(False)
    axis.set(xlabel="predicted", ylabel="true class")
    header = ("true \\ predicted", *map(found.name, labels.tolist()))
    table = [(found.name(int(k)), *row) for k, row in zip(labels, counts.tolist(), strict=True)]
    alt = f"Test images by true and predicted class, {len(labels)} classes."
    return Drawing("confusion", figure, alt, [header, *table])
