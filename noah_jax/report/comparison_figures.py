"""The drawings of a comparison: accuracy against parameters, and training losses.

An axis on which most methods are close together and the others far off is broken in two, so that
the close ones can be told apart.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.container import ErrorbarContainer
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.text import Annotation
from matplotlib.ticker import MaxNLocator
from matplotlib.transforms import Bbox

from noah_jax.data.tasks import METRIC
from noah_jax.report import figures
from noah_jax.report.figures import GREY, Drawing, Rows, new_figure
from noah_jax.report.standings import by_method, interval
from noah_jax.training.result import Result

_FAR = 2  # an axis is broken at a gap of at least so many times the spread of its main part;
_LEAST_SPREAD = 1.0  # the spread of accuracies counts as so many points or more
_MAIN, _APART = 3, 1  # the lengths of the two parts
_STEPS = [1, 2, 5, 10]  # between ticks, times a power of ten
# Where a label may be: how far along the interval, in points from there, and how it is aligned.
_PLACES = (
    *((0, 8, 0, "left", "center"), (0, -8, 0, "right", "center"), (0, 6, 6, "left", "bottom")),
    *((0, 6, -6, "left", "top"), (0, -6, 6, "right", "bottom"), (0, -6, -6, "right", "top")),
    *((1, 0, 3, "center", "bottom"), (-1, 0, -3, "center", "top")),
)

Looks = Mapping[str, tuple[str, str]]  # method → colour and marker
Range = tuple[float, float]
_Part = list[str]  # methods that share an axis, or a part of a broken one


@dataclasses.dataclass(frozen=True)
class _Point:
    """One method: parameters of its runs in millions, accuracies in percent, interval."""

    method: str
    sizes: list[float]
    scores: list[float]
    bar: Range  # without an interval the mean alone

    @property
    def place(self) -> tuple[float, float]:
        return float(np.mean(self.sizes)), float(np.mean(self.scores))

    @property
    def reach(self) -> Range:
        """The range that has to be in sight: all runs, and the interval of a single one.

        An interval over seeds may be far longer than what there is to see, as that of two is.
        """
        ends = self.bar if len(self.scores) == 1 else ()
        return min(*self.scores, *ends), max(*self.scores, *ends)


def trade(name: str, results: Sequence[Result], looks: Looks) -> Drawing:
    """Draws test accuracy with its 95 % interval against parameters.

    Points have their names beside them if there is room for all, else there is a legend.
    """
    points = [_point(method, own) for method, own in by_method(results).items()]
    columns = _parts({point.method: point.sizes for point in points})
    rows = _parts({point.method: point.reach for point in points}, _LEAST_SPREAD)[::-1]
    figure, grid = _panels(rows, columns)
    axes: dict[str, Axes] = {}
    drawn = []
    for point in points:
        row, column = (
            next(number for number, part in enumerate(parts) if point.method in part)
            for parts in (rows, columns)
        )
        axes[point.method] = grid[row, column]
        drawn.append(_draw(grid[row, column], point, looks))
    _limit(points, grid, rows, columns)
    if not _label(figure, points, axes):
        figures.add_legend(figure, drawn)
    return Drawing(name, figure, _in_words(points), _numbers(results))


def _point(method: str, own: Sequence[Result]) -> _Point:
    sizes = [result["params"] / 1e6 for result in own]
    scores = [100 * result["test_accuracy"] for result in own]
    mean, found = float(np.mean(scores)), interval(own)
    bar = (100 * found.low, 100 * found.high) if found else (mean, mean)
    return _Point(method, sizes, scores, (min(bar[0], mean), max(bar[1], mean)))


def _parts(values: Mapping[str, Sequence[float]], least: float = 0.0) -> list[_Part]:
    """Cuts an axis in two where most methods are close together and the others far off.

    Args:
      values: those of each method.
      least: the spread of the larger part counts as at least this; 0 = as its largest value.

    Returns:
      The names in each part, the lower part first; a single part if none is far off.
    """
    names = sorted(values, key=lambda name: float(np.mean(values[name])))
    parts, widest = [names], float(_FAR)
    for cut in range(1, len(names)):
        lower, upper = names[:cut], names[cut:]
        main = upper if len(upper) >= len(lower) else lower
        found = [value for name in main for value in values[name]]
        spread = max(max(found) - min(found), least or max(found), 1e-9)
        gap = min(min(values[name]) for name in upper) - max(max(values[name]) for name in lower)
        if len(main) > 1 and gap >= widest * spread:
            parts, widest = [lower, upper], gap / spread
    return parts


def _panels(rows: Sequence[_Part], columns: Sequence[_Part]) -> tuple[Figure, np.ndarray]:
    """Axes `[rows, columns]`; the breaks between them are marked, the smaller parts are grey."""
    small = [[len(part) < max(map(len, parts)) for part in parts] for parts in (rows, columns)]
    heights, widths = ([_APART if one else _MAIN for one in each] for each in small)
    ratios = {"height_ratios": heights, "width_ratios": widths}
    options = {"sharex": "col", "sharey": "row", "gridspec_kw": ratios}
    figure, axes = new_figure(3.4 + 0.6 * (len(rows) - 1), len(rows), len(columns), **options)
    grid = axes.reshape(len(rows), len(columns))
    for (row, column), axis in np.ndenumerate(grid):
        axis.grid(alpha=0.25)
        axis.xaxis.set_major_locator(MaxNLocator(2 if small[1][column] else 5, steps=_STEPS))
        axis.yaxis.set_major_locator(MaxNLocator(2 if small[0][row] else 6, steps=_STEPS))
        axis.xaxis.set_major_formatter("{x:g}")
        axis.yaxis.set_major_formatter("{x:g}")
        if small[0][row] or small[1][column]:
            whole: dict[str, Any] = {"transform": axis.transAxes, "linewidth": 0, "zorder": 0}
            axis.add_patch(Rectangle((0, 0), 1, 1, color=GREY, alpha=0.13, **whole))
        if row < len(rows) - 1:
            axis.spines["bottom"].set_visible(False)
            axis.tick_params(bottom=False)
        if column:
            axis.spines["left"].set_visible(False)
            axis.tick_params(left=False)
    for above, below in zip(grid[:-1, 0], grid[1:, 0], strict=True):
        _mark_break(above, (0, 0))
        _mark_break(below, (0, 1))
    for left, right in zip(grid[-1, :-1], grid[-1, 1:], strict=True):
        _mark_break(left, (1, 0))
        _mark_break(right, (0, 0))
    broken = [", broken axis" * (len(parts) > 1) for parts in (columns, rows)]
    figure.supxlabel(f"parameters (M), head excluded{broken[0]}", fontsize=9.5)
    figure.supylabel(f"{METRIC}{broken[1]}", fontsize=9.5)
    return figure, grid


def _mark_break(axis: Axes, place: Range) -> None:
    """Draws a slanting stroke at the end of an axis that goes on elsewhere."""
    stroke: dict[str, Any] = {
        "marker": [(-1, -1), (1, 1)],
        "markersize": 7,
        "color": GREY,
        "clip_on": False,
    }
    axis.plot(*place, transform=axis.transAxes, **stroke)


def _draw(axis: Axes, point: _Point, looks: Looks) -> ErrorbarContainer:
    """Draws the mean with its interval, and several seeds behind it; returns the former."""
    (colour, marker), (x, y) = looks[point.method], point.place
    ends = [[y - point.bar[0]], [point.bar[1] - y]]
    line: dict[str, Any] = {"capsize": 2.5, "elinewidth": 1, "markersize": 7, "zorder": 3}
    line |= {"color": colour, "fmt": marker, "label": figures.short_name(point.method)}
    drawn = axis.errorbar(x, y, ends, **line)
    if len(point.scores) > 1:
        axis.scatter(point.sizes, point.scores, s=9, color=colour, alpha=0.5, linewidths=0)
    return drawn


def _limit(
    points: Sequence[_Point], grid: np.ndarray, rows: Sequence[_Part], columns: Sequence[_Part]
) -> None:
    """Sets the ranges of all axes; the parts of a broken one do not overlap."""
    parts = [[point for point in points if point.method in part] for part in rows]
    limits = [_limits_of_scores(part) for part in parts]
    if len(parts) > 1:
        middle = (_reach(parts[0])[0] + _reach(parts[1])[1]) / 2
        (below, most), (least, above) = limits
        limits = [(max(below, middle), most), (least, min(above, middle))]
    for row, ends in zip(grid, limits, strict=True):
        row[0].set_ylim(ends)
    largest = max(map(len, columns))
    for axis, column in zip(grid[-1], columns, strict=True):
        sizes = [size for point in points if point.method in column for size in point.sizes]
        room = 0.1 if len(column) == largest else 4  # a narrow axis has room for two ticks
        axis.set_xlim(_widened(min(sizes), max(sizes), room * (max(sizes) or 1.0)))


def _limits_of_scores(points: Sequence[_Point]) -> Range:
    """The range of some points and, as far as it is not too long, their intervals."""
    low, high = _reach(points)
    room = 3 * (high - low)
    ends = [end for point in points for end in point.bar]
    least, most = max(min(ends), low - room), min(max(ends), high + room)
    return _widened(min(low, least), max(high, most), 5.0)


def _reach(points: Sequence[_Point]) -> Range:
    lows, highs = zip(*(point.reach for point in points), strict=True)
    return min(lows), max(highs)


def _widened(low: float, high: float, least: float) -> Range:
    margin = 0.08 * max(high - low, least)
    return low - margin, high + margin


def _label(figure: Figure, points: Sequence[_Point], axes: Mapping[str, Axes]) -> bool:
    """Writes each method beside its point where nothing else is; False if there is no room."""
    figure.draw_without_rendering()  # lays the axes out
    taken = [box for point in points for box in _extents(point, axes[point.method])]
    labels: list[Annotation] = []
    for point in points:
        axis = axes[point.method]
        for end, right, up, horizontal, vertical in _PLACES:
            label = axis.annotate(
                figures.short_name(point.method),
                (point.place[0], (point.place[1], *point.bar[::-1])[end]),
                (right, up),
                textcoords="offset points",
                ha=horizontal,
                va=vertical,
                fontsize=8.5,
            )
            box = label.get_window_extent()
            inside = axis.bbox.x0 <= box.x0 and box.x1 <= axis.bbox.x1
            inside = inside and axis.bbox.y0 <= box.y0 and box.y1 <= axis.bbox.y1
            if inside and not box.count_overlaps(taken):
                label.set_in_layout(False)
                labels.append(label)
                taken.append(box)
                break
            label.remove()
        else:
            for label in labels:
                label.remove()
            return False
    return True


def _extents(point: _Point, axis: Axes) -> list[Bbox]:
    """The boxes around a point and around its interval, in pixels."""
    x, y = point.place
    places = axis.transData.transform([(x, y), (x, point.bar[0]), (x, point.bar[1])])
    (middle, centre), (_, low), (_, high) = places.tolist()
    mark = Bbox.from_extents(middle - 6, centre - 6, middle + 6, centre + 6)
    return [mark, Bbox.from_extents(middle - 3, low, middle + 3, high)]


def _in_words(points: Sequence[_Point]) -> str:
    return "Test accuracy against parameters: " + "; ".join(
        f"{point.method} {point.place[1]:.2f} % "
        f"({point.bar[0]:.2f} to {point.bar[1]:.2f}) with {point.place[0]:.4f} M"
        for point in points
    )


def _numbers(results: Sequence[Result]) -> Rows:
    """A row for each run, and one for the mean of a method's seeds; intervals are of methods."""
    rows: Rows = [("method", "seed", "params", "test_accuracy", "interval_low", "interval_high")]
    for method, own in by_method(results).items():
        found = interval(own) or ("", "")
        several = len(own) > 1
        for result in own:
            ends = ("", "") if several else found
            rows.append((method, result["seed"], result["params"], result["test_accuracy"], *ends))
        if several:
            size, accuracy = (
                float(np.mean([result[key] for result in own]))
                for key in ("params", "test_accuracy")
            )
            rows.append((method, "mean", size, accuracy, *found))
    return rows


def learning(name: str, curves: Sequence[tuple[Result, dict[int, float]]], looks: Looks) -> Drawing:
    """Draws the training loss of the tested networks by epoch."""
    figure, (axis,) = new_figure(3.4)
    rows: Rows = [("method", "seed", "epoch", "loss")]
    labelled: dict[str, None] = {}
    for result, losses in curves:
        method = result["method"]
        colour, marker = looks[method]
        label = None if method in labelled else figures.short_name(method)
        figures.draw_losses(axis, losses, marker, color=colour, label=label)
        labelled[method] = None
        rows += [(method, result["seed"], *point) for point in losses.items()]
    axis.set_ylabel("training loss")
    figures.add_legend(figure, axis.get_legend_handles_labels()[0])
    alt = f"Training loss by epoch of {', '.join(labelled)}."
    return Drawing(name, figure, alt, rows)
