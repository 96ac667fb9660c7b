"""The stages of a run, in order, and what each leaves in the workdir.

    config.json  metrics.jsonl          from the start
    supernet/                           checkpoints of the supernet          (NOAH only)
    search/gen_000.json …  best.json    the search, and the genome it found  (NOAH only)
    retrain/                            checkpoints of the subnet
    result.json  report.html            the end

A stage whose output is there is not run again; an interrupted one goes on where it was.
"""

import dataclasses
import functools
import pathlib
import platform
from collections.abc import Iterator
from importlib.metadata import version
from typing import Any

import jax
import numpy as np
from flax import nnx

import noah_jax
from noah_jax import (
    data,
    evaluation,
    interop,
    loader,
    pretrained,
    processes,
    report,
    search,
    sharding,
    train,
)
from noah_jax.attention import can_fuse
from noah_jax.augment import Augmented
from noah_jax.checkpoint import Checkpoints
from noah_jax.errors import UserError
from noah_jax.memory import watch
from noah_jax.network import Network, make_network
from noah_jax.settings import Config, Schedule, differences
from noah_jax.shots import Shots
from noah_jax.space import MODULES, SearchSpace, count_noah, count_params
from noah_jax.tasks import TASKS
from noah_jax.vit import ViTConfig
from noah_jax.writer import Writer, make_folder, read_json, write_json

_TRAINED_ON = {"supernet": "train", "retrain": "trainval"}

# Random streams, so that no two uses of one seed see the same numbers.
_STREAMS = ("supernet init", "supernet", "genomes", "search", "retrain init", "retrain")

_Batch = tuple[np.ndarray, np.ndarray]

# The runs of one start share their images and weights.
_open_source = functools.lru_cache(data.open_source)
_backbone = functools.lru_cache(maxsize=1)(pretrained.backbone)


@dataclasses.dataclass(frozen=True)
class _Run:
    """What the stages share."""

    config: Config
    workdir: pathlib.Path
    source: loader.Source
    space: SearchSpace
    vit: ViTConfig
    backbone: nnx.State
    mesh: jax.sharding.Mesh
    writer: Writer

    def network(self, max_sizes: dict[str, int], stream: str) -> Network:
        normalisation = pretrained.NORMALISATIONS[_normalisation(self.config)]
        method = self.config.method
        return make_network(
            self.vit,
            max_sizes,
            self.backbone,
            normalisation,
            method,
            self.seed(stream),
            self.mesh,
        )

    def seed(self, stream: str) -> int:
        words = [self.config.seed, _STREAMS.index(stream)]
        return int(np.random.SeedSequence(words).generate_state(1)[0])

    def eval_batch(self, split: loader.Split) -> int:
        """How many images of `split` to evaluate at once; the devices divide it."""
        at_least = min(self.config.eval_batch_size, len(split))
        return -(-at_least // self.mesh.size) * self.mesh.size

    def batches(self, split: loader.Split, rows: np.ndarray | None = None) -> Iterator[_Batch]:
        config = self.config
        batch = self.eval_batch(split)
        return loader.batches(split, config.image_size, batch, config.center_crop, rows)


def check(config: Config, workdir: pathlib.Path) -> None:
    """Looks at all inputs of a run, and writes nothing.

    Raises:
      UserError: something is wrong with them.
    """
    _refuse_other_config(config, workdir)
    if read_json(workdir / "result.json") is None:
        _prepare(config, workdir)


def run(config: Config, workdir: pathlib.Path) -> dict[str, Any] | None:
    """Runs the stages up to `config.stage`.

    Returns:
      What `result.json` holds, or None if an earlier stage was asked for as the last.

    Raises:
      UserError: something is wrong with the input, before anything is written; or the training
        diverges.
    """
    _refuse_other_config(config, workdir)
    result_file = workdir / "result.json"
    result = read_json(result_file)
    if config.stage == "report" or result is not None:
        if result is None:
            raise UserError(f"stage=report: there is no {result_file}; run the other stages first")
        if config.stage == "report" or not (workdir / "report.html").is_file():
            _report(workdir)
        return result
    stages = _prepare(config, workdir)
    make_folder(workdir)
    write_json(workdir / "config.json", dataclasses.asdict(stages.config))
    splits = stages.source.splits
    counts = ", ".join(f"{len(splits[name])} {name}" for name in ("train", "val", "test"))
    stages.writer.say(
        f"{config.task}: {config.method}, seed {config.seed}, {counts} images of "
        f"{stages.source.num_classes} classes, in {workdir}"
    )
    if absent := _absent_tests(config, stages.source):
        stages.writer.say(f"  not there, so not tested: {', '.join(absent)}")
    best = None
    if config.genome:
        genome = interop.read_genome(config.genome, stages.space.blocks)
    elif config.method == "noah":
        best = _search(stages)
        if config.stage in ("supernet", "search"):
            return None
        genome = np.array(best["genome"], np.int32)
    else:
        genome = stages.space.smallest()
    params, network = _retrain(stages, genome)
    if config.stage == "retrain":
        return None
    result = _evaluate(stages, network, params, genome, best)
    write_json(result_file, result)
    _report(workdir)
    return result


def _report(workdir: pathlib.Path) -> None:
    if processes.is_main():
        report.write(workdir)


def _prepare(config: Config, workdir: pathlib.Path) -> _Run:
    """What the stages share; all that can be wrong with the input shows here."""
    space = config.search_space()
    if config.genome:
        interop.read_genome(config.genome, space.blocks)
    elif config.method == "noah":
        search.check_budget(space, config.search)
    shots = None
    if config.shots:
        shots = Shots(config.shots, config.seed, config.lists, config.whole_val)
    source = _open_source(config.task, config.data_dir, config.split_seed, shots)
    config = _resolve(config)
    if config.method == "noah" and not config.genome:
        train.steps_per_epoch("supernet", *_schedule(config, source, "supernet"))
    train.steps_per_epoch("retrain", *_schedule(config, source, "retrain"))
    vit = config.vit(source.num_classes, config.dtype)
    backbone = _backbone(config.vit(1, config.dtype), config.weights or config.backbone)
    mesh, writer = sharding.make_mesh(config.weight_shards), Writer(workdir)
    if config.attention == "auto" and mesh.size == 1:  # on several devices nobody has seen it run
        fused = can_fuse(vit.heads, vit.width // vit.heads, vit.dtype)
        vit = dataclasses.replace(vit, fused_attention=fused)
    counts = {name: len(split) for name, split in source.splits.items()}
    processes.require_same(dataclasses.asdict(config) | {"images": counts})
    return _Run(config, workdir, source, space, vit, backbone, mesh, writer)


def _absent_tests(config: Config, source: loader.Source) -> list[str]:
    wanted = TASKS[config.task].more_tests if config.task in TASKS else ()
    return [name for name in wanted if name not in source.more_tests]


def _schedule(config: Config, source: loader.Source, stage: str) -> tuple[Schedule, int]:
    """How to train in that stage, and on how many images: few can be less than a batch."""
    schedule = config.supernet if stage == "supernet" else config.retrain
    images = len(source.splits[_TRAINED_ON[stage]])
    if config.shots and images < schedule.batch_size:
        groups = config.supernet.genomes_per_step if stage == "supernet" else 1
        batch_size = max(images // groups, 1) * groups
        schedule = dataclasses.replace(schedule, batch_size=batch_size)
    return schedule, images


def _search(stages: _Run) -> dict[str, Any] | None:
    """Supernet and search; None if only the supernet was asked for."""
    config, workdir, space = stages.config, stages.workdir, stages.space
    best_file = workdir / "best.json"
    if best := read_json(best_file):
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


def _retrain(stages: _Run, genome: np.ndarray):
    """The genome trained on train + val from the original weights, with parameters of its size."""
    sizes = dict(zip(MODULES, genome.max(axis=0).tolist(), strict=True))
    network = stages.network(sizes, "retrain init")
    with stages.writer.stage("retrain"):
        params = _fit(stages, "retrain", network, lambda step: genome[None])
    return params, network


def _fit(stages: _Run, stage: str, network, genomes):
    config = stages.config
    schedule, _ = _schedule(config, stages.source, stage)
    split = stages.source.splits[_TRAINED_ON[stage]]
    if config.augmentation == "randaugment":
        examples = Augmented(split, config.image_size, stages.source.num_classes)
    else:
        examples = loader.load(split, config.image_size, config.center_crop)
    return train.fit(
        stage,
        network,
        examples,
        schedule,
        genomes,
        stages.seed(stage),
        Checkpoints(stages.workdir / stage),
        config.checkpoint_epochs,
        stages.mesh,
        stages.writer,
    )


def _evaluate(stages: _Run, network, params, genome, best) -> dict[str, Any]:
    """Test accuracy of the last epoch, and all there is to say about the run."""
    config, source = stages.config, stages.source
    with stages.writer.stage("test"):
        tests = _test(stages, network, params, genome)
    trained = sum(leaf.size for leaf in jax.tree.leaves(params))
    head = sum(leaf.size for leaf in jax.tree.leaves(params["head"]))
    width = stages.space.width
    full = config.method == "full"
    return {
        "task": config.task,
        "method": config.method,
        "seed": config.seed,
        "shots": config.shots,
        "test_accuracy": tests["test"]["accuracy"],
        "test_loss": tests["test"]["loss"],
        "more_tests": {name: value for name, value in tests.items() if name != "test"},
        "val_accuracy": best["val_accuracy"] if best else None,
        "genome": genome.tolist(),
        "params": trained - head if full else int(count_params(genome, width)),
        "params_noah_count": trained - head if full else int(count_noah(genome, width)),
        "head_params": head,
        "stages": stages.writer.stage_seconds(),
        "memory": stages.writer.memory(),
        "images": {name: len(split) for name, split in source.splits.items()},
        "image_size": config.image_size,
        "normalisation": _normalisation(config),
        "encoding": source.encoding,
        "backbone": config.backbone,
        "dtype": stages.vit.dtype,
        "fused_attention": stages.vit.fused_attention,
        "versions": {
            "noah_jax": noah_jax.__version__,
            "python": platform.python_version(),
            **{name: version(name) for name in ("jax", "flax", "optax", "orbax-checkpoint")},
        },
        "devices": [device.device_kind for device in jax.devices()],
    }


def _test(stages: _Run, network, params, genome) -> dict[str, dict[str, Any]]:
    """For each test set: accuracy among the classes that it shows, and among all."""
    judge = watch(evaluation.make_evaluator(network, stages.mesh))
    results = {}
    for name, split in {"test": stages.source.splits["test"], **stages.source.more_tests}.items():
        batch = stages.eval_batch(split)
        with stages.writer.progress(name, len(split), 0, "images") as progress:
            totals = evaluation.score_stream(
                network,
                params,
                stages.batches(split, sharding.local_rows(stages.mesh, batch)),
                len(split),
                batch,
                genome,
                split.classes,
                judge,
                progress.update,
                stages.mesh,
            )
        accuracy, among_all, loss = (totals / len(split)).tolist()
        results[name] = {"accuracy": accuracy, "loss": loss, "images": len(split)}
        if split.classes:
            results[name] |= {"classes": len(split.classes), "accuracy_among_all": among_all}
        stages.writer.log(stage="test", test_set=name, **results[name])
    return results


def _resolve(config: Config) -> Config:
    """With the dtype that "auto" means here, so that a run cannot go on in another."""
    auto = "float32" if jax.default_backend() == "cpu" else "bfloat16"
    return dataclasses.replace(config, dtype=auto) if config.dtype == "auto" else config


def _normalisation(config: Config) -> str:
    return config.normalisation or pretrained.BACKBONES[config.backbone].normalisation


def _refuse_other_config(config: Config, workdir: pathlib.Path) -> None:
    """Raises UserError if the workdir belongs to a run with other settings."""
    saved = read_json(workdir / "config.json")
    if saved and (different := differences(saved, _resolve(config))):
        raise UserError(
            f"{workdir} belongs to a run with other settings:\n  "
            + "\n  ".join(different)
            + "\nChoose another with --workdir=DIR, or delete that one."
        )
