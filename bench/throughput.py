"""Measures the speed of each stage of a run, and how close it comes to the device's limit.

    python -m bench.throughput [--backbone=vit_b16] [--image_size=224] [--batch=64]
        [--dtype=bfloat16] [--population=50] [--val_images=200] [--eval_batch=100]
        [--genomes_per_call=4] [--attention=auto] [--rematerialise] [--steps=12] [--repeats=5]
        [--out=FILE.json] [--profile=DIR]

On two CPU cores use `--batch=8 --dtype=float32 --steps=2 --population=2 --val_images=8
--eval_batch=8 --genomes_per_call=1 --repeats=3`. Small batches and populations show their own cost,
not that of a run.

The benchmark runs the programs that a run compiles, on random weights and images: the supernet step
(an epoch of `--steps` in one call), the evaluation of a population, the retraining step, and the
test. The test's batches come decoded from the host's memory; `bench.streaming` measures decoding.
Supernet and subnet have all three modules at size 10 in every block. That is the largest genome of
the paper's space, so no genome that a search there can find costs more to retrain.
"""

import argparse
import functools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np

from bench import machine
from noah_jax.config.settings import SupernetSchedule
from noah_jax.runtime import sharding
from noah_jax.space import SearchSpace
from noah_jax.space.genomes import MODULES
from noah_jax.training import evaluation
from noah_jax.training import step as step_lib
from noah_jax.vit import flops

_CLASSES = 100
_MAX_SIZES = dict.fromkeys(MODULES, 10)
_TEST_BATCHES = 4
_KERNELS = 100  # so many are listed, the longest
_TASK = {"supernet_steps": 6000, "genomes": 800, "val_images": 200, "retraining_steps": 1500}


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--backbone", default="vit_b16", help="see ViTConfig.named")
    parser.add_argument("--dtype", default="bfloat16", choices=("bfloat16", "float32"))
    for name, default in (("image_size", 224), ("batch", 64), ("steps", 12), ("repeats", 5)):
        parser.add_argument(f"--{name}", type=int, default=default)
    for name, default in (("population", 50), ("val_images", 200), ("eval_batch", 100)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--genomes_per_call", type=int, default=4, help="on each device")
    parser.add_argument("--attention", default="auto", choices=("auto", "plain"))
    parser.add_argument("--rematerialise", action="store_true")
    parser.add_argument("--out", type=pathlib.Path, help="a JSON file to write")
    parser.add_argument(
        "--profile",
        help="a folder for the profiler's trace of supernet steps; adds the time of their kernels",
    )
    arguments = parser.parse_args(argv)
    result = machine.describe(__spec__.name, argv) | measure(arguments)
    machine.finish(result, _table(result), arguments.out)


def measure(arguments: argparse.Namespace) -> dict:
    """Measures all stages, each compiled, warmed up and repeated; for the arguments see `main`."""
    mesh = sharding.make_mesh()
    config = machine.vit(
        arguments.backbone,
        arguments.attention,
        image_size=arguments.image_size,
        num_classes=_CLASSES,
        dtype=arguments.dtype,
        rematerialise=arguments.rematerialise,
    )
    products = [matmul_rate(arguments.dtype, arguments.repeats)]
    network = machine.network(config, _MAX_SIZES, mesh)
    rng = np.random.default_rng(0)
    sizes = dict.fromkeys(MODULES, (1, 5, 10))
    space = SearchSpace(sizes, (config.depth,), config.depth, config.width)
    largest = np.full((config.depth, len(MODULES)), 10, np.int32)

    def sampled():
        return space.sample(rng, arguments.steps)[:, None]

    def always_largest():
        return np.stack([largest[None]] * arguments.steps)

    supernet, retraining = _train(network, arguments, mesh, (sampled, always_largest))
    stages = {
        "supernet": supernet,
        "population": _population(network, arguments, mesh, space, rng),
        "retraining": retraining,
        "test": _test(network, arguments, mesh, largest),
    }
    products.append(matmul_rate(arguments.dtype, arguments.repeats))
    product = max(products, key=_rate)  # before and after, if others use the machine
    peak = _rate(product) * 1e12 * mesh.size
    forward = flops.forward(config, _MAX_SIZES)
    step = flops.training_step(config, _MAX_SIZES)
    for name, stage in stages.items():
        count = step if name in ("supernet", "retraining") else forward
        rate = count * stage["images_per_second"]["median"]
        stage["gflop_per_image"] = round(count / 1e9, 3)
        stage["tflops_per_second"] = float(f"{rate / 1e12:.4g}")
        stage["mfu"] = round(rate / peak, 4)
    return {
        "settings": {key: value for key, value in vars(arguments).items() if key != "out"},
        "sizes": _MAX_SIZES,
        "fused_attention": config.execution.fused_attention,
        "matmul": product,
        "stages": stages,
        "whole_task_computed": _whole_task(stages),
    }


def matmul_rate(dtype: str, repeats: int) -> dict:
    """Measures the best rate of a large square matrix product on one device, in TFLOP/s.

    One call computes a chain of products, each on the result of the one before, at JAX's default
    precision (on an NVIDIA GPU that is TF32 for float32).
    """
    sides, count = ((1024, 2048), 4) if jax.default_backend() == "cpu" else ((4096, 8192), 32)
    best = {"side": 0, "tflops_per_second": 0.0}
    for side in sides:
        x = jax.random.normal(jax.random.key(0), (side, side), jnp.float32)
        x = (x / side**0.5).astype(dtype)  # so that the products neither vanish nor overflow

        @jax.jit
        def chain(x):
            return jax.lax.scan(lambda y, _: (y @ x, None), x, None, length=count)[0]

        seconds = min(machine.repeat(functools.partial(chain, x), max(repeats, 3)))
        rate = float(f"{2 * side**3 * count / seconds / 1e12:.4g}")
        best = max(best, {"side": side, "tflops_per_second": rate}, key=_rate)
    return best | {"dtype": dtype}


def _rate(result):
    return result["tflops_per_second"]


def _train(network, arguments, mesh, draws) -> list[dict]:
    """Measures epochs of `--steps` steps of one program, with the genomes of each of `draws`.

    The first is profiled, if that is asked for.
    """
    steps, batch, profile = arguments.steps, arguments.batch, arguments.profile
    optimizer = step_lib.make_optimizer(SupernetSchedule(batch_size=batch), steps)
    step = step_lib.make_step(network, optimizer, arguments.image_size, mesh)
    state = step_lib.initial_state(network, optimizer, mesh)
    examples = machine.examples((steps * batch,), _CLASSES, arguments.image_size)
    data = sharding.replicate(mesh, machine.numbered(examples, steps))
    losses, drawn = sharding.replicate(mesh, (np.zeros(steps, np.float32), draws[0]()))
    inputs = state, losses, network.frozen, data, drawn, (np.int32(0), np.uint32(0))
    compiled, seconds = machine.compile_timed(step, *inputs)

    def call(draw):
        nonlocal state, losses
        drawn = sharding.replicate(mesh, draw())
        state, losses = machine.train(compiled, state, losses, network.frozen, data, drawn)
        return losses

    results = []
    for draw in draws:
        times = machine.repeat(functools.partial(call, draw), arguments.repeats)
        results.append(
            {
                "compile_seconds": seconds,
                "step_seconds": machine.spread([time / steps for time in times]),
                "images_per_second": machine.spread([steps * batch / time for time in times]),
                "memory": machine.peak_memory(compiled),
            }
        )
    if profile:
        kernels = machine.longest(machine.traced(lambda: call(draws[0]), profile))
        results[0]["milliseconds_of_kernels"] = _per_step(kernels, steps)
    return results


def _per_step(kernels: dict[str, float], steps: int) -> dict[str, float]:
    return {name: round(ms / steps, 4) for name, ms in list(kernels.items())[:_KERNELS]}


def _population(network, arguments, mesh, space, rng) -> dict:
    """Measures `evaluation.population_evaluator`; genomes that pad the last call do not count."""
    batch = min(arguments.eval_batch, arguments.val_images)
    chunks = -(-arguments.val_images // batch)
    images, labels = machine.examples((chunks, batch), _CLASSES, arguments.image_size)
    labels[-1, batch - (chunks * batch - arguments.val_images) :] = -1  # as a last batch is filled
    data = sharding.replicate(mesh, (images, labels))
    side_by_side = arguments.genomes_per_call * mesh.size
    calls = -(-arguments.population // side_by_side)
    genomes = np.split(space.sample(rng, calls * side_by_side), calls)
    inputs, classes = (network.params, network.frozen, *data), np.ones(_CLASSES, bool)
    evaluate = evaluation.make_evaluator(network, mesh)
    compiled, seconds = machine.compile_timed(evaluate, *inputs, genomes[0], classes)

    def call():
        results = (compiled(*inputs, few, classes) for few in genomes)
        return [jax.block_until_ready(result) for result in evaluation.one_late(results)]

    times = machine.repeat(call, arguments.repeats)
    count = arguments.population * arguments.val_images
    return {
        "compile_seconds": seconds,
        "population_seconds": machine.spread(times),
        "images_per_second": machine.spread([count / time for time in times]),
        "memory": machine.peak_memory(compiled),
    }


def _test(network, arguments, mesh, genome) -> dict:
    """Measures `evaluation.score_stream`, as in a run, on batches from the host's memory."""
    batches = [
        machine.examples((arguments.eval_batch,), _CLASSES, arguments.image_size)
    ] * _TEST_BATCHES
    evaluate = evaluation.make_evaluator(network, mesh, with_logits=True)
    images, labels = batches[0]
    placed = (
        sharding.from_local_rows(mesh, part[None], len(part), axis=1) for part in (images, labels)
    )
    inputs = *placed, genome[None], np.ones(_CLASSES, bool)
    compiled, seconds = machine.compile_timed(evaluate, network.params, network.frozen, *inputs)
    count = arguments.eval_batch * _TEST_BATCHES
    stream = evaluation.Remaining(batches, arguments.eval_batch, count)

    def call():
        inputs = network, network.params, genome, stream, compiled, mesh
        return list(evaluation.score_stream(*inputs))

    times = machine.repeat(call, arguments.repeats)
    return {
        "compile_seconds": seconds,
        "images_per_second": machine.spread([count / time for time in times]),
        "memory": machine.peak_memory(compiled),
    }


def _whole_task(stages) -> dict:
    """Computes the seconds of the paper's recipe on a VTAB-1k task from the measured medians."""
    step, retraining_step = (
        stages[name]["step_seconds"]["median"] for name in ("supernet", "retraining")
    )
    passes = _TASK["genomes"] * _TASK["val_images"]
    seconds = {
        "supernet": _TASK["supernet_steps"] * step,
        "search": passes / stages["population"]["images_per_second"]["median"],
        "retraining": _TASK["retraining_steps"] * retraining_step,
    }
    return {
        **_TASK,
        "seconds": {name: round(value, 1) for name, value in seconds.items()},
        "total_seconds": round(sum(seconds.values()), 1),
    }


def _table(result) -> list[list[str]]:
    rows = [
        ["stage", "compile s", "cached s", "ms", "images/s", "TFLOP/s", "MFU", "plan MB", "peak MB"]
    ]
    for name, stage in result["stages"].items():
        once = stage.get("step_seconds") or stage.get("population_seconds")
        peak = stage["memory"]["allocator_peak_mb"] or stage["memory"]["host_peak_mb"]
        rows.append(
            [
                name,
                f"{stage['compile_seconds']['total']:.1f}",
                f"{stage['compile_seconds']['cached']:.1f}",
                f"{1000 * once['median']:.1f}" if once else "",
                f"{stage['images_per_second']['median']:.4g}",
                f"{stage['tflops_per_second']:.4g}",
                f"{100 * stage['mfu']:.1f} %",
                f"{stage['memory']['compiler_mb']}",
                f"{peak}",
            ]
        )
    return rows


if __name__ == "__main__":
    main()
