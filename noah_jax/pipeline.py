"""The stages of a run, in order, and what each leaves in the workdir.

    config.json  metrics.jsonl  .lock   from the start
    supernet/                           checkpoints of the supernet          (NOAH only)
    search/gen_000.json …  best.json    the search, and the genome it found  (NOAH only)
    retrain/                            checkpoints of the subnet
    test.json                           the test's sums, until it is finished
    result.json  report.html            the end

A stage whose output is there is not run again; an interrupted one goes on where it was. A damaged
output that is needed is renamed to <name>.damaged and made again.
"""

import dataclasses
import json
import pathlib
from typing import Any

import numpy as np

from noah_jax import evaluation, interop, loader, loop, outcome, processes, report, search
from noah_jax.augment import Augmented
from noah_jax.checkpoint import Checkpoints
from noah_jax.errors import UserError
from noah_jax.run import TRAINED_ON, Run, prepare, refuse_other_config
from noah_jax.settings import Config
from noah_jax.space import MODULES
from noah_jax.tasks import TASKS
from noah_jax.workdir import claim, make_folder, read_json, refuse_if_claimed, write_json
from noah_jax.writer import Writer


def check(config: Config, workdir: pathlib.Path) -> None:
    """Looks at all inputs of a run, and writes nothing.

    Raises:
      UserError: something is wrong with them, or another run is in the workdir.
    """
    refuse_if_claimed(workdir)
    refuse_other_config(config, workdir)
    if not processes.from_main((workdir / "result.json").is_file):
        prepare(config, workdir)


def run(config: Config, workdir: pathlib.Path) -> dict[str, Any] | None:
    """Runs the stages up to `config.stage`.

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
    stages = prepare(config, workdir)
    make_folder(workdir, parents=True)
    with claim(workdir, stages.writer.say):
        refuse_other_config(config, workdir, stages.inputs)  # another run may have been here
        settings = dataclasses.asdict(stages.config) | {"inputs": stages.inputs}
        write_json(workdir / "config.json", settings)
        _announce(stages)
        if not _stages(stages):
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
    for warning in source.warnings:
        say(f"  warning: {warning}")


def _stages(stages: Run) -> bool:
    """Whether the last stage was asked for, and is done."""
    config, best = stages.config, None
    if config.genome:
        genome = interop.read_genome(config.genome, stages.space.blocks)
    elif config.method == "noah":
        best = _search(stages)
        if config.stage in ("supernet", "search"):
            return False
        genome = np.array(best["genome"], np.int32)
    else:
        genome = stages.space.smallest()
    params, network = _retrain(stages, genome)
    if config.stage == "retrain":
        return False
    outcome.evaluate(stages, network, params, genome, best)
    return True


def _report(workdir: pathlib.Path) -> None:
    if processes.is_main():
        report.write(workdir)


def _search(stages: Run) -> dict[str, Any] | None:
    """Supernet and search; None if only the supernet was asked for."""
    config, workdir, space = stages.config, stages.workdir, stages.space
    best_file = workdir / "best.json"
    if best := read_json(best_file, stages.writer.say):
        return best
    network = stages.network(space.max_sizes, "supernet init")

    seed = stages.seed("genomes")

    def genomes(step):
        rng = np.random.default_rng([seed, step])
        return space.sample(rng, config.supernet.genomes_per_step)

    with stages.writer.stage("supernet"):
        params = _fit(stages, "supernet", network, genomes)
    if config.stage == "supernet":
        return None
    with stages.writer.stage("search"):
        judge = evaluation.population_evaluator(
            network, params, stages.batches(stages.source.splits["val"]), config.search, stages.mesh
        )
        ranked = search.evolve(
            space,
            config.search,
            judge,
            stages.seed("search"),
            workdir / "search",
            stages.writer,
        )
    best = ranked[0].to_json() | {"evaluated": len(ranked)}
    write_json(best_file, best)
    return best


def _retrain(stages: Run, genome: np.ndarray):
    """The genome trained on train + val from the original weights, with parameters of its size."""
    sizes = dict(zip(MODULES, genome.max(axis=0).tolist(), strict=True))
    network = stages.network(sizes, "retrain init")
    with stages.writer.stage("retrain"):
        purpose = json.dumps(genome.tolist())
        params = _fit(stages, "retrain", network, lambda step: genome[None], purpose)
    return params, network


def _fit(stages: Run, stage: str, network, genomes, purpose: str = ""):
    config, writer = stages.config, stages.writer
    split = stages.source.splits[TRAINED_ON[stage]]
    if config.augmentation == "randaugment":
        examples = Augmented(split, config.image_size, stages.source.num_classes)
    else:
        examples = loader.load(split, config.image_size, config.center_crop)
    return loop.fit(
        stage,
        network,
        examples,
        stages.schedule(stage),
        genomes,
        stages.seed(stage),
        Checkpoints(stages.workdir / stage, writer.say, purpose),
        config.checkpoint_seconds,
        stages.mesh,
        writer,
    )
