"""Drawings of a search: the genomes of each generation, and the limits of the budget."""

from collections.abc import Mapping, Sequence

import matplotlib
import numpy as np
from matplotlib.colors import ListedColormap
from matplotlib.ticker import MaxNLocator

from noah_jax.report.figures import BLUE, GREY, RED, Drawing, Rows, new_figure
from noah_jax.space.candidates import Candidate, pareto_front
from noah_jax.training.result import Result

_MOST_PANELS = 6
# The ends of the colour map are left out, since they are hard to see on black or on white.
_BY_GENERATION = ListedColormap(matplotlib.colormaps["viridis"](np.linspace(0.15, 0.9, 256)))

Generations = Mapping[int, Sequence[Candidate]]


def search(generations: Generations, result: Result, bounds: tuple[float, float]) -> Drawing:
    """Draws all evaluated genomes, their front and the chosen one; grey is outside the budget.

    Args:
      bounds: the fewest and the most parameters, in millions.
    """
    figure, (axis,) = new_figure(3.6)
    every = [one for candidates in generations.values() for one in candidates]
    numbers = [number for number, candidates in generations.items() for _ in candidates]
    x, y = _places(every)
    points = axis.scatter(x, y, c=numbers, cmap=_BY_GENERATION, s=20, alpha=0.85, linewidths=0)
    _front(axis, every, label="front")
    assert result["val_accuracy"] is not None  # a search has measured it
    place = result["params"] / 1e6, 100 * result["val_accuracy"]
    axis.scatter(*place, s=130, facecolors="none", edgecolors=RED, linewidths=2, label="chosen")
    _shade(axis, bounds, _limits(every, bounds))
    if len(generations) > 1:
        bar = figure.colorbar(points, ax=axis, label="generation", pad=0.01, aspect=35)
        bar.locator = MaxNLocator(integer=True)
        bar.outline.set_visible(False)
    axis.xaxis.set_major_locator(MaxNLocator(6))  # more numbers would overlap
    axis.set(xlabel="parameters (M), head excluded", ylabel="validation accuracy (%)")
    figure.legend(loc="outside upper left", ncols=3)
    front = {id(candidate) for candidate in pareto_front(every)}
    rows = [
        (number, one.params, one.accuracy, one.loss, int(id(one) in front))
        for number, one in zip(numbers, every, strict=True)
    ]
    header = ("generation", "params", "val_accuracy", "val_loss", "on_front")
    alt = f"{len(every)} genomes: validation accuracy against parameters, with the front."
    return Drawing("search", figure, alt, [header, *rows])


def by_generation(generations: Generations, bounds: tuple[float, float]) -> Drawing:
    """Draws a panel for each of some generations: its genomes, earlier ones, the front so far."""
    chosen = np.linspace(0, len(generations) - 1, min(len(generations), _MOST_PANELS))
    names = [sorted(generations)[i] for i in chosen.round().astype(int)]
    rows = -(-len(names) // 2)
    figure, axes = new_figure(1.75 * rows + 0.5, rows, 2, sharex=True, sharey=True)
    limits = _limits([one for candidates in generations.values() for one in candidates], bounds)
    table: Rows = [("generation", "params", "val_accuracy")]
    for axis, name in zip(axes, names, strict=False):
        before = [one for number in generations if number < name for one in generations[number]]
        axis.scatter(*_places(before), s=10, color=GREY, alpha=0.45, linewidths=0)
        axis.scatter(*_places(generations[name]), s=16, color=BLUE, linewidths=0)
        so_far = [*before, *generations[name]]
        _front(axis, so_far)
        axis.set_title(f"generation {name}", loc="left", pad=3)
        _shade(axis, bounds, limits)
        table += [(name, one.params, one.accuracy) for one in pareto_front(so_far)]
    for axis in axes[len(names) :]:
        axis.set_visible(False)
    figure.supxlabel("parameters (M)", fontsize=9.5)
    figure.supylabel("validation accuracy (%)", fontsize=9.5)
    alt = "Generations of the search: new genomes in blue, earlier ones in grey, the front so far."
    return Drawing("generations", figure, alt, table)


def progress(generations: Generations) -> Drawing:
    """Draws the best accuracy so far, and the median of each generation."""
    figure, (axis,) = new_figure(2.6)
    table: Rows = [("generation", "evaluated", "best_so_far", "best", "median")]
    so_far = 0.0
    for number in sorted(generations):
        finite = [one for one in generations[number] if one.is_finite]  # the others rank last
        accuracies = [one.accuracy for one in finite]
        if accuracies:
            best = max(accuracies)
            so_far = max(so_far, best)
            table.append((number, len(accuracies), so_far, best, float(np.median(accuracies))))
    x, _, bests, _, medians = map(np.array, zip(*table[1:], strict=True))
    axis.plot(x, 100 * bests, color=RED, marker="o", markersize=4, label="best so far")
    axis.plot(x, 100 * medians, color=GREY, marker="o", markersize=3, label="median of generation")
    axis.set(xlabel="generation", ylabel="validation accuracy (%)")
    axis.xaxis.get_major_locator().set_params(integer=True)
    axis.grid(axis="y", alpha=0.25)
    figure.legend(loc="outside upper left", ncols=2)
    alt = f"Best validation accuracy (%) by generation: {100 * so_far:.3g} at the end."
    return Drawing("progress", figure, alt, table)


def _places(candidates: Sequence[Candidate]) -> tuple[list[float], list[float]]:
    return [one.params / 1e6 for one in candidates], [100 * one.accuracy for one in candidates]


def _front(axis, candidates: Sequence[Candidate], **options) -> None:
    x, y = _places(pareto_front(candidates))
    line = {"color": RED, "linewidth": 1.2, "marker": "o", "markersize": 3.5}
    axis.step(x, y, where="post", **line, **options)


def _limits(candidates: Sequence[Candidate], bounds: tuple[float, float]) -> tuple[float, float]:
    """The range of the axis of parameters; it includes the bounds if they are near."""
    x, _ = _places(candidates)
    low, high = min(x), max(x)
    near = (high - low) or high or 1.0
    least, most = bounds
    first = min(low, least) if least > low - near and least else low
    last = max(high, most) if most < high + near else high
    return first - 0.06 * near, last + 0.06 * near


def _shade(axis, bounds: tuple[float, float], limits: tuple[float, float]) -> None:
    """Shades the range outside the bounds in grey."""
    axis.set_xlim(limits)
    for start, stop in ((limits[0], bounds[0]), (bounds[1], limits[1])):
        if start < stop and stop > 0:
            axis.axvspan(start, stop, color=GREY, alpha=0.25, linewidth=0)
