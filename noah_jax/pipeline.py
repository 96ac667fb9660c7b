"""The stages of a run, in order, and the files that they leave in the workdir.

    config.json  metrics.jsonl  .lock   settings, log and lock, from the start
    supernet/                           checkpoints of the supernet       (noah, random)
    tuning/                             checkpoints of the candidates     (tuned…)
    search/gen_000.json …               evaluated genomes                 (noah, random, tuned…)
    front.json                          the best at each number of parameters, if asked for
    best.json                           the genome that was found         (methods that find one)
    retrain/                            checkpoints of the subnet
    calibration/  calibration.json      the same without validation images, and the temperature that
                                        is fitted on these                (calibrate)
    test.json                           the test so far, until it is finished
    predictions.json                    the prediction for each test image
    subnet.json  subnet.safetensors     the subnet, for export, predict and other programs
    result.json                         the result
    figures/  report.html               the result for people

A stage whose output is there is not run again. An interrupted stage goes on where it was. A damaged
output that is needed is renamed to <name>.damaged and made again.
"""

import dataclasses
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from noah_jax import report
from noah_jax.config.settings import FOUND, Config
from noah_jax.data.loader import Source
from noah_jax.data.tasks import TASKS
from noah_jax.errors import UserError, joined
from noah_jax.runtime import backend, processes
from noah_jax.runtime.workdir import claim, make_folder, read_json, refuse_if_claimed, write_json
from noah_jax.runtime.writer import Writer
from noah_jax.search import methods, supernet
from noah_jax.space import files
from noah_jax.training import calibration, outcome
from noah_jax.training.forecast import forecast
from noah_jax.training.opening import moved, open_run, refuse_other_config
from noah_jax.training.result import Result
from noah_jax.training.run import Run


def check(config: Config, workdir: pathlib.Path) -> None:
    """Checks all inputs of a run, and writes nothing.

    Raises:
      UserError: an input is wrong, or the workdir belongs to another run.
    """
    refuse_if_claimed(workdir)
    refuse_other_config(config, workdir)
    finished = processes.from_main((workdir / "result.json").is_file) and not config.calibrate
    if not finished or moved(config, workdir):
        open_run(config, workdir)


def run(
    config: Config,
    workdir: pathlib.Path,
    source: Source | None = None,
    command: Sequence[str] = (),
) -> Result | None:
    """Runs the stages up to `config.stage`.

    Args:
      source: the images; None = those of `config.task`.
      command: the words of the command that started the run, for the report.

    Returns:
      The contents of `result.json`; None if `config.stage` is an earlier stage.

    Raises:
      UserError: an input is wrong, which is found before anything is written; the training
        diverges; or something cannot be written.
      Preempted: a signal came; what could be saved is saved.
    """
    refuse_if_claimed(workdir)
    refuse_other_config(config, workdir)
    result_file = workdir / "result.json"
    result = read_json(result_file, Writer(workdir).say)
    if config.stage == "report" or _finished(config, result):
        if result is None:
            raise UserError(f"stage=report: there is no {result_file}; run the other stages first")
        if config.stage != "report" and (source or moved(config, workdir)):
            opened = open_run(config, workdir, source)  # raises if these are other inputs
            if result["class_names"] != list(opened.source.class_names):
                raise UserError(
                    f"{result_file} has other class names: delete it and run the command again, "
                    "which repeats the test only"
                )
            _keep_settings(opened)
        if config.stage == "report" or not (workdir / "report.html").is_file():
            _report(workdir)
        return result
    opened = open_run(config, workdir, source)
    make_folder(workdir, parents=True)
    with claim(workdir, opened.writer.say):
        refuse_other_config(config, workdir, opened.inputs)  # another run may have claimed it first
        settings = _keep_settings(opened)
        if command:
            opened.writer.log(command=list(command))
        _announce(opened)
        with opened.writer.tracking(config.trackers, settings):
            finished = _run_stages(opened)
        if not finished:
            return None
        _report(workdir)
    return read_json(result_file)


def _finished(config: Config, result: Result | None) -> bool:
    """Tells whether all is done; to calibrate a finished run, only its test is run again."""
    calibrated = config.stage != "all" or not config.calibrate or "temperature" in (result or {})
    return result is not None and calibrated


def _keep_settings(run: Run) -> dict[str, Any]:
    """Writes the settings, with the places where the inputs are now, and returns them."""
    settings = dataclasses.asdict(run.config) | {"inputs": run.inputs}
    write_json(run.workdir / "config.json", settings)
    return settings


def _announce(run: Run) -> None:
    """Says what the run is about to do, and what is odd about its data, weights and machine."""
    config, source, say = run.config, run.source, run.writer.say
    counts = ", ".join(f"{len(source.splits[name])} {name}" for name in ("train", "val", "test"))
    names = f" ({joined(source.class_names, most=5)})" if source.class_names else ""
    say(
        f"{config.task}: {config.method}, seed {config.seed}, {counts} images of "
        f"{source.num_classes} classes{names}, in {run.workdir}"
        + "".join(f"; {note}" for note in source.notes)
    )
    if config.method in FOUND and not config.genome:
        say(f"  budget: {config.search.limits}{_sizes_of_genomes(run)}")
    wanted = TASKS[config.task].more_tests if config.task in TASKS else ()
    if absent := [name for name in wanted if name not in source.more_tests]:
        say(f"  not there, so not tested: {', '.join(absent)}")
    machine = filter(None, [backend.unused_accelerator()])
    for warning in (*machine, *source.warnings, *run.notes):
        say(f"  warning: {warning}")
    if processes.is_main():
        for line in forecast(run):
            say(f"  {line}")


def _sizes_of_genomes(run: Run) -> str:
    """Says which sizes the budget chooses from, if there is a search space."""
    if not run.config.has_supernet:
        return ""
    least, most = (
        run.space.count(end) / 1e6 for end in (run.space.smallest(), run.space.largest())
    )
    return f" in prompt modules; the space has genomes of {least:.4f} to {most:.4f} M"


def _run_stages(run: Run) -> bool:
    """Runs the stages; returns True if the last of them, the test, is done."""
    config, best = run.config, None
    if config.genome:
        genome = files.read_genome(config.genome, run.space.blocks)
    elif config.method in FOUND:
        best = methods.find(run)
        if best is None or config.stage in ("supernet", "search"):
            return False
        genome = np.array(best["genome"], np.int32)
    else:
        genome = run.space.smallest()
    with run.writer.stage("retrain"):
        start = supernet.average(supernet.train(run)) if config.inherits else None
        split, folder = run.source.splits["trainval"], run.workdir / "retrain"
        params, network = run.fit_genome("retrain", genome, split, folder, start)
    if config.stage == "retrain":
        return False
    temperature = None
    if config.calibrate:
        temperature = calibration.temperature(run, network, params, genome, start)
    outcome.test_subnet(run, network, params, genome, best, temperature)
    return True


def _report(workdir: pathlib.Path) -> None:
    if processes.is_main():
        report.write(workdir)
