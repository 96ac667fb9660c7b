"""Results for people: `report.html` in the workdir, from what the run left there."""

import html
import json
import pathlib
import shlex
from collections.abc import Sequence
from typing import Any

import matplotlib
import numpy as np

from noah_jax.config.settings import SEARCHED
from noah_jax.errors import UserError
from noah_jax.report import figures, page, search_figures
from noah_jax.report.page import facts, grid, note, picture, text
from noah_jax.report.tables import published
from noah_jax.runtime.workdir import read_json_here, read_lines
from noah_jax.runtime.writer import duration
from noah_jax.space import SearchSpace
from noah_jax.space.candidates import Candidate
from noah_jax.space.genomes import ALL_MODULES
from noah_jax.training import predictions
from noah_jax.training.predictions import Predictions
from noah_jax.training.result import Result

_MOST_PAIRS, _MOST_CLASSES = 10, 6


def write(workdir: pathlib.Path) -> pathlib.Path:
    """Writes `report.html`, one file without outside links, and `figures/`.

    Raises:
      UserError: the result or the settings are damaged, or something cannot be written.
    """
    result = read_json_here(workdir / "result.json")
    config = read_json_here(workdir / "config.json")
    log = read_lines(workdir / "metrics.jsonl")
    title = f"{result['method']} on {result['task']}, seed {result['seed']}"
    with matplotlib.rc_context(figures.STYLE):
        parts = [
            _head(workdir, title, result),
            _search(workdir, result, config),
            grid(_training(workdir, log), _cost(result)),
            *_test(workdir, result),
            _again(result, config, log),
        ]
    return page.write(workdir / "report.html", title, parts)


def _head(workdir, title: str, result: Result) -> str:
    score = f'<p class="big">{100 * result["test_accuracy"]:.2f} %</p>'
    summary = score + text("of the test images are right") + facts(_facts(result))
    if np.any(result["genome"]):
        caption = "Size of each module in each block; a dot: the block is without it."
        drawn = picture(figures.architecture(result), workdir / page.FOLDER, caption)
    else:
        drawn = text("No prompt modules: the genome is empty.")
    return f"<h1>{html.escape(title)}</h1>" + grid(summary, drawn)


def _facts(result: Result) -> dict[str, str]:
    correct = round(result["test_accuracy"] * (tests := result["images"]["test"]))
    found = {
        "Test": f"{correct} of {tests} images right (last epoch)",
        "Parameters": f"{result['params']:,} in prompt modules, {result['head_params']:,} in the "
        f"head; {result['params_noah_count']:,} as the original counts",
        "Backbone": f"{result['backbone']}, {result['image_size']} px, "
        f"{result['normalisation']} normalisation, {result['dtype']}, {result['encoding']} images",
        "Time": f"{duration(sum(result['stages'].values()))} on "
        f"{len(result['devices'])} × {result['devices'][0]}",
    }
    if result["val_accuracy"] is not None:
        how = "with the supernet's weights"
        if result["method"] not in SEARCHED:
            how = "trained on the training images alone"
        found["Validation"] = f"{100 * result['val_accuracy']:.1f} % {how}"
    if figure := published(result):
        found["Published"] = f"{figure:.1f} % (NOAH, table 1)"
    for name, test in result["more_tests"].items():
        among = f" among its {test['classes']} classes" if "classes" in test else ""
        found[name] = f"{100 * test['accuracy']:.2f} % of {test['images']} images right{among}"
        if "accuracy_among_all" in test:
            found[name] += f", {100 * test['accuracy_among_all']:.2f} % among all"
    if result["warnings"]:
        found["Warnings"] = "; ".join(result["warnings"])
    return found


def _search(workdir, result: Result, config: dict[str, Any]) -> str:
    generations: dict[int, list[Candidate]] = {}
    left_out = []
    for path in sorted((workdir / "search").glob("gen_*.json")):
        try:
            values = read_json_here(path)
            found = [Candidate.from_json(value) for value in values["candidates"]]
            generations[values["generation"]] = found
        except UserError as error:
            left_out.append(note(f"Left out: {error}"))
    if not any(generations.values()):
        return "".join(["<h2>Search</h2>", *left_out]) if left_out else ""
    settings, folder = config["search"], workdir / page.FOLDER
    bounds = settings.get("least_millions", 0.0), settings["budget_millions"]
    count = sum(map(len, generations.values()))
    said = (
        f"{count} genomes were evaluated on validation images, in {len(generations)} "
        f"generation{'s' * (len(generations) > 1)}. "
    )
    said += _cut_off(result, config["space"], bounds)
    drawings = [search_figures.search(generations, result, bounds)]
    if len(generations) > 1:
        drawings.append(search_figures.progress(generations))
        drawings.append(search_figures.by_generation(generations, bounds))
    captions = ("All generations. The front: no other genome is smaller and better.", "")
    captions += ("New genomes in blue, those before in grey, the front so far in red.",)
    first, *others = map(picture, drawings, [folder] * len(drawings), captions)
    shown = grid(first + others[0], others[1]) if others else grid(first)
    return "".join(["<h2>Search</h2>", text(said), shown, *left_out])


def _cut_off(result: Result, space: dict[str, Any], bounds: tuple[float, float]) -> str:
    """What the budget means: how large genomes could be without it."""
    least, most = bounds
    said = f"{most:g} M parameters" if not least else f"{least:g} to {most:g} M parameters"
    said = f"Grey, where in sight, is what the budget of {said} cuts off"
    if result["method"] not in SEARCHED:
        return f"{said}."
    sizes = {name: tuple(space.get(name) or ()) for name in ALL_MODULES}
    blocks, width = len(result["genome"]), figures.token_width(result)
    every = SearchSpace(sizes, tuple(space["depths"]), blocks, width)
    largest = int(every.count(every.largest())) / 1e6
    if largest <= most and not least:
        return (
            f"The budget of {most:g} M parameters cuts nothing off: none has over {largest:.3g} M."
        )
    return f"{said}; the largest genome of the space has {largest:.3g} M."


def _training(workdir, log) -> str:
    curves = losses_by_epoch(log)
    if not curves:
        return ""
    drawn = picture(figures.training(curves), workdir / page.FOLDER)
    return "<h2>Training loss</h2>" + drawn


def losses_by_epoch(log: Sequence[dict[str, Any]]) -> dict[str, dict[int, float]]:
    """Stage → epoch → loss, from the lines of metrics.jsonl."""
    rows = [
        (row.get("stage"), row.get("epoch"), row.get("loss"))
        for row in log
        if isinstance(row.get("epoch"), int) and isinstance(row.get("loss"), float)
    ]
    stages = {
        name: {epoch: loss for stage, epoch, loss in rows if stage == name}
        for name in ("supernet", "retrain")
    }
    return {name: losses for name, losses in stages.items() if losses}


# --- The test ------------------------------------------------------------------------------------


def _test(workdir, result: Result) -> list[str]:
    """Classes and examples; why not, where the predictions are not there."""
    try:
        found = predictions.read(workdir, result)
    except UserError as error:
        return ["<h2>Classes and examples</h2>", note(f"Left out: {error}")]
    return [_classes(workdir / page.FOLDER, found), _examples(found)]


def _classes(folder: pathlib.Path, found: Predictions) -> str:
    profile = picture(figures.classes(found), folder)
    rows = sorted(found.by_class(), key=lambda row: (row[2] / row[1], -row[1], row[0]))
    easy = sorted(rows, key=lambda row: (-row[2] / row[1], -row[1], row[0]))[:_MOST_CLASSES]
    hardest, easiest = (
        page.table(
            ("class", "right", "of", ""),
            [(_name(found, label), str(right), str(n), right / n) for label, n, right in some],
        )
        for some in (rows[:_MOST_CLASSES], easy)
    )
    images = {label: n for label, n, _ in found.by_class()}
    pairs = page.table(
        ("true class", "taken for", "times", "of"),
        [
            (_name(found, label), _name(found, other), str(n), str(images[label]))
            for label, other, n in found.confusions()[:_MOST_PAIRS]
        ],
    )
    matrix = figures.confusion(found)
    confused = f"<h3>Most confused</h3>{pairs}"
    extremes = f"<h3>Hardest</h3>{hardest}<h3>Easiest</h3>{easiest}"
    if matrix:  # all classes are in the profile, by name
        return "<h2>Classes</h2>" + grid(profile + confused, picture(matrix, folder))
    return "<h2>Classes</h2>" + grid(profile + confused, extremes)


def _name(found: Predictions, label: int) -> str:
    return figures.short_name(found.name(label))


def _examples(found: Predictions) -> str:
    groups: dict[bool, list[str]] = {True: [], False: []}
    for example in found.examples:
        label, answer = found.labels[example["index"]], found.predicted[example["index"]]
        caption = _name(found, label)
        if label != answer:
            caption += f", taken for {_name(found, answer)}"
        alt = html.escape(f"{example['name']}: {caption}")
        source = f"data:image/jpeg;base64,{html.escape(example['jpeg'])}"
        kind = "right" if label == answer else "wrong"
        image = f'<img alt="{alt}" title="{alt}" src="{source}">'
        figure = f'<figure class="{kind}">{image}{html.escape(caption)}</figure>'
        groups[bool(label == answer)].append(figure)
    titles = (True, "Right"), (False, "Wrong")
    parts = [
        f'<h3>{title}</h3><div class="photos">{"".join(groups[key])}</div>'
        for key, title in titles
        if groups[key]
    ]
    about = text("Evenly spaced among the test images that are right and those that are wrong.")
    return "".join(["<h2>Examples</h2>", about, *parts]) if parts else ""


# --- Cost, and how to have it again --------------------------------------------------------------


def _cost(result: Result) -> str:
    total = sum(result["stages"].values())
    memory = result.get("memory", {}).get("stages", {})
    rows = []
    for name, seconds in result["stages"].items():
        device = memory.get(name, {}).get("device_mb")
        share = seconds / total if total else 0.0
        peak = "-" if device is None else f"{device:,.0f} MB"
        rows.append((name, f"{seconds:,.1f} s", f"{100 * share:.1f} %", float(share), peak))
    rows.append(("all", f"{total:,.1f} s", "100.0 %", "", ""))
    return "<h2>Cost</h2>" + page.table(("stage", "time", "share", "", "device memory"), rows)


def _is_command(words: Any) -> bool:
    """metrics.jsonl has no checksum."""
    return isinstance(words, list) and all(isinstance(word, str) for word in words)


def _again(result: Result, config: dict[str, Any], log) -> str:
    said = [row["command"] for row in log if _is_command(row.get("command"))]
    commands = [" \\\n  ".join(map(shlex.quote, words)) for words in said]
    commands = [line.replace(" \\\n  ", " ", 2) for line in dict.fromkeys(commands)]
    if commands:
        words = f"In the folder of noah_jax {result.get('versions', {}).get('noah_jax', '')}"
        words += ", with the same images and weights, in an empty workdir:"
        if len(said) > 1:
            words = f"The run was started {len(said)} times, and went on. {words}"
        shown = "".join(f"<pre>{html.escape(command)}</pre>" for command in commands)
    else:
        words, shown = "The command was not kept; the settings are all that it depends on.", ""
    made = ("versions", "devices", "inputs")
    rows = {key: json.dumps(config[key]) for key in config}
    rows |= {key: json.dumps(result[key]) for key in made if key in result}
    settings = f"<details><summary>All settings, versions, inputs</summary>{facts(rows)}</details>"
    return "<h2>The same again</h2>" + text(words) + shown + settings + page.kept()
