"""Drawings of a search: what each generation found, and what the budget cut off."""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.colors import ListedColormap
from matplotlib.ticker import MaxNLocator

from noah_jax.report.figures import COLOURS, GREY, RED, Drawing, Rows, figure_of
from noah_jax.space.candidates import Candidate, pareto_front

_MOST_PANELS = 6
# Without the ends, which are hard to see on black and on white.
_BY_GENERATION = ListedColormap(matplotlib.colormaps["viridis"](np.linspace(0.15, 0.9, 256)))

Generations = Mapping[int, Sequence[Candidate]]


def search(
    generations: Generations, result: Mapping[str, Any], bounds: tuple[float, float]
) -> Drawing:
    """All that was evaluated, the front, what was chosen; grey is what the budget cuts off.

    Args:
      bounds: the fewest and the most parameters, in millions.
    """
    figure, (axis,) = figure_of(3.6)
    every = [candidate for found in generations.values() for candidate in found]
    numbers = [number for number, found in generations.items() for _ in found]
    x, y = _places(every)
    points = axis.scatter(x, y, c=numbers, cmap=_BY_GENERATION, s=20, alpha=0.85, linewidths=0)
    _front(axis, every, label="front")
    place = result["params"] / 1e6, 100 * result["val_accuracy"]
    axis.scatter(*place, s=130, facecolors="none", edgecolors=RED, linewidths=2, label="chosen")
    _shade(axis, bounds, _limits(every, bounds))
    if len(generations) > 1:
        bar = figure.colorbar(points, ax=axis, label="generation", pad=0.01, aspect=35)
        bar.locator = MaxNLocator(integer=True)
        bar.outline.set_visible(False)
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
    """A panel a generation: its genomes, those before it, and the front so far."""
    chosen = np.linspace(0, len(generations) - 1, min(len(generations), _MOST_PANELS))
    names = [sorted(generations)[i] for i in chosen.round().astype(int)]
    rows = -(-len(names) // 2)
    figure, axes = figure_of(1.75 * rows + 0.5, rows, 2, sharex=True, sharey=True)
    limits = _limits([one for found in generations.values() for one in found], bounds)
    table: Rows = [("generation", "params", "val_accuracy")]
    for axis, name in zip(axes, names, strict=False):
        before = [one for number in generations if number < name for one in generations[number]]
        axis.scatter(*_places(before), s=10, color=GREY, alpha=0.45, linewidths=0)
        axis.scatter(*_places(generations[name]), s=16, color=COLOURS["vpt"], linewidths=0)
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


def progress(generations: Generations, by_loss: bool) -> Drawing:
    """The best so far and the middle of each generation, of what the search climbs."""
    figure, (axis,) = figure_of(2.6)
    what, unit = ("validation loss", 1) if by_loss else ("validation accuracy (%)", 100)
    table: Rows = [("generation", "evaluated", "best_so_far", "best", "median")]
    bests: list[float] = []
    for number in sorted(generations):
        found = [one for one in generations[number] if one.is_finite]  # others rank last
        if not found:
            continue
        values = [one.loss if by_loss else one.accuracy for one in found]
        bests.append(min(values) if by_loss else max(values))
        so_far = min(bests) if by_loss else max(bests)
        table.append((number, len(values), so_far, bests[-1], float(np.median(values))))
    x, _, so_far, _, median = map(np.array, zip(*table[1:], strict=True))
    axis.plot(x, unit * so_far, color=RED, marker="o", markersize=4, label="best so far")
    axis.plot(x, unit * median, color=GREY, marker="o", markersize=3, label="median of generation")
    axis.set(xlabel="generation", ylabel=what)
    axis.xaxis.get_major_locator().set_params(integer=True)
    axis.grid(axis="y", alpha=0.25)
    figure.legend(loc="outside upper left", ncols=2)
    alt = f"Best {what} by generation: {unit * so_far[-1]:.3g} at the end."
    return Drawing("progress", figure, alt, table)


def _places(candidates: Sequence[Candidate]) -> tuple[list[float], list[float]]:
    return [one.params / 1e6 for one in candidates], [100 * one.accuracy for one in candidates]


def _front(axis, candidates: Sequence[Candidate], **options) -> None:
    x, y = _places(pareto_front(candidates))
    line = {"color": RED, "linewidth": 1.2, "marker": "o", "markersize": 3.5}
    axis.step(x, y, where="post", **line, **options)


def _limits(candidates: Sequence[Candidate], bounds: tuple[float, float]) -> tuple[float, float]:
    """What the axis of parameters shows: the bounds, too, if they are near."""
    x, _ = _places(candidates)
    low, high = min(x), max(x)
    near = (high - low) or high or 1.0
    least, most = bounds
    first = min(low, least) if least > low - near and least else low
    last = max(high, most) if most < high + near else high
    return first - 0.06 * near, last + 0.06 * near


def _shade(axis, bounds: tuple[float, float], limits: tuple[float, float]) -> None:
    """Grey: what is outside of the bounds."""
    axis.set_xlim(limits)
    for start, stop in ((limits[0], bounds[0]), (bounds[1], limits[1])):
        if start < stop and stop > 0:
            axis.axvspan(start, stop, color=GREY, alpha=0.25, linewidth=0)
