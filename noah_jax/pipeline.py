"""The stages of a run, in order, and what each leaves in the workdir.

    config.json  metrics.jsonl  .lock   from the start
    supernet/                           checkpoints of the supernet       (noah, random)
    tuning/                             checkpoints of the candidates     (tuned…)
    search/gen_000.json …               what was evaluated                (these)
    front.json                          the best at each number of parameters, if asked for
    best.json                           the genome that was found         (all that find one)
    retrain/                            checkpoints of the subnet
    test.json                           the test so far, until it is finished
    predictions.json                    what was predicted for the test images
    result.json                         the end
    figures/  report.html               the same for people

A stage whose output is there is not run again; an interrupted one goes on where it was. A damaged
output that is needed is renamed to <name>.damaged and made again.
"""

import dataclasses
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from noah_jax import report, search
from noah_jax.config.settings import FOUND, SEARCHED, TUNED, Config
from noah_jax.data.loader import Source
from noah_jax.data.tasks import TASKS
from noah_jax.errors import UserError
from noah_jax.runtime import backend, processes
from noah_jax.runtime.workdir import claim, make_folder, read_json, refuse_if_claimed, write_json
from noah_jax.runtime.writer import Writer
from noah_jax.search import baselines, evolution, supernet
from noah_jax.space import candidates, files
from noah_jax.space.genomes import uniform
from noah_jax.training import outcome
from noah_jax.training.opening import open_run, refuse_other_config
from noah_jax.training.run import Run


def check(config: Config, workdir: pathlib.Path) -> None:
    """Looks at all inputs of a run, and writes nothing.

    Raises:
      UserError: something is wrong with them, or another run is in the workdir.
    """
    refuse_if_claimed(workdir)
    refuse_other_config(config, workdir)
    if not processes.from_main((workdir / "result.json").is_file):
        open_run(config, workdir)


def run(
    config: Config,
    workdir: pathlib.Path,
    source: Source | None = None,
    command: Sequence[str] = (),
) -> dict[str, Any] | None:
    """Runs the stages up to `config.stage`.

    Args:
      source: the images; None = those of `config.task`.
      command: the words that it was started with, for the report.

    Returns:
      What `result.json` holds, or None if an earlier stage was asked for as the last.

    Raises:
      UserError: something is wrong with the input, before anything is written; the training
        diverges; or something cannot be written.
      Preempted: a signal came; what could be saved is.
    """
    refuse_if_claimed(workdir)
    refuse_other_config(config, workdir)
    result_file = workdir / "result.json"
    result = read_json(result_file, Writer(workdir).say)
    if config.stage == "report" or result is not None:
        if result is None:
            raise UserError(f"stage=report: there is no {result_file}; run the other stages first")
        if config.stage == "report" or not (workdir / "report.html").is_file():
            _report(workdir)
        return result
    stages = open_run(config, workdir, source)
    make_folder(workdir, parents=True)
    with claim(workdir, stages.writer.say):
        refuse_other_config(config, workdir, stages.inputs)  # another run may have been here
        settings = dataclasses.asdict(stages.config) | {"inputs": stages.inputs}
        write_json(workdir / "config.json", settings)
        if command:
            stages.writer.log(command=list(command))
        _announce(stages)
        with stages.writer.tracking(config.trackers, settings):
            finished = _stages(stages)
        if not finished:
            return None
        _report(workdir)
    return read_json(result_file)


def _announce(stages: Run) -> None:
    config, source, say = stages.config, stages.source, stages.writer.say
    counts = ", ".join(f"{len(source.splits[name])} {name}" for name in ("train", "val", "test"))
    say(
        f"{config.task}: {config.method}, seed {config.seed}, {counts} images of "
        f"{source.num_classes} classes, in {stages.workdir}"
    )
    wanted = TASKS[config.task].more_tests if config.task in TASKS else ()
    if absent := [name for name in wanted if name not in source.more_tests]:
        say(f"  not there, so not tested: {', '.join(absent)}")
    for warning in (*filter(None, [backend.unused()]), *source.warnings):
        say(f"  warning: {warning}")


def _stages(stages: Run) -> bool:
    """Whether the last stage was asked for, and is done."""
    config, best = stages.config, None
    if config.genome:
        genome = files.read_genome(config.genome, stages.space.blocks)
    elif config.method in FOUND:
        best = _find(stages)
        if config.stage in ("supernet", "search"):
            return False
        genome = np.array(best["genome"], np.int32)
    else:
        genome = stages.space.smallest()
    with stages.writer.stage("retrain"):
        start = supernet.average(supernet.train(stages)) if config.inherits else None
        split, folder = stages.source.splits["trainval"], stages.workdir / "retrain"
        params, network = stages.fit_genome("retrain", genome, split, folder, start)
    if config.stage == "retrain":
        return False
    outcome.test_subnet(stages, network, params, genome, best)
    return True


def _report(workdir: pathlib.Path) -> None:
    if processes.is_main():
        report.write(workdir)


def _find(stages: Run) -> dict[str, Any] | None:
    """What is in `best.json`; None if only the supernet was asked for."""
    path, config = stages.workdir / "best.json", stages.config
    if best := read_json(path, stages.writer.say):
        return best
    if config.method in SEARCHED:
        best = _search(stages)
    elif config.method in TUNED:
        with stages.writer.stage("search"):
            tuned = baselines.tune(stages)
        best = tuned[0].to_json() | {"evaluated": len(tuned)}
    else:
        budget, space = config.search.budget, stages.space
        with stages.writer.stage("search"):
            if config.method == "uniform":
                genome = uniform(budget, space.blocks, space.width)
            else:
                genome = baselines.allot(space, baselines.scores(stages), budget)
        params, (least, most) = int(space.count(genome)), config.search.bounds
        if not genome.any() or not least <= params <= most:
            raise UserError(
                f"{config.method} finds only a genome of {params / 1e6:.4f} M parameters between "
                f"search.least_millions={config.search.least_millions} and "
                f"search.budget_millions={config.search.budget_millions}: change these"
            )
        best = {"genome": genome.tolist(), "params": params}
    if best:
        write_json(path, best)
    return best


def _search(stages: Run) -> dict[str, Any] | None:
    """Supernet and search."""
    config, workdir = stages.config, stages.workdir
    with stages.writer.stage("supernet"):
        trained = supernet.train(stages)
    if config.stage == "supernet":
        return None
    settings = config.search
    if config.method == "random":
        settings = dataclasses.replace(settings, mutations=0, crossovers=0)
    with stages.writer.stage("search"):
        judge, seed = supernet.judge(stages, trained), stages.seed("search")
        ranked = search.evolve(
            stages.space, settings, judge, seed, workdir / "search", stages.writer
        )
    evaluated = {"evaluated": len(ranked)}
    if settings.objective == "pareto":
        front = candidates.pareto_front(ranked)
        points = [{"name": f"p{i}"} | point.to_json() for i, point in enumerate(front, 1)]
        write_json(workdir / "front.json", {"points": points} | evaluated)
        ranked = evolution.within_budget(ranked, settings)
    return ranked[0].to_json() | evaluated
