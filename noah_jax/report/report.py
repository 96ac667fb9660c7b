"""Writes `report.html` in the workdir of a finished run, from the files that the run left there."""

import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np

from noah_jax import uncertainty
from noah_jax.config.settings import SEARCHED
from noah_jax.errors import UserError
from noah_jax.report import calibration, figures, page, search_figures
from noah_jax.report.page import picture
from noah_jax.report.tables import published
from noah_jax.report.usage import commands, of_model
from noah_jax.runtime.durations import duration
from noah_jax.runtime.workdir import read_json_here, read_lines
from noah_jax.space import SearchSpace
from noah_jax.space.candidates import Candidate
from noah_jax.space.genomes import ALL_MODULES
from noah_jax.training import predictions
from noah_jax.training.predictions import Predictions
from noah_jax.training.result import Result

_PERCENT = "\N{NO-BREAK SPACE}%"
_MOST_PAIRS, _MOST_CLASSES = 10, 6

Values = dict[str, Any]  # the values of a template, by the names that it uses
Log = Sequence[dict[str, Any]]  # the lines of metrics.jsonl


def write(workdir: pathlib.Path) -> pathlib.Path:
    """Writes `report.html`, one file without outside links, and `figures/`.

    Raises:
      UserError: the result or the settings are damaged, or something cannot be written.
    """
    result: Result = read_json_here(workdir / "result.json")
    config = read_json_here(workdir / "config.json")
    log = read_lines(workdir / "metrics.jsonl")
    values: Values = {
        "title": f"{result['method']} on {result['task']}, seed {result['seed']}",
        "result": result,
        "interval": _interval(result["test_accuracy"], result["images"]["test"]),
        "cost": _cost(result),
    }
    with matplotlib.rc_context(figures.STYLE):
        values |= _drawings(workdir, result, log)
        values |= _search(workdir, result, config)
        values |= _test(workdir, result)
    values["summary"] = _summary(result, _validation(result, config, values["search"]))
    started = commands(log)
    values |= {"starts": len(started), "commands": list(dict.fromkeys(started))}
    values |= {"use": of_model(workdir, config)} | _settings(result, config)
    return page.write(workdir / "report.html", "report.html", values)


def _summary(result: Result, validation: str) -> dict[str, str]:
    correct = round(result["test_accuracy"] * (tests := result["images"]["test"]))
    rows = {
        "Test": f"{correct} of {tests} images right (last epoch)",
        "Parameters": f"{result['params']:,} in prompt modules, {result['head_params']:,} in the "
        f"head; {result['params_noah_count']:,} as the original counts",
        "Backbone": f"{result['backbone']}, {result['image_size']} px, "
        f"{result['normalisation']} normalisation, {result['dtype']}, {result['encoding']} images",
        "Time": f"{duration(sum(result['stages'].values()))} on "
        f"{len(result['devices'])} × {result['devices'][0]}",
    }
    if validation:
        rows["Validation"] = validation
    if figure := published(result):
        rows["Published"] = f"{figure:.1f} % (NOAH, table 1)"
    for name, test in result["more_tests"].items():
        among = f" among its {test['classes']} classes" if "classes" in test else ""
        rows[name] = (
            f"{100 * test['accuracy']:.2f} % of {test['images']} images right{among} "
            f"({_interval(test['accuracy'], test['images'])})"
        )
        if "accuracy_among_all" in test:
            rows[name] += (
                f", {100 * test['accuracy_among_all']:.2f} % among all "
                f"({_interval(test['accuracy_among_all'], test['images'])})"
            )
    if result["warnings"]:
        rows["Warnings"] = "; ".join(result["warnings"])
    return rows


def _interval(accuracy: float, images: int) -> str:
    """The 95 % interval of an accuracy on so many images, in words."""
    low, high = uncertainty.of_share(round(accuracy * images), images)
    return f"95{_PERCENT} interval {100 * low:.2f} to {100 * high:.2f}{_PERCENT}"


def _validation(result: Result, config: Mapping[str, Any], search: Values | None) -> str:
    """Explains the validation accuracy and why it differs from the test's; empty without one."""
    accuracy = result["val_accuracy"]
    if accuracy is None:
        return ""
    folds = config["search"].get("folds", 1)
    images = result["images"]["val" if folds == 1 else "trainval"]
    said = f"{100 * accuracy:.2f} % of {images} images right ({_interval(accuracy, images)}). "
    if search and search["count"] > 1:
        said += (
            f"This figure picked the genome from {search['count']}, so it is optimistic: the first "
            "of many owes something to chance. "
        )
    if result["method"] in SEARCHED:
        measured = "in the supernet, whose weights serve all genomes at once and are tuned to none"
    else:
        measured = "after training on the training images alone"
    said += (
        f"It was measured {measured}. For the test the genome was trained by itself, on training "
        "and validation images, which as a rule makes it better."
    )
    return said


def _cost(result: Result) -> list[tuple[str, str, str, float | str, str]]:
    """The rows of the table of stages: name, time, share, share as a bar, memory."""
    total = sum(result["stages"].values())
    memory = result.get("memory", {}).get("stages", {})
    rows: list[tuple[str, str, str, float | str, str]] = []
    for name, seconds in result["stages"].items():
        device = memory.get(name, {}).get("device_mb")
        share = seconds / total if total else 0.0
        peak = "-" if device is None else f"{device:,.0f} MB"
        rows.append((name, f"{seconds:,.1f} s", f"{100 * share:.1f} %", float(share), peak))
    return [*rows, ("all", f"{total:,.1f} s", "100.0 %", "", "")]


def _drawings(workdir: pathlib.Path, result: Result, log: Log) -> Values:
    """The subnet's architecture and its training; None where there is nothing to see."""
    curves = losses_by_epoch(log)
    drawings = {
        "architecture": figures.architecture(result) if np.any(result["genome"]) else None,
        "training": figures.training(curves) if curves else None,
    }
    return {name: drawing and picture(drawing, workdir) for name, drawing in drawings.items()}


def losses_by_epoch(log: Log) -> dict[str, dict[int, float]]:
    """Reads stage → epoch → loss from the lines of metrics.jsonl."""
    names = ("supernet", "retrain")
    stages: dict[str, dict[int, float]] = {name: {} for name in names}
    for row in log:
        stage, epoch, loss = (row.get(key) for key in ("stage", "epoch", "loss"))
        if stage in names and isinstance(epoch, int) and isinstance(loss, float):
            stages[stage][epoch] = loss
    return {name: losses for name, losses in stages.items() if losses}


# --- The search ----------------------------------------------------------------------------------


def _search(workdir: pathlib.Path, result: Result, config: Mapping[str, Any]) -> Values:
    """The drawings of the search, None without one; and messages about files that are damaged."""
    generations: dict[int, list[Candidate]] = {}
    unread = []
    for path in sorted((workdir / "search").glob("gen_*.json")):
        try:
            saved = read_json_here(path)
            candidates = [Candidate.from_json(value) for value in saved["candidates"]]
            generations[saved["generation"]] = candidates
        except UserError as error:
            unread.append(str(error))
    count = sum(map(len, generations.values()))
    if not count:
        return {"search": None, "unread": unread}
    settings = config["search"]
    bounds = settings.get("least_millions", 0.0), settings["budget_millions"]
    drawings = {"all": search_figures.search(generations, result, bounds)}
    if len(generations) > 1:
        drawings["progress"] = search_figures.progress(generations)
        drawings["by_generation"] = search_figures.by_generation(generations, bounds)
    search = {
        "count": count,
        "generations": len(generations),
        "budget": _cut_off(result, config["space"], bounds),
        "drawings": {name: picture(drawing, workdir) for name, drawing in drawings.items()},
    }
    return {"search": search, "unread": unread}


def _cut_off(result: Result, space: Mapping[str, Any], bounds: tuple[float, float]) -> str:
    """A sentence on the budget, which says how large genomes could be without it."""
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


# --- The test ------------------------------------------------------------------------------------


def _test(workdir: pathlib.Path, result: Result) -> Values:
    """The classes and examples of the test, or a message if the predictions are not there."""
    try:
        test = predictions.read(workdir, result)
    except UserError as error:
        nothing: Values = {"classes": None, "examples": {}, "calibration": None}
        return {"no_predictions": str(error)} | nothing
    shown = calibration.shown(workdir, result, test)
    values = {"classes": _classes(workdir, test), "examples": _examples(test), "calibration": shown}
    return {"no_predictions": ""} | values


def _classes(workdir: pathlib.Path, test: Predictions) -> Values:
    """Drawings of the classes, and rows of tables: the extremes, and the most confused pairs."""
    by_class = test.by_class()
    hardest = sorted(by_class, key=lambda row: (row[2] / row[1], -row[1], row[0]))
    easiest = sorted(by_class, key=lambda row: (-row[2] / row[1], -row[1], row[0]))
    images = {label: count for label, count, _ in by_class}
    matrix = figures.confusion(test)
    return {
        "profile": picture(figures.classes(test), workdir),
        "confusion": matrix and picture(matrix, workdir),
        "confused": [
            (_name(test, label), _name(test, other), str(times), str(images[label]))
            for label, other, times in test.confusions()[:_MOST_PAIRS]
        ],
    } | {
        name: [
            (_name(test, label), str(right), str(count), right / count)
            for label, count, right in rows[:_MOST_CLASSES]
        ]
        for name, rows in (("hardest", hardest), ("easiest", easiest))
    }


def _name(test: Predictions, label: int) -> str:
    return figures.short_name(test.name(label))


def _examples(test: Predictions) -> dict[str, list[dict[str, str]]]:
    """The example images with captions, grouped into right and wrong ones."""
    groups: dict[str, list[dict[str, str]]] = {"right": [], "wrong": []}
    for example in test.examples:
        label, answer = test.labels[example["index"]], test.predicted[example["index"]]
        caption = _name(test, label)
        if label != answer:
            caption += f", taken for {_name(test, answer)}"
        groups["right" if label == answer else "wrong"].append(example | {"caption": caption})
    return {kind: images for kind, images in groups.items() if images}


# --- How to repeat the run -----------------------------------------------------------------------


def _settings(result: Result, config: Mapping[str, Any]) -> Values:
    """Everything that the result depends on, as JSON."""
    made = ("versions", "devices", "inputs")
    settings = {key: json.dumps(value) for key, value in config.items()}
    settings |= {key: json.dumps(result.get(key)) for key in made if key in result}
    version = result.get("versions", {}).get("noah_jax", "")
    return {"settings": settings, "version": version}
