"""Times the same work in PyTorch and here, in turns within one run.

    python -m bench.against_torch [--backbone=vit_b16] [--image_size=224] [--batch=8] [--steps=6]
        [--genomes=6] [--pairs=5] [--dtype=float32] [--compile] [--noah=DIR] [--out=FILE.json]

All have the same weights. First the logits of one subnet are compared, to show that all compute the
same. Then, in each round, each takes `--steps` supernet steps with the same genomes, a new one each
step, and evaluates `--genomes` subnets on one batch. The result is the ratios of the rounds, ours
to each of the others.

The others are `torch_vit.Supernet`, which slices where we mask and has PyTorch's own attention;
with `--compile` also the same through torch.compile, block by block, with all genomes the largest,
because it compiles anew for each combination of sizes (ours take the same time whatever the
genome); with `--noah=DIR` also the original's own model code. With `--dtype=bfloat16` they run
under autocast. Their images are normalised and on the device beforehand. Ours are uint8 and
normalised in the step. The benchmark needs the packages of tests/requirements.txt and, on a GPU,
PyTorch for CUDA.
"""

import argparse
import os
import pathlib
import time
from importlib.metadata import version

os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # PyTorch wants memory, too

import jax
import numpy as np
import torch
import torch.nn.functional as F
from flax import nnx

from bench import machine, torch_vit
from noah_jax import interop
from noah_jax.config.settings import SupernetSchedule
from noah_jax.pretrained import NORMALISATIONS
from noah_jax.runtime import sharding
from noah_jax.space import SearchSpace
from noah_jax.space.genomes import MODULES
from noah_jax.training import evaluation
from noah_jax.training import step as step_lib
from noah_jax.vit import ViT
from noah_jax.vit.network import Network, apart, in_dtype, trainable

_CLASSES, _SIZE = 100, 10
_SCHEDULE = SupernetSchedule()
_REST = 0.5  # seconds between measurements: PyTorch's threads spin for a while after their work


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--backbone", default="vit_b16", help="see vit.ViTConfig.named")
    for name, default in (("image_size", 224), ("batch", 8), ("steps", 6), ("genomes", 6)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--pairs", type=int, default=5, help="rounds that count")
    parser.add_argument("--dtype", default="float32", choices=("bfloat16", "float32"))
    parser.add_argument("--compile", action="store_true", help="torch.compile, block by block")
    parser.add_argument("--noah", help="a folder with the original's code; see torch_vit.Original")
    parser.add_argument("--out", type=pathlib.Path, help="a JSON file to write")
    arguments = parser.parse_args(argv)
    result = machine.describe(__spec__.name, argv) | measure(arguments)
    machine.finish(result, _table(result), arguments.out)


def measure(arguments: argparse.Namespace) -> dict:
    """Measures the times of the rounds and ours / theirs; for arguments see `main`."""
    config = machine.vit(
        arguments.backbone,
        image_size=arguments.image_size,
        num_classes=_CLASSES,
        dtype=arguments.dtype,
    )
    device = "cuda" if torch.cuda.is_available() and jax.default_backend() == "gpu" else "cpu"
    if device == "cuda" and jax.device_count() > 1:
        raise SystemExit("PyTorch would use one device, we all: show this process only one")
    torch.backends.cuda.matmul.allow_tf32 = True  # in float32, as JAX does on a GPU
    torch.manual_seed(0)
    models = {"sliced": torch_vit.Supernet(config, _SIZE)}
    tensors = models["sliced"].state_dict()
    if arguments.compile:
        models["compiled"] = torch_vit.Supernet(config, _SIZE)
        models["compiled"].load_state_dict(tensors)
    if arguments.noah:
        models["original"] = torch_vit.Original(arguments.noah, config, _SIZE)
        models["original"].model.load_state_dict(tensors, strict=False)  # it has more, unused

    rng = np.random.default_rng(0)
    space = SearchSpace(
        dict.fromkeys(MODULES, (1, 5, _SIZE)), (3, 6, 9, 12), config.depth, config.width
    )
    images = rng.integers(0, 256, (arguments.batch, *[config.image_size] * 2, 3), np.uint8)
    labels = rng.integers(0, _CLASSES, arguments.batch).astype(np.int32)
    arrays = {name: x.numpy() for name, x in tensors.items()}
    ours = Ours(config, arrays, images, labels, arguments.steps)
    peers = {
        name: Theirs(model.to(device), device, images, labels, arguments.dtype)
        for name, model in models.items()
    }
    one = space.sample(rng, 1)[0]
    logits = ours.logits(one)
    differences = {name: np.abs(logits - x.logits(one)).max() for name, x in peers.items()}
    if arguments.compile:
        for block in models["compiled"].blocks:
            block.compile()
    rounds = _rounds({"noah_jax": ours, **peers}, space, rng, config.depth, arguments)
    return {
        "torch": version("torch"),
        "torch_device": device,
        "torch_threads": torch.get_num_threads(),
        "fused_attention": config.execution.fused_attention,
        "largest_differences_of_logits": {
            name: float(f"{value:.3g}") for name, value in differences.items()
        },
        "stages": {name: _compared(seconds) for name, seconds in rounds.items()},
    }


def _rounds(sides, space, rng, depth, arguments) -> dict[str, dict[str, list[float]]]:
    """Measures the seconds of a step and an evaluation: stage → side → those of each round.

    The first round compiles and warms up.
    """
    largest = np.full((depth, len(MODULES)), _SIZE, np.int32)
    stages = {"supernet step": ("train", arguments.steps)}
    stages["evaluation"] = ("evaluate", arguments.genomes)
    seconds = {stage: {name: [] for name in sides} for stage in stages}
    for _ in range(arguments.pairs + 1):
        for stage, (work, count) in stages.items():
            genomes = space.sample(rng, count)
            for name, side in sides.items():
                given = np.stack([largest] * count) if name == "compiled" else genomes
                seconds[stage][name].append(_timed(getattr(side, work), given) / count)
    return seconds


def _compared(seconds) -> dict:
    """For each side the seconds of a stage, and for each of the others the ratios ours / theirs."""
    ours = seconds["noah_jax"][1:]
    compared = {}
    for name, (first, *others) in seconds.items():
        compared[name] = {"seconds": machine.spread(others), "first": float(f"{first:.4g}")}
        if name != "noah_jax":
            ratios = [mine / other for mine, other in zip(ours, others, strict=True)]
            compared[name]["ratio"] = machine.spread(ratios)
    return compared


class Ours:
    """A supernet of `interop.load_noah`'s tensors that trains and evaluates on one batch."""

    def __init__(self, config, tensors, images, labels, steps):
        mesh = sharding.make_mesh()
        model = ViT(config, dict.fromkeys(MODULES, _SIZE), rngs=nnx.Rngs(0))
        interop.load_noah(model, tensors)
        graphdef, params, frozen = nnx.split(model, trainable("noah"), ...)
        params, frozen = sharding.replicate(mesh, (params, in_dtype(frozen, config.dtype)))
        if config.execution.unrolled:
            frozen = apart(frozen, config.depth)
        execution = config.execution
        self.network = Network(
            graphdef, params, frozen, *NORMALISATIONS["half"], execution=execution
        )
        optimizer = step_lib.make_optimizer(_SCHEDULE, steps)
        self.step = step_lib.make_step(self.network, optimizer, config.image_size, mesh)
        self.evaluate_genomes = evaluation.make_evaluator(self.network, mesh)
        self.state = step_lib.initial_state(self.network, optimizer, mesh)
        data = np.tile(images, (steps, 1, 1, 1)), np.tile(labels, steps)
        self.data = sharding.replicate(mesh, machine.numbered(data, steps))
        self.batch = sharding.replicate(mesh, (images[None], labels[None]))
        self.images = images

    def logits(self, genome):
        run = jax.jit(self.network.logits)
        return np.asarray(run(self.network.params, self.network.frozen, self.images, genome))

    def train(self, genomes):
        self.state, losses = machine.train(self.step, *self._inputs(genomes))
        losses.block_until_ready()

    def compiled_text(self, genomes):
        inputs = *self._inputs(genomes), (np.int32(0), np.uint32(0))
        return self.step.lower(*inputs).compile().as_text()

    def _inputs(self, genomes):
        none = np.zeros(len(genomes), np.float32)
        return self.state, none, self.network.frozen, self.data, genomes[:, None]

    def evaluate(self, genomes):
        classes = np.ones(_CLASSES, bool)
        inputs = self.state.params, self.network.frozen, *self.batch
        results = (self.evaluate_genomes(*inputs, genome[None], classes) for genome in genomes)
        for result in evaluation.one_late(results):
            jax.block_until_ready(result)


class Theirs:
    """A PyTorch model that does the same."""

    def __init__(self, model, device, images, labels, dtype):
        self.model = model
        mean, std = NORMALISATIONS["half"]
        images = (images / np.float32(255) - np.float32(mean)) / np.float32(std)
        self.images = torch.tensor(images.transpose(0, 3, 1, 2)).contiguous().to(device)
        self.labels = torch.tensor(labels, dtype=torch.long, device=device)
        self.autocast = torch.autocast(device, torch.bfloat16, enabled=dtype == "bfloat16")
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        rates = {"lr": _SCHEDULE.learning_rate, "weight_decay": _SCHEDULE.weight_decay}
        self.optimizer = torch.optim.AdamW(trained, fused=device == "cuda", **rates)

    @torch.inference_mode()
    def logits(self, genome):
        self.model.eval()
        with self.autocast:
            return self.model(self.images, genome.tolist()).float().cpu().numpy()

    def train(self, genomes):
        self.model.train()
        for genome in genomes.tolist():
            with self.autocast:
                loss = F.cross_entropy(self.model(self.images, genome), self.labels)
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
        loss.item()  # waits

    @torch.inference_mode()
    def evaluate(self, genomes):
        self.model.eval()
        correct = torch.zeros((), device=self.labels.device)
        for genome in genomes.tolist():
            with self.autocast:
                correct += (self.model(self.images, genome).argmax(-1) == self.labels).sum()
        correct.item()


def _timed(work, genomes):
    time.sleep(_REST)
    start = time.perf_counter()
    work(genomes)
    return time.perf_counter() - start


def _table(result):
    rows = [["", "ratio", "quartiles", "noah_jax, s", "PyTorch, s"]]
    for stage, sides in result["stages"].items():
        ours = f"{sides['noah_jax']['seconds']['median']:.4g}"
        for name, side in sides.items():
            if name != "noah_jax":
                first, third = side["ratio"]["quartiles"]
                middle = f"{side['ratio']['median']:.3f}", f"{first:.3f} … {third:.3f}", ours
                rows.append([f"{stage}, {name}", *middle, f"{side['seconds']['median']:.4g}"])
    return rows


if __name__ == "__main__":
    main()
