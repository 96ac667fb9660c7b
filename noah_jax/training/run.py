"""What the stages of a run share; all that can be wrong with its input shows when it is made."""

import dataclasses
import functools
import json
import pathlib
from collections.abc import Callable, Iterator

import jax
import numpy as np
from flax import nnx

from noah_jax import pretrained
from noah_jax.config.settings import Config, Schedule, schedule
from noah_jax.data import loader
from noah_jax.data.augment import Augmented
from noah_jax.runtime.checkpoint import Checkpoints
from noah_jax.runtime.writer import Writer
from noah_jax.space import SearchSpace
from noah_jax.space.genomes import max_sizes
from noah_jax.training import evaluation, loop
from noah_jax.vit import ViTConfig
from noah_jax.vit.network import Network, inherit, make_network

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


@functools.lru_cache(maxsize=1)
def _backbone(vit: ViTConfig, weights: str, fingerprint: str) -> nnx.State:
    """The frozen weights, which the runs of one process share while the file's content is this."""
    return pretrained.backbone(vit, weights)


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
