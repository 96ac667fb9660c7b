"""Drawings for the pages, as SVG: in the page's own colours, for a light and a dark background."""

import functools
import io
import re

import matplotlib

matplotlib.use("svg")
from matplotlib import figure, patches  # noqa: E402

from noah_jax.space.modules import PROMPT_MODULES  # noqa: E402
from tests.helpers import rooms as plan  # noqa: E402

_INK = "#010203"  # stands for the page's colour of text
_WIDTH, _ROW, _BOX = 460, 68, (100, 32)  # of the rooms, in pixels
_LOWEST = plan.FLOORS[0]


# --- Rooms ---------------------------------------------------------------------------------------


def rooms() -> str:
    """The rooms of noah_jax on their floors, and the imports that do not follow from others."""
    arrows = plan.between_rooms()
    places = _room_places(arrows)
    lines, boxes = [], []
    for name, (x, y) in places.items():
        for other in sorted(_direct(name, arrows)):
            to, floor = places[other]
            start, end = y + _BOX[1] / 2, floor - _BOX[1] / 2 - 5
            middle = (start + end) / 2
            lines.append(
                f'<path d="M{x:.0f} {start:.0f} C{x:.0f} {middle:.0f} {to:.0f} {middle:.0f} '
                f'{to:.0f} {end:.0f}" marker-end="url(#tip)"/>'
            )
        boxes.append(
            f'<rect x="{x - _BOX[0] / 2:.0f}" y="{y - _BOX[1] / 2:.0f}" width="{_BOX[0]}" '
            f'height="{_BOX[1]}" rx="5"/><text x="{x:.0f}" y="{y + 5:.0f}">{name}</text>'
        )
    height = max(y for _, y in places.values()) + _ROW / 2
    return (
        f'<svg class="drawing" viewBox="0 0 {_WIDTH} {height:.0f}" width="{_WIDTH}" role="img" '
        'aria-label="The rooms of noah_jax on their floors, with an arrow from each to those that '
        'it imports from">\n<defs><marker id="tip" viewBox="0 0 6 6" refX="1" refY="3" '
        'markerWidth="6" markerHeight="6" orient="auto"><path d="M0 0 L6 3 L0 6 z" '
        'fill="currentColor"/></marker></defs>\n'
        f'<g fill="none" stroke="currentColor" stroke-opacity="0.6">{"".join(lines)}</g>\n'
        '<g fill="var(--color-background-secondary, #eee)" stroke="currentColor" '
        f'text-anchor="middle" font-size="14">{"".join(boxes)}</g>\n</svg>'
    ).replace("<text ", '<text fill="currentColor" stroke="none" ')


def _room_places(arrows) -> dict[str, tuple[float, float]]:
    """Each room → the middle of its box, the top floor first.

    On a floor the rooms lie as those that import them do. A room without an arrow is left out.
    """
    places: dict[str, tuple[float, float]] = {}

    def above(name):
        found = [x for other, (x, _) in places.items() if name in _direct(other, arrows)]
        return sum(found) / len(found) if found else 0

    rows = [[x for x in row if arrows[x] or x in _LOWEST] for row in reversed(plan.FLOORS)]
    for number, row in enumerate(filter(None, rows)):
        order = sorted(row, key=above)
        places |= {
            name: (_WIDTH * (i + 0.5) / len(row), (number + 0.5) * _ROW)
            for i, name in enumerate(order)
        }
    return places


def _direct(name, arrows) -> set[str]:
    """The rooms that a room imports from, but for those that it also reaches through another."""
    return arrows[name] - set().union(*map(functools.partial(_below, arrows), arrows[name]))


def _below(arrows, name) -> set[str]:
    return arrows[name].union(*(_below(arrows, other) for other in arrows[name]))


# --- A block, and the stages ---------------------------------------------------------------------


class _Canvas:
    """A figure whose unit is a pixel at 100 dpi, with the origin at the top left."""

    def __init__(self, width: int, height: int, label: str):
        self.label = label
        self.figure = figure.Figure((width / 100, height / 100), dpi=100)
        self.axes = self.figure.add_axes((0, 0, 1, 1))
        self.axes.set(xlim=(0, width), ylim=(height, 0))
        self.axes.axis("off")

    def box(self, x, y, width, text, colour="", height=34):
        """A box around its middle; one without colour is frozen."""
        style = patches.BoxStyle.Round(pad=0, rounding_size=5)
        corner = (x - width / 2, y - height / 2)
        face = (colour, 0.3) if colour else "none"
        self.axes.add_patch(
            patches.FancyBboxPatch(
                corner, width, height, boxstyle=style, facecolor=face, edgecolor=colour or _INK
            )
        )
        self.text(x, y, text)

    def text(self, x, y, text, colour=_INK, align="center", size=10):
        self.axes.text(x, y, text, ha=align, va="center", color=colour, size=size)

    def arrow(self, *points, colour=_INK):
        """A line through the points, with a tip at the last."""
        *_, before, last = points
        self.axes.plot(*zip(*points[:-1], strict=True), color=colour, linewidth=1.1)
        self.axes.annotate(
            "",
            last,
            before,
            arrowprops={
                **{"arrowstyle": "-|>", "color": colour, "linewidth": 1.1},
                **{"shrinkA": 0, "shrinkB": 0},
            },
        )

    def svg(self) -> str:
        """The figure without a background, in the page's colour of text."""
        file = io.StringIO()
        with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "noah_jax"}):
            self.figure.savefig(file, format="svg", transparent=True, metadata={"Date": None})
        text = file.getvalue().replace(_INK, "currentColor")
        text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
        text = re.sub(r"font: ([\d.]+px) [^;\"]*", r"font: \1 sans-serif", text)
        head = f'<svg class="drawing" role="img" aria-label="{self.label}"'
        return text[text.index("<svg") :].replace("<svg", head, 1)


def block() -> str:
    """A block of the ViT with its prompt modules."""
    canvas = _Canvas(
        460,
        600,
        "A block: visual prompts join the tokens; layer norm, queries, keys and values with LoRA "
        "beside them, attention and projection are added to the tokens; so are a second layer "
        "norm and the MLP, with an adapter after the MLP and a parallel adapter beside it",
    )
    colours = {name: module.colour for name, module in PROMPT_MODULES.items()}
    main, side = 150, 345
    steps = [
        *((70, "tokens and prompts"), (140, "layer norm")),
        *((200, "queries, keys, values"), (260, "attention, projection")),
        *((380, "layer norm"), (440, "MLP")),
    ]
    canvas.text(main, 18, "tokens of the block before")
    for y, text in steps:
        canvas.box(main, y, 215, text)
    for above, below in ((28, 53), (87, 123), (157, 183), (217, 243), (277, 311), (329, 363)):
        canvas.arrow((main, above), (main, below))
    for above, below in ((397, 423), (457, 541), (559, 583)):
        canvas.arrow((main, above), (main, below))
    for y, start in ((320, 104), (550, 344)):  # the sums, and what goes around to them
        canvas.axes.add_patch(patches.Circle((main, y), 9, facecolor="none", edgecolor=_INK))
        canvas.text(main, y, "+", size=12)
        canvas.arrow((main, start), (20, start), (20, y), (main - 9, y))
    canvas.box(side, 70, 150, "visual prompts", colours["vpt"])
    canvas.arrow((side - 75, 70), (main + 108, 70), colour=colours["vpt"])
    canvas.box(side, 170, 150, "LoRA", colours["lora"])
    canvas.arrow((main, 162), (side - 75, 162), colour=colours["lora"])
    canvas.arrow((side, 187), (side, 206), (main + 108, 206), colour=colours["lora"])
    canvas.box(side, 495, 150, "adapter", colours["adapter"])
    canvas.arrow((main, 487), (side - 75, 487), colour=colours["adapter"])
    canvas.arrow((side, 512), (side, 525), (main, 525), colour=colours["adapter"])
    canvas.box(side, 400, 150, "parallel adapter", colours["parallel"])
    canvas.arrow((main, 350), (side, 350), (side, 383), colour=colours["parallel"])
    right = side + 90
    end = ((side + 75, 400), (right, 400), (right, 550), (main + 9, 550))
    canvas.arrow(*end, colour=colours["parallel"])
    canvas.text(main, 592, "tokens for the block after")
    return canvas.svg()


def stages() -> str:
    """The stages of a run, the images that each reads, and the files that it leaves."""
    canvas = _Canvas(
        460,
        510,
        "The stages: the supernet trains on train, the search evaluates on val and leaves "
        "best.json, retraining is on train and val, calibration trains on train and fits a "
        "temperature on val, the test on test leaves result.json, and the report shows them",
    )
    rows = [
        ("supernet", "train", "checkpoints in supernet/"),
        ("search", "val", "search/, best.json"),
        ("retrain", "train + val", "checkpoints in retrain/"),
        ("calibration", "train; val", "calibration.json, if wanted"),
        ("test", "test", "subnet.json, result.json"),
        ("report", "", "report.html, figures/"),
    ]
    for x, text in ((60, "images"), (185, "stage"), (365, "files")):
        canvas.text(x, 20, text, size=11)
    for i, (stage, images, files) in enumerate(rows):
        y = 65 + 80 * i
        canvas.box(185, y, 110, stage)
        canvas.text(60, y, images)
        canvas.text(270, y, files, align="left")
        if images:
            canvas.arrow((102, y), (128, y))
        canvas.arrow((242, y), (264, y))
        if i:
            canvas.arrow((185, y - 62), (185, y - 18))
    return canvas.svg()
