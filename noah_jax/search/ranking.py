"""Measures how far a supernet can be trusted; see `__main__.py`, which has the command."""

import dataclasses
import io
import pathlib
import time
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import matplotlib.figure
import numpy as np
import scipy.stats

from noah_jax.config import from_json
from noah_jax.errors import UserError
from noah_jax.runtime.workdir import claim, make_folder, read_json, write_bytes, write_json
from noah_jax.runtime.writer import Writer
from noah_jax.search import supernet
from noah_jax.search.places import PLACES
from noah_jax.space.candidates import Candidate
from noah_jax.training import opening, outcome
from noah_jax.training.run import Run

_RESAMPLES = 2000


def rank(run: Run, genomes: int, retrained: pathlib.Path | None = None) -> dict:
    """Compares the supernet's order of genomes with that of their retrained subnets.

    Args:
      run: one that has trained its supernet; see `open_run`.
      genomes: how many to compare, at least 3.
      retrained: a workdir whose `rank.json` has retrained subnets to use.

    Returns:
      The contents of `rank.json`: settings, the `summary`, and a point for each genome.

    Raises:
      UserError: `retrained` has another recipe, or something cannot be written.
      Preempted: a signal came; the subnets that are retrained are saved.
    """
    workdir = run.workdir
    known = (_known(run, retrained) if retrained else {}) | _known(run, workdir)
    with claim(workdir, run.writer.say):
        spread = _spread(run, genomes)
        evaluate = supernet.evaluator(run, supernet.train(run))
        accuracies, losses = (np.concatenate(part) for part in zip(*evaluate(spread), strict=True))
        points, recipe = [], {"retrain": _recipe(run)}
        make_folder(workdir / "rank")
        with run.writer.progress("rank", len(spread), 0, "genomes") as progress:
            for genome, accuracy, loss in zip(spread, accuracies, losses, strict=True):
                params, key = int(run.space.count(genome)), str(genome.tolist())
                if new := key not in known:
                    known[key] = _retrain(run, genome, workdir / "rank" / f"{params}")
                found = Candidate(genome, params, float(accuracy), float(loss)).to_json()
                points.append(found | {"test_accuracy": known[key]})
                if new:
                    write_json(workdir / "rank.json", recipe | _results(points, known))
                progress.update(1)
        settings = dataclasses.asdict(run.config)
        found = {key: settings[key] for key in ("supernet", "space")} | recipe | summary(points)
        found |= outcome.computed_by() | _results(points, known)
        write_json(workdir / "rank.json", found)
        write_bytes(workdir / "rank.png", _plot(points, found))
    return found


def _spread(run: Run, genomes: int) -> np.ndarray:
    """Draws the genomes to compare, int32 `[n, blocks, columns]`, smallest first."""
    space, rng = run.space, np.random.default_rng(run.seed("rank"))
    least, largest = (int(space.count(genome)) for genome in (space.smallest(), space.largest()))
    spread = space.sample_spread(rng, genomes, least, min(run.config.search.limits.most, largest))
    if len(spread) < genomes:
        run.writer.say(f"  rank: the space has genomes in {len(spread)} of {genomes} equal parts")
    if len(spread) < 3:  # too few to have an order
        raise UserError("rank: too few genomes; raise search.budget_millions, or widen the space")
    return spread


def summary(points: list[dict]) -> dict:
    """Computes Kendall's tau-b of test accuracy with validation accuracy and with validation loss.

    The sign of the loss is turned, so that 1 means the same order in both. The 95 % intervals come
    from resampling the genomes.

    Args:
      points: dicts with the keys `test_accuracy`, `val_accuracy` and `val_loss`.

    Returns:
      `tau` and `tau_loss`, each with the keys `tau`, `low` and `high`; None = not defined.
    """
    test, accuracy, loss = (
        np.array([point[key] for point in points], float)
        for key in ("test_accuracy", "val_accuracy", "val_loss")
    )
    found = {}
    for name, values in (("tau", accuracy), ("tau_loss", -loss)):
        rows = np.random.default_rng(0).integers(len(points), size=(_RESAMPLES, len(points)))
        taus = [_tau(values[row], test[row]) for row in rows]
        low, high = np.nanpercentile(taus, [2.5, 97.5]) if np.isfinite(taus).any() else (None, None)
        tau = _tau(values, test)
        tau = None if np.isnan(tau) else tau  # JSON has no other numbers
        found[name] = {"tau": tau, "low": low, "high": high}
    return found


def _tau(values: np.ndarray, others: np.ndarray) -> float:
    """Kendall's tau-b; NaN if all values on one side are equal."""
    return float(scipy.stats.kendalltau(values, others).statistic)


def told(tau: dict) -> str:
    """Writes a tau and its interval for people."""
    if tau["tau"] is None:
        return "not defined, since all are equal"
    return f"{tau['tau']:.2f} (95 % {tau['low']:.2f} … {tau['high']:.2f})"


def open_run(workdir: pathlib.Path, places: Mapping[str, Any] = MappingProxyType({})) -> Run:
    """Opens the run that the workdir belongs to, for its supernet.

    Args:
      places: where the inputs are now, by the names of `places.add_places`; None = where they were.

    Raises:
      UserError: the workdir holds no supernet, or its inputs are not there or have changed.
    """
    saved = read_json(workdir / "config.json")
    if saved is None or not (workdir / "supernet").is_dir():
        raise UserError(f"{workdir} holds no supernet: run --config.stage=supernet there first")
    saved.pop("inputs", None)
    for key in PLACES:
        if places.get(key) is not None:
            saved[key] = places[key]
    try:
        return opening.open_run(from_json(saved), workdir)
    except UserError as error:
        raise UserError(
            f"{error}\nIf the images or the weights are somewhere else now, say where with "
            "--data_dir=FOLDER (and --task=NAME, the folder in it) and --weights=FILE"
        ) from error


def _recipe(run: Run) -> dict:
    """Everything that the retrained accuracies depend on."""
    keys = "seed backbone image_size normalisation augmentation center_crop drop_path dropout"
    recipe = {key: getattr(run.config, key) for key in keys.split()} | {"inputs": run.inputs}
    schedule = {key: value for key, value in vars(run.config.retrain).items() if key != "inherit"}
    return recipe | {"schedule": schedule, "dtype": run.vit.dtype}


def _known(run: Run, workdir: pathlib.Path) -> dict[str, float]:
    """Reads the test accuracies of the subnets that were retrained before, by genome."""
    path = workdir / "rank.json"
    saved = read_json(path, run.writer.say)
    if saved is None:
        return {}
    recipe = {key: value for key, value in saved["retrain"].items() if key != "task"}  # its name
    if recipe != _recipe(run):
        raise UserError(f"{path} is of another recipe for retraining: {saved['retrain']}")
    known = {str(point["genome"]): point["test_accuracy"] for point in saved["points"]}
    return known | saved.get("others", {})


def _results(points: list[dict], known: dict[str, float]) -> dict:
    """The points, and the accuracies of other subnets, retrained for another number of genomes."""
    own = {str(point["genome"]) for point in points}
    others = {key: accuracy for key, accuracy in known.items() if key not in own}
    return {"points": points} | ({"others": others} if others else {})


def _retrain(run: Run, genome: np.ndarray, folder: pathlib.Path) -> float:
    run = dataclasses.replace(run, writer=Writer(folder.parent))  # the run's own log stays as it is
    start, splits = time.monotonic(), run.source.splits
    params, network = run.fit_genome("retrain", genome, splits["trainval"], folder)
    accuracy, _ = run.evaluate(network, params, genome, splits["test"])
    run.writer.log(
        stage="rank",
        params=int(run.space.count(genome)),
        test_accuracy=float(accuracy[0]),
        took=round(time.monotonic() - start, 2),
    )
    return float(accuracy[0])


def _plot(points: list[dict], found: dict) -> bytes:
    """Draws a PNG: each genome's two accuracies, coloured by its number of parameters."""
    figure = matplotlib.figure.Figure(figsize=(6, 5), layout="constrained")
    axis = figure.subplots()
    x, y, params = (
        [100 * point[key] for point in points]
        for key in ("val_accuracy", "test_accuracy", "params")
    )
    dots = axis.scatter(x, y, c=np.array(params) / 1e8, cmap="viridis", s=40)
    figure.colorbar(dots, label="parameters (M), head excluded")
    axis.set(
        xlabel="validation accuracy (%), inherited weights",
        ylabel="test accuracy (%), retrained",
        title=f"Kendall's tau {told(found['tau'])}",
    )
    axis.spines[["top", "right"]].set_visible(False)
    data = io.BytesIO()
    figure.savefig(data, format="png", dpi=150)
    return data.getvalue()
