"""A run: settings, inputs and places that its stages share. opening.py makes it."""

import dataclasses
import json
import pathlib
from collections.abc import Callable, Generator

import jax
import numpy as np
from flax import nnx

from noah_jax import pretrained
from noah_jax.config import derived
from noah_jax.config.settings import Config, Schedule
from noah_jax.data import loader
from noah_jax.data.augment import Augmented
from noah_jax.runtime.checkpoint import Checkpoints
from noah_jax.runtime.writer import Writer
from noah_jax.space import SearchSpace
from noah_jax.space.genomes import max_sizes
from noah_jax.training import evaluation, loop
from noah_jax.vit import ViTConfig
from noah_jax.vit.network import Network, inherit, make_network

# Random streams, so that no two uses of one seed see the same numbers.
_STREAMS = (
    *("supernet init", "supernet", "genomes", "search", "retrain init", "retrain"),
    *("folds", "tuning", "rank", "tuning init", "calibration", "calibration init"),
)


@dataclasses.dataclass(frozen=True)
class Run:
    """Settings, inputs and places of one run, which its stages share.

    Attributes:
      inputs: fingerprints of the images, the weights and, if there is one, the genome, by name; and
        `shape`, what a config beside the weights has changed.
      notes: what a user should know of the weights.
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
    notes: tuple[str, ...] = ()

    @property
    def normalisation(self) -> str:
        """The name of mean and standard deviation in `pretrained.NORMALISATIONS`."""
        config = self.config
        return config.normalisation or pretrained.BACKBONES[config.backbone].normalisation

    def network(self, max_sizes: dict[str, int], stream: str) -> Network:
        """The backbone with fresh prompt modules and head, drawn from the random `stream`."""
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
        """The seed of one random stream, and of one of its parts."""
        words = [self.config.seed, _STREAMS.index(stream), *([part] if part else [])]
        return int(np.random.SeedSequence(words).generate_state(1)[0])

    def schedule(self, stage: str) -> Schedule:
        """The schedule of that stage for this run's number of images."""
        counts = {name: len(split) for name, split in self.source.splits.items()}
        return derived.schedule(self.config, counts, stage)[0]

    def checkpoints(self, folder: pathlib.Path, purpose: str = "") -> Checkpoints:
        """The checkpoints in `folder`; only those of the same `purpose` are read."""
        return Checkpoints(folder, self.writer.say, purpose)

    def fit(
        self,
        stage: str,
        network: Network,
        genomes: Callable[[int], np.ndarray],
        split: loader.Split,
        checkpoints: Checkpoints,
        part: int = 0,
    ) -> nnx.State:
        """Trains on a split and returns the params; see `loop.fit`.

        Args:
          stage: whose schedule and random numbers are used.
          part: the number of one of several trainings, which differ in their random numbers.
        """
        config = self.config
        if config.augmentation == "randaugment":
            examples = Augmented(split, config.image_size, self.source.num_classes)
        else:
            examples = loader.load(split, config.image_size, config.center_crop)
        recipe = loop.Recipe(
            stage=stage,
            schedule=self.schedule(stage),
            genomes=genomes,
            seed=self.seed(stage, part),
            checkpoint_seconds=config.checkpoint_seconds,
        )
        return loop.fit(recipe, network, examples, checkpoints, self.mesh, self.writer)

    def fit_genome(
        self,
        stage: str,
        genome: np.ndarray,
        split: loader.Split,
        folder: pathlib.Path,
        supernet: nnx.State | None = None,
    ) -> tuple[nnx.State, Network]:
        """Trains a subnet by itself, with parameters of the genome's size.

        Args:
          supernet: the params that it begins with; None = fresh ones.
        """
        network = self.network(max_sizes(genome), f"{stage} init")
        if supernet is not None:
            network = dataclasses.replace(network, params=inherit(network.params, supernet))
        checkpoints = self.checkpoints(folder, purpose=json.dumps(genome.tolist()))
        return self.fit(stage, network, lambda _: genome[None], split, checkpoints), network

    def evaluate(
        self, network: Network, params: nnx.State, genome: np.ndarray, split: loader.Split
    ) -> tuple[np.ndarray, np.ndarray]:
        """Evaluates one subnet: accuracy and mean loss, each float `[1]`."""
        alone = dataclasses.replace(self.config.search, genomes_per_call=1)
        batches = self.batches(split)
        evaluate = evaluation.population_evaluator(network, params, batches, alone, self.mesh)
        (found,) = evaluate(genome[None])
        return found

    def eval_batch(self, split: loader.Split) -> int:
        """Number of images of `split` to evaluate at once, a multiple of the devices."""
        at_least = min(self.config.eval_batch_size, len(split))
        return -(-at_least // self.mesh.size) * self.mesh.size

    def batches(
        self, split: loader.Split, rows: np.ndarray | None = None, start: int = 0
    ) -> Generator[tuple[np.ndarray, np.ndarray], None, None]:
        """Batches of `eval_batch` images; see `loader.batches`."""
        config = self.config
        size, batch = config.image_size, self.eval_batch(split)
        return loader.batches(split, size, batch, config.center_crop, rows, start)
