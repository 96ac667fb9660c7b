"""Measures how a run's cost grows: with epochs, images and population, not with genomes or depth.

    python -m bench.cost [--backbone=vit_ti16] [--image_size=64] [--batch=16] [--doublings=2]
        [--genomes=1000] [--compile_backbone=vit_b16] [--compile_image_size=224]
        [--compile_batch=64] [--dtype=float32] [--repeats=3] [--out=FILE.json]

Times are those of compiled programs, without compilation. Compile times are those of the supernet
step, at `--compile_backbone`'s width with 12 and with 24 blocks, without a cache and with one. The
step itself is not run there.
"""

import argparse
import dataclasses
import pathlib
from collections.abc import Callable

import jax
import numpy as np

from bench import machine
from noah_jax.config.settings import SupernetSchedule
from noah_jax.runtime import sharding
from noah_jax.space import SearchSpace
from noah_jax.space.genomes import MODULES
from noah_jax.training import evaluation
from noah_jax.training import step as step_lib

_CLASSES = 10
_MAX_SIZES = dict.fromkeys(MODULES, 10)
_DEPTHS = (12, 24)
_POPULATION = 50
_PER_CALL = (1, 5)  # genomes side by side; divisors of the population, so nothing is padded
_COMPILATION = "/jax/core/compile/backend_compile_duration"


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--backbone", default="vit_ti16", help="see ViTConfig.named")
    parser.add_argument("--compile_backbone", default="vit_b16")
    parser.add_argument("--dtype", default="float32", choices=("bfloat16", "float32"))
    for name, default in (("image_size", 64), ("compile_image_size", 224), ("compile_batch", 64)):
        parser.add_argument(f"--{name}", type=int, default=default)
    for name, default in (("batch", 16), ("doublings", 2), ("genomes", 1000), ("repeats", 3)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--out", type=pathlib.Path, help="a JSON file to write")
    arguments = parser.parse_args(argv)
    result = machine.describe(__spec__.name, argv) | measure(arguments)
    machine.finish(result, _table(result), arguments.out)


def measure(arguments: argparse.Namespace) -> dict:
    """Measures everything; see `main` for the arguments."""
    work = _Work(arguments, arguments.batch)
    factors = [2**doubling for doubling in range(arguments.doublings + 1)]
    linear = {
        "epochs": _scaling(factors, lambda n: work.training(4, epochs=n), arguments.repeats),
        "training images": _scaling(
            [2 * n * arguments.batch for n in factors],
            lambda n: work.training(n // arguments.batch, epochs=1),
            arguments.repeats,
        ),
        "population": _scaling(
            [8 * n for n in factors], lambda n: work.evaluating(n, 1, 1), arguments.repeats
        ),
        "validation images": _scaling(
            [arguments.batch * n for n in factors],
            lambda n: work.evaluating(8, n // arguments.batch, 1),
            arguments.repeats,
        ),
    }
    return {
        "settings": {key: value for key, value in vars(arguments).items() if key != "out"},
        "linear": linear,
        "genomes": _genomes(_Work(arguments, batch=2), arguments.genomes),
        "population_over_single": _population(work, arguments.repeats),
        "compile_seconds": _compile_times(arguments),
        "memory": machine.peak_memory(),
    }


class _Work:
    """Programs of a small network, each returned as a function that does the work once."""

    def __init__(self, arguments, batch):
        self.batch, self.size = batch, arguments.image_size
        config = machine.vit(
            arguments.backbone,
            image_size=self.size,
            num_classes=_CLASSES,
            dtype=arguments.dtype,
        )
        self.mesh = sharding.make_mesh()
        self.network = machine.network(config, _MAX_SIZES, self.mesh)
        self.space = SearchSpace(
            dict.fromkeys(MODULES, (1, 5, 10)), (3, 6, 9, 12), config.depth, config.width
        )
        self.rng, self.seen = np.random.default_rng(0), set()

    def draw(self, count: int) -> np.ndarray:
        """Draws new genomes, int32 `[count, depth, modules]`, and remembers them in `seen`."""
        genomes = self.space.sample(self.rng, count)
        self.seen.update(genome.tobytes() for genome in genomes)
        return genomes

    def training(self, steps: int, epochs: int) -> Callable:
        """Trains `epochs` epochs of `steps` batches, each step with another genome."""
        optimizer = _optimizer(self.batch, steps)
        step = step_lib.make_step(self.network, optimizer, self.size, self.mesh)
        state = step_lib.initial_state(self.network, optimizer, self.mesh)
        none = sharding.replicate(self.mesh, np.zeros(steps, np.float32))
        examples = machine.examples((steps * self.batch,), _CLASSES, self.size)
        inputs = (
            self.network.frozen,
            sharding.replicate(self.mesh, machine.numbered(examples, steps)),
        )

        def run():
            nonlocal state
            for number in range(epochs):
                genomes = sharding.replicate(self.mesh, self.draw(steps)[:, None])
                state, losses = machine.train(step, state, none, *inputs, genomes, number * steps)
            return losses

        run.jitted = step
        return run

    def evaluating(self, population: int, chunks: int, per_call: int) -> Callable:
        """Evaluates a population of new genomes on `chunks` batches, `per_call` at a time."""
        data = sharding.replicate(
            self.mesh, machine.examples((chunks, self.batch), _CLASSES, self.size)
        )
        evaluate = evaluation.make_evaluator(self.network, self.mesh)
        classes = np.ones(_CLASSES, bool)

        def run():
            inputs = self.network.params, self.network.frozen, *data
            calls = np.split(self.draw(population), population // per_call)
            results = (evaluate(*inputs, genomes, classes) for genomes in calls)
            return [jax.block_until_ready(result) for result in evaluation.one_late(results)]

        run.jitted = evaluate
        return run


def _scaling(sizes, make, repeats) -> dict:
    """Seconds at each size, the ratio for each doubling, and the exponent of a power law."""
    times = [machine.spread(times) for times in machine.in_turns([*map(make, sizes)], repeats)]
    medians = [time["median"] for time in times]
    return {
        "sizes": sizes,
        "seconds": times,
        "ratio_per_doubling": [
            round(large / small, 3) for small, large in zip(medians, medians[1:], strict=False)
        ],
        "exponent": round(float(np.polyfit(np.log(sizes), np.log(medians), 1)[0]), 3),
    }


def _genomes(work, count) -> dict:
    """Sends more than `count` distinct genomes through one evaluator and through supernet steps."""
    return {
        "evaluator": _distinct(work, work.evaluating(_POPULATION, 1, 1), count),
        "supernet step": _distinct(work, work.training(4, 1), count),
    }


def _distinct(work, run, count) -> dict:
    """Measures what grows while new genomes are computed, until `count` distinct ones were seen.

    Memory is first read after another tenth of them, since the host's allocator has to settle, too.
    Then it is read after each half: a leak grows in both.
    """
    compilations = 0

    def listener(name, seconds, **more):
        nonlocal compilations
        compilations += name == _COMPILATION

    work.seen.clear()
    jax.block_until_ready(run())  # compiles
    programs = run.jitted._cache_size()  # other work may have compiled some of other shapes
    jax.monitoring.register_event_duration_secs_listener(listener)
    try:
        while len(work.seen) < count / 10:
            jax.block_until_ready(run())
        host, seen = [machine.host_mb()], len(work.seen)
        for half in (count / 2, count):
            while len(work.seen) < seen + half:
                jax.block_until_ready(run())
            host.append(machine.host_mb())
    finally:
        jax.monitoring.unregister_event_duration_listener(listener)
    return {
        "distinct_genomes": len(work.seen),
        "compilations_after_first_call": compilations,
        "programs": 1 + run.jitted._cache_size() - programs,
        "host_mb": round(host[0], 1),
        "host_growth_mb_of_halves": np.diff(host).round(1).tolist(),
    }


def _population(work, repeats) -> list[dict]:
    """Measures the time of a population over that of as many single genomes, in turns."""
    single, rows = work.evaluating(1, 1, 1), []

    def one_by_one():
        return [jax.block_until_ready(single()) for _ in range(_POPULATION)]

    for per_call in _PER_CALL:
        population = work.evaluating(_POPULATION, 1, per_call)
        together, alone = machine.in_turns([population, one_by_one], repeats)
        ratios = [one / other for one, other in zip(together, alone, strict=True)]
        rows.append(
            {
                "population": _POPULATION,
                "genomes_per_call": per_call,
                "seconds": machine.spread(together),
                "seconds_one_by_one": machine.spread(alone),
                "ratio": machine.spread(ratios),
            }
        )
    return rows


def _compile_times(arguments) -> list[dict]:
    """Times the compilation of a supernet step at two depths of a ViT, each twice, in turns."""
    mesh, rows = sharding.make_mesh(), []
    config = machine.vit(
        arguments.compile_backbone,
        image_size=arguments.compile_image_size,
        num_classes=_CLASSES,
        dtype=arguments.dtype,
    )
    for depth in 2 * _DEPTHS:
        jax.clear_caches()
        deep = dataclasses.replace(config, depth=depth)
        network = machine.abstract_network(deep, _MAX_SIZES, mesh)
        steps, batch = 12, arguments.compile_batch
        optimizer = _optimizer(batch, steps)
        optimizer_state = jax.eval_shape(optimizer.init, network.params)
        state = step_lib.TrainState(network.params, optimizer_state)
        step = step_lib.make_step(network, optimizer, deep.image_size, mesh)
        shape = steps * batch, deep.image_size, deep.image_size, 3
        images = np.broadcast_to(np.uint8(0), shape)
        data = machine.numbered((images, np.zeros(steps * batch, np.int32)), steps)
        genomes = np.zeros((steps, 1, depth, len(MODULES)), np.int32)
        losses = np.zeros(steps, np.float32)
        inputs = state, losses, network.frozen, data, genomes, (np.int32(0), np.uint32(0))
        _, seconds = machine.compile_timed(step, *inputs)
        rows.append({"blocks": depth, **seconds})
    return rows


def _optimizer(batch, steps):
    return step_lib.make_optimizer(SupernetSchedule(batch_size=batch), steps)


def _table(result) -> list[list[str]]:
    rows = [["cost", "sizes", "seconds", "per doubling", "exponent"]]
    for name, row in result["linear"].items():
        seconds = [time["median"] for time in row["seconds"]]
        rows.append([name, *map(_joined, (row["sizes"], seconds, row["ratio_per_doubling"]))])
        rows[-1].append(f"{row['exponent']}")
    for row in result["population_over_single"]:
        name = f"{row['population']} genomes, {row['genomes_per_call']} a call, over one by one"
        rows.append([name, "", f"{row['seconds']['median']}", f"{row['ratio']['median']}", ""])
    for name, row in result["genomes"].items():
        what = f"{name}: {row['compilations_after_first_call']} compilations"
        growth = " ".join(f"{growth:+.1f}" for growth in row["host_growth_mb_of_halves"]) + " MB"
        rows.append([what, f"{row['distinct_genomes']} genomes", "", growth, ""])
    for row in result["compile_seconds"]:
        seconds = f"{row['total']}, cached {row['cached']}"
        rows.append([f"compiling {row['blocks']} blocks", "", seconds, "", ""])
    return rows


def _joined(values) -> str:
    return " ".join(map(str, values))


if __name__ == "__main__":
    main()
