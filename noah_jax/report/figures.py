"""The drawings of a report, each with the numbers that it shows.

They are small, so that they stay readable on a phone. They are made without pyplot, which would
keep them in memory and need a display on some systems.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import matplotlib.figure
import numpy as np
from matplotlib.colors import LinearSegmentedColormap

from noah_jax.pretrained.backbones import arch_of
from noah_jax.space.genomes import MODULES, by_module
from noah_jax.space.modules import PROMPT_MODULES
from noah_jax.training.predictions import Predictions
from noah_jax.training.result import Result
from noah_jax.vit import ViTConfig

INK = "#222222"  # a dark page replaces it
RED, GREY = "#d0453a", "#8a8a8a"
BLUE, GREEN = PROMPT_MODULES["vpt"].colour, PROMPT_MODULES["adapter"].colour
_WIDTH, _MOST_BARS, _MOST_CELLS, _MOST_MARKS, _LONGEST_NAME = 4.8, 30, 20, 60, 22

STYLE: dict[Any, Any] = {  # of matplotlib
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
    """A figure, the name of its files, a description in words, and the numbers that it shows."""

    name: str
    figure: matplotlib.figure.Figure
    alt: str
    numbers: Rows


def short_name(name: str) -> str:
    """Makes a class name, which can be any text, short and printable for the side of an axis."""
    name = name if name.isprintable() else repr(name)
    return name if len(name) <= _LONGEST_NAME else f"{name[: _LONGEST_NAME - 1]}…"


def new_figure(
    height: float, rows: int = 1, columns: int = 1, **options: Any
) -> tuple[matplotlib.figure.Figure, np.ndarray]:
    """A figure of a report's width, `height` in inches, and its axes `[rows · columns]`."""
    figure = matplotlib.figure.Figure(figsize=(_WIDTH, height), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False, **options).ravel()
    for axis in axes:
        axis.spines[["top", "right"]].set_visible(False)
    return figure, axes


def add_legend(figure: matplotlib.figure.Figure, handles: Sequence[Any], columns: int = 4) -> None:
    """Adds a legend above the axes that is read line by line; matplotlib fills it by columns."""
    by_column = [one for start in range(columns) for one in handles[start::columns]]
    figure.legend(handles=by_column, loc="outside upper left", ncols=columns)


# --- Architecture --------------------------------------------------------------------------------


def token_width(result: Result) -> int:
    """The token width of the result's backbone."""
    return ViTConfig.named(arch_of(result["backbone"])).width


def architecture(result: Result, file: str = "architecture") -> Drawing:
    """Draws a subnet as the paper does: a row a module, a bar a block, and below them the costs."""
    genome = np.array(result["genome"])
    sizes = by_module(genome)
    sizes = {name: row for name, row in sizes.items() if name in MODULES or row.any()}
    width = token_width(result)
    costs = {name: PROMPT_MODULES[name].params(row, width) for name, row in sizes.items()}
    heights = [0.85 if row.any() else 0.15 for row in sizes.values()] + [0.85]
    height, ratios = sum(heights) + 0.22 * len(heights) + 0.45, {"height_ratios": heights}
    figure, axes = new_figure(height, len(heights), sharex=True, gridspec_kw=ratios)
    for axis, (name, row) in zip(axes, sizes.items(), strict=False):
        _draw_sizes(axis, name, row)
    _draw_costs(axes[-1], costs)
    titles = {name: PROMPT_MODULES[name].title for name in sizes}
    means = ", ".join(f"{titles[name]} {row.mean():.1f}" for name, row in sizes.items())
    alt = f"Size of each module in each of {len(genome)} blocks; on average {means}."
    header = ("block", *sizes, *(f"{name}_params" for name in costs))
    blocks = np.arange(1, len(genome) + 1)
    table = np.column_stack([blocks, *sizes.values(), *costs.values()]).tolist()
    return Drawing(file, figure, alt, [header, *map(tuple, table)])


def _draw_sizes(axis, name: str, sizes: np.ndarray) -> None:
    """Draws the size of one module in each block, or a dot if it is absent."""
    blocks = np.arange(1, len(sizes) + 1)
    bars = axis.bar(blocks, sizes, width=0.76, color=PROMPT_MODULES[name].colour)
    font = 66 * _WIDTH / len(blocks) / (0.75 * max(map(len, map(str, sizes))))
    upright = font < 6  # labels that are too long to lie
    options = {"rotation": 90, "padding": 2} if upright else {"padding": 1}
    labels = [str(size) if size else "" for size in sizes]
    axis.bar_label(bars, labels, fontsize=8 if upright else min(8.5, font), **options)
    absent = blocks[sizes == 0]
    axis.scatter(absent, np.zeros(len(absent)), s=7, color=GREY, zorder=3, clip_on=False)
    module = PROMPT_MODULES[name]
    axis.set_title(module.title, loc="left", color=module.colour, fontweight="bold", pad=4)
    axis.set_ylim(0, max(sizes.max(), 1) * (1.9 if upright else 1.35))
    axis.spines["left"].set_visible(False)
    axis.tick_params(bottom=False, left=False, labelleft=False)


def _draw_costs(axis, costs: Mapping[str, np.ndarray]) -> None:
    """Draws the parameters of each block as a stack of its modules."""
    total = np.zeros(len(next(iter(costs.values()))))
    blocks = np.arange(1, len(total) + 1)
    for name, params in costs.items():
        axis.bar(blocks, params / 1e3, width=0.76, bottom=total, color=PROMPT_MODULES[name].colour)
        total += params / 1e3
    axis.set_title("Parameters in each block (thousands)", loc="left", pad=4)
    axis.set_ylim(0, 1.15 * total.max() or 1)
    axis.set(xlabel="block", xlim=(0.4, len(blocks) + 0.6))
    axis.set_xticks(blocks[:: max(1, len(blocks) // 12)])


# --- Training ------------------------------------------------------------------------------------

Curves = Mapping[str, Mapping[int, float]]  # stage → epoch → mean training loss


def training(curves: Curves) -> Drawing:
    """Draws the training loss by epoch, with a panel for each stage."""
    figure, axes = new_figure(2.6, 1, len(curves))
    for axis, (name, losses) in zip(axes, curves.items(), strict=True):
        draw_losses(axis, losses, color=BLUE, marker="o")
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
    """Draws losses by epoch, each with a mark unless there are many."""
    marks = {"marker": marker, "markersize": 3} if len(losses) <= _MOST_MARKS else {}
    axis.plot(list(losses), list(losses.values()), **marks, **options)
    axis.set_xlabel("epoch")
    axis.set_ylim(0, 1.05 * max(*losses.values(), axis.dataLim.y1))
    axis.xaxis.get_major_locator().set_params(integer=True)
    if axis.dataLim.width == 0:  # a single epoch
        axis.set_xlim(axis.dataLim.x0 - 1, axis.dataLim.x0 + 1, auto=True)
    axis.grid(axis="y", alpha=0.25)


# --- Classes -------------------------------------------------------------------------------------


def classes(test: Predictions) -> Drawing:
    """Draws the accuracy of each class, best first: named bars or, for many classes, a profile."""
    rows = sorted(test.by_class(), key=lambda row: (-row[2] / row[1], row[0]))
    shares = np.array([100 * right / images for _, images, right in rows])
    if len(rows) <= _MOST_BARS:
        figure, (axis,) = new_figure(0.8 + 0.22 * len(rows))
        places = np.arange(len(rows))[::-1]
        axis.barh(places, shares, color=GREEN, height=0.75)
        axis.set_yticks(places, [short_name(test.name(label)) for label, *_ in rows])
        axis.tick_params(left=False)
        axis.set(xlabel="test accuracy (%)", xlim=(0, 100), ylim=(-0.6, len(rows) - 0.4))
        axis.grid(axis="x", alpha=0.25)
    else:
        figure, (axis,) = new_figure(2.9)
        edges = np.arange(len(rows) + 1)
        axis.stairs(shares, edges, fill=True, color=GREEN, alpha=0.85)
        axis.set(xlabel="classes, best first", ylabel="test accuracy (%)", ylim=(0, 101))
        axis.set_xlim(0, len(rows))
        axis.axhline(shares.mean(), color=RED, linewidth=1, label=f"mean {shares.mean():.1f} %")
        axis.grid(axis="y", alpha=0.25)
        figure.legend(loc="outside upper right")
    header = ("label", "class", "images", "right", "accuracy")
    table = [
        (label, test.name(label), images, right, right / images) for label, images, right in rows
    ]
    alt = f"Test accuracy of {len(rows)} classes, from {shares[0]:.0f} to {shares[-1]:.0f} %."
    return Drawing("classes", figure, alt, [header, *table])


def confusion(test: Predictions) -> Drawing | None:
    """Draws labels against predictions; None if there are too many classes to see."""
    labels = np.union1d(test.labels, test.predicted)
    if len(labels) > _MOST_CELLS:
        return None
    counts = np.zeros((len(labels), len(labels)), int)
    places = np.searchsorted(labels, test.labels), np.searchsorted(labels, test.predicted)
    np.add.at(counts, places, 1)
    shares = 100 * counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    figure, (axis,) = new_figure(4.6)
    clear = LinearSegmentedColormap.from_list("", [f"{BLUE}00", BLUE])
    axis.imshow(shares, cmap=clear, vmin=0, vmax=100)
    for row, column in np.argwhere(counts):
        colour = "#ffffff" if shares[row, column] > 55 else INK
        size = min(8.5, 90 / len(labels))
        text = {"ha": "center", "va": "center", "fontsize": size, "color": colour}
        axis.text(column, row, counts[row, column], **text)
    names = [test.name(int(label)).removeprefix("class ") for label in labels]
    names = list(map(short_name, names))
    turn = {"rotation": 90} if max(map(len, names)) > 3 else {}
    axis.set_xticks(range(len(labels)), names, **turn)
    axis.set_yticks(range(len(labels)), names)
    axis.tick_params(length=0)
    axis.spines[:].set_visible(False)
    axis.set(xlabel="predicted", ylabel="true class")
    header = ("true \\ predicted", *map(test.name, labels.tolist()))
    table = [(test.name(int(k)), *row) for k, row in zip(labels, counts.tolist(), strict=True)]
    alt = f"Test images by true and predicted class, {len(labels)} classes."
    return Drawing("confusion", figure, alt, [header, *table])
