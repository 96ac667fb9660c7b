"""What the stages of a run share; all that can be wrong with its input shows when it is made."""

import dataclasses
import functools
import json
import pathlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import numpy as np
from flax import nnx

from noah_jax import (
    data,
    evaluation,
    interop,
    loader,
    loop,
    pretrained,
    processes,
    search,
    sharding,
    trackers,
    train,
)
from noah_jax.attention import can_fuse
from noah_jax.augment import Augmented
from noah_jax.checkpoint import Checkpoints
from noah_jax.errors import UserError
from noah_jax.genomes import max_sizes
from noah_jax.network import Network, inherit, make_network
from noah_jax.settings import (
    SCHEDULES,
    SEARCHED,
    TUNED,
    Config,
    Schedule,
    differences,
    supernet_differences,
)
from noah_jax.shots import Shots
from noah_jax.space import SearchSpace
from noah_jax.vit import ViTConfig
from noah_jax.workdir import read_json
from noah_jax.writer import Writer

_OUTPUTS = (
    *("supernet", "tuning", "search", "best.json", "retrain", "test.json"),
    *("predictions.json", "result.json"),
)

# Random streams, so that no two uses of one seed see the same numbers.
_STREAMS = (
    *("supernet init", "supernet", "genomes", "search", "retrain init", "retrain"),
    *("folds", "tuning", "rank", "tuning init"),
)

_Batch = tuple[np.ndarray, np.ndarray]

# The runs of one start share their images and weights.
_open_source = functools.lru_cache(data.open_source)
_backbone = functools.lru_cache(maxsize=1)(pretrained.backbone)


@dataclasses.dataclass(frozen=True)
class Run:
    """Settings, inputs and places of one run.

    Attributes:
      inputs: what identifies the contents of its files.
    """

    config: Config
    workdir: pathlib.Path
    source: loader.Source
    space: SearchSpace
    vit: ViTConfig
    backbone: nnx.State
    mesh: jax.sharding.Mesh
    writer: Writer
    inputs: dict[str, str]

    @property
    def normalisation(self) -> str:
        config = self.config
        return config.normalisation or pretrained.BACKBONES[config.backbone].normalisation

    def network(self, max_sizes: dict[str, int], stream: str) -> Network:
        return make_network(
            self.vit,
            max_sizes,
            self.backbone,
            pretrained.NORMALISATIONS[self.normalisation],
            self.config.method,
            self.seed(stream),
            self.mesh,
        )

    def seed(self, stream: str, part: int = 0) -> int:
        words = [self.config.seed, _STREAMS.index(stream), *([part] if part else [])]
        return int(np.random.SeedSequence(words).generate_state(1)[0])

    def schedule(self, stage: str) -> Schedule:
        counts = {name: len(split) for name, split in self.source.splits.items()}
        return schedule(self.config, counts, stage)[0]

    def fit(
        self,
        stage: str,
        network: Network,
        genomes: Callable[[int], np.ndarray],
        split: loader.Split,
        folder: pathlib.Path,
        purpose: str = "",
        part: int = 0,
        distillation: float = 0.0,
    ) -> nnx.State:
        """Trained params; see `loop.fit`.

        Args:
          stage: whose schedule and random numbers it has.
          folder: of its checkpoints, which are read only if they are of the same `purpose`.
          part: which of several that differ in their random numbers.
        """
        config = self.config
        if config.augmentation == "randaugment":
            examples = Augmented(split, config.image_size, self.source.num_classes)
        else:
            examples = loader.load(split, config.image_size, config.center_crop)
        return loop.fit(
            stage,
            network,
            examples,
            self.schedule(stage),
            genomes,
            self.seed(stage, part),
            Checkpoints(folder, self.writer.say, purpose),
            config.checkpoint_seconds,
            self.mesh,
            self.writer,
            distillation,
        )

    def fit_genome(
        self,
        stage: str,
        genome: np.ndarray,
        split: loader.Split,
        folder: pathlib.Path,
        supernet: nnx.State | None = None,
    ) -> tuple[nnx.State, Network]:
        """A subnet trained by itself, with parameters of the genome's size.

        Args:
          supernet: whose params it begins with; None = fresh ones.
        """
        network = self.network(max_sizes(genome), f"{stage} init")
        if supernet is not None:
            network = dataclasses.replace(network, params=inherit(network.params, supernet))
        purpose = checkpoint_purpose(genome)
        return self.fit(stage, network, lambda _: genome[None], split, folder, purpose), network

    def judge(
        self, network: Network, params, genome: np.ndarray, split: loader.Split
    ) -> tuple[np.ndarray, np.ndarray]:
        """Accuracy and mean loss of one subnet, each `[1]`."""
        alone = dataclasses.replace(self.config.search, genomes_per_call=1)
        batches = self.batches(split)
        (found,) = evaluation.population_evaluator(network, params, batches, alone, self.mesh)(
            genome[None]
        )
        return found

    def eval_batch(self, split: loader.Split) -> int:
        """How many images of `split` to evaluate at once; the devices divide it."""
        at_least = min(self.config.eval_batch_size, len(split))
        return -(-at_least // self.mesh.size) * self.mesh.size

    def batches(
        self, split: loader.Split, rows: np.ndarray | None = None, start: int = 0
    ) -> Iterator[_Batch]:
        """See `loader.batches`."""
        config = self.config
        size, batch = config.image_size, self.eval_batch(split)
        return loader.batches(split, size, batch, config.center_crop, rows, start)


def checkpoint_purpose(genome: np.ndarray) -> str:
    """What tells the checkpoints of one subnet from another's."""
    return json.dumps(genome.tolist())


def prepare(config: Config, workdir: pathlib.Path, source: loader.Source | None = None) -> Run:
    """Looks at all inputs, and writes nothing.

    Args:
      source: the images; None = those of `config.task`.

    Raises:
      UserError: something is wrong with them, or the workdir belongs to a run with others.
    """
    space = config.search_space()
    if config.genome:
        interop.read_genome(config.genome, space.blocks)
    elif config.method in SEARCHED:
        search.check_budget(space, config.search)
    shots = None
    if config.shots:
        shots = Shots(config.shots, config.seed, config.lists, config.whole_val)
    if source is None:
        source = _open_source(config.task, config.data_dir, config.split_seed, shots)
    config, counts = _resolve(config), {name: len(split) for name, split in source.splits.items()}
    if config.has_supernet:
        train.steps_per_epoch("supernet", *schedule(config, counts, "supernet"))
    for stage in ("tuning", "retrain") if config.method in TUNED else ("retrain",):
        train.steps_per_epoch(stage, *schedule(config, counts, stage))
    vit = config.vit(source.num_classes, config.dtype)
    weights = config.weights or config.backbone
    backbone = _backbone(config.vit(1, config.dtype), weights)
    trackers.check(config.trackers)
    mesh, writer = sharding.make_mesh(config.weight_shards), Writer(workdir)
    if config.attention == "auto" and mesh.size == 1:  # on several devices nobody has seen it run
        fused = can_fuse(vit.heads, vit.width // vit.heads, vit.dtype)
        vit = dataclasses.replace(vit, fused_attention=fused)
    inputs = {"images": source.fingerprint, "weights": pretrained.fingerprint(weights)}
    if config.genome:
        inputs["genome"] = interop.read_genome(config.genome, space.blocks).tobytes().hex()
    if config.supernet_from:
        _require_supernet(config, inputs)
    processes.require_same(dataclasses.asdict(config) | {"counts": counts} | inputs)
    refuse_other_config(config, workdir, inputs)
    return Run(config, workdir, source, space, vit, backbone, mesh, writer, inputs)


def schedule(config: Config, counts: Mapping[str, int], stage: str) -> tuple[Schedule, int]:
    """How to train in that stage, and on how many images: few can be less than a batch.

    Args:
      counts: of the images of each split.
    """
    schedule, folds = getattr(config, SCHEDULES[stage]), config.search.folds
    if stage == "retrain" and config.inherits:
        rate = schedule.learning_rate * config.retrain.inherit
        schedule = dataclasses.replace(schedule, learning_rate=rate)
    images = counts["trainval" if stage == "retrain" else "train"]
    if stage == "supernet" and folds > 1:
        images = counts["trainval"]
        images -= -(-images // folds)
    if config.shots and images < schedule.batch_size:
        groups = config.supernet.genomes_per_step if stage == "supernet" else 1
        batch_size = max(images // groups, 1) * groups
        schedule = dataclasses.replace(schedule, batch_size=batch_size)
    return schedule, images


def _resolve(config: Config) -> Config:
    """With the dtype that "auto" means here, so that a run cannot go on in another."""
    auto = "float32" if jax.default_backend() == "cpu" else "bfloat16"
    return dataclasses.replace(config, dtype=auto) if config.dtype == "auto" else config


def _require_supernet(config: Config, inputs: dict[str, str]) -> None:
    """Raises UserError unless the supernet of `supernet_from` is the one that would be trained."""
    folder = pathlib.Path(config.supernet_from).expanduser()
    saved = read_json(folder / "config.json")
    if saved is None or not processes.from_main((folder / "supernet").is_dir):
        raise UserError(f"supernet_from={folder}: it is no workdir with a supernet")
    old = saved.pop("inputs", {})
    different = supernet_differences(saved, config)
    different += [
        f"the {key}: not the same as there" for key in inputs if old.get(key) != inputs[key]
    ]
    if different:
        raise UserError(
            f"supernet_from={folder}: its supernet is not the one of this run:\n  "
            + "\n  ".join(different)
        )


# --- A workdir belongs to one run ----------------------------------------------------------------


def refuse_other_config(
    config: Config, workdir: pathlib.Path, inputs: dict[str, str] | None = None
) -> None:
    """Raises UserError if the workdir belongs to a run with other settings, or other `inputs`."""
    saved = _saved(workdir)
    if saved is None:
        return
    old = saved.pop("inputs", {})
    different = differences(saved, _resolve(config)) + _changed(old, inputs or {})
    if different:
        raise UserError(
            f"{workdir} belongs to a run with other settings:\n  "
            + "\n  ".join(different)
            + "\nStart anew beside it with --fresh, or choose another with --workdir=DIR"
        )


def _changed(old: dict[str, str], inputs: dict[str, str]) -> list[str]:
    """Which inputs have other contents than those of another run, a line each."""
    what = {"images": "the images", "weights": "the file of weights", "genome": "the genome"}
    return [f"{what[key]}: not the same as there" for key in inputs if old.get(key) != inputs[key]]


def _saved(workdir: pathlib.Path) -> dict[str, Any] | None:
    """The settings of the run that the workdir belongs to; None if there is none."""
    try:
        saved = read_json(workdir / "config.json")
        outputs = (workdir / name for name in _OUTPUTS)
        if saved is None and processes.from_main(lambda: any(path.exists() for path in outputs)):
            raise UserError(f"{workdir / 'config.json'} is missing")
    except UserError as error:
        raise UserError(
            f"{error}, so it cannot be known which run {workdir} belongs to: start anew beside it "
            "with --fresh"
        ) from error
    return saved
