"""Checks that any number of devices and processes computes the same, and lists what they exchange.

    python -m bench.scaling [--out=bench/results/scaling.json]

The same few steps from the same seed run on 1, 2, 4 and 8 simulated devices of one machine, in one
process and in two that are joined by `jax.distributed`, and with the frozen matrices cut. Each is
compared with one device: the losses of the supernet and of a streamed, augmented training, a
population, and a streamed test set. The collectives of the compiled supernet step are listed. They
must be the gradients of the trainables and the loss and, where weights are cut, the whole weights
of one block at a time. Last comes the memory that each device needs for a ViT-H/14, which is
compiled but never allocated. Speed is not measured, since the devices share the processor's cores.
"""

import argparse
import collections
import json
import os
import pathlib
import re
import socket
import subprocess
import sys
import tempfile
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import PIL.Image
from jax.sharding import Mesh

from bench import hlo, machine
from noah_jax.config import defaults
from noah_jax.config.settings import Schedule, Search
from noah_jax.data import augment, loader
from noah_jax.runtime import preemption, processes, sharding
from noah_jax.space import SearchSpace
from noah_jax.space.genomes import MODULES
from noah_jax.training import evaluation
from noah_jax.training import step as step_lib
from noah_jax.vit import ViTConfig
from noah_jax.vit.network import Network

_LAYOUTS = (  # processes, devices of each, weight shards
    *((1, 1, 1), (1, 2, 1), (1, 4, 1), (1, 8, 1), (2, 1, 1), (2, 2, 1)),
    *((1, 8, 2), (1, 8, 8), (2, 2, 4)),
)
_TOLERANCE = 1e-5  # relative; sums are rounded in another order
_CLASSES, _IMAGES, _TEST_IMAGES, _STEPS, _POPULATION, _EVAL_BATCH = 10, 128, 50, 4, 12, 16
_SCHEDULE = Schedule(
    epochs=2, batch_size=32, learning_rate=5e-3, weight_decay=1e-4, warmup_epochs=1
)
_SEARCH = Search(**defaults().search.to_dict() | {"population": _POPULATION, "genomes_per_call": 2})
_SECONDS = 600  # for one layout


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--depth", type=int, default=4)
    parser.add_argument("--out", type=pathlib.Path, help="a JSON file to write")
    parser.add_argument("--figures", type=pathlib.Path, help=argparse.SUPPRESS)  # of one layout
    parser.add_argument("--weight_shards", type=int, default=1, help=argparse.SUPPRESS)
    parser.add_argument("--huge", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    if arguments.figures:
        processes.start(preemption.forward)
        figures = huge() if arguments.huge else _figures(arguments)
        if processes.is_main():
            arguments.figures.write_text(json.dumps(figures))
        return
    shape = [f"--width={arguments.width}", f"--depth={arguments.depth}"]
    runs = [
        dict(zip(("processes", "devices_each", "weight_shards"), layout, strict=True))
        | _launch(layout, shape)
        for layout in _LAYOUTS
    ]
    for run in runs:
        run["differences"] = _differences(run["figures"], runs[0]["figures"])
    largest = float(np.max([max(run["differences"].values()) for run in runs]))
    result = machine.describe("bench.scaling", argv) | {
        "tolerance": _TOLERANCE,
        "largest_difference": largest,
        "runs": runs,
        "vit_h14": _launch((1, 8, 1), ["--huge"]),
    }
    machine.finish(result, _table(runs), arguments.out)
    print(f"\nlargest relative difference {largest:.1e}, {_TOLERANCE:.0e} allowed")
    for shards, held in result["vit_h14"]["argument_mb"].items():
        print(f"ViT-H/14 on 8 devices, weight_shards={shards}: {held:.1f} MB of arguments on each")
    if not largest <= _TOLERANCE:  # it may be NaN
        sys.exit("the layouts do not compute the same")


def _launch(layout: tuple[int, int, int], flags: list[str]) -> dict[str, Any]:
    """Starts the processes of a layout, and returns their results."""
    count, devices, shards = layout
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    flag = f"--xla_force_host_platform_device_count={devices}"
    with tempfile.TemporaryDirectory() as folder:
        file = pathlib.Path(folder) / "figures.json"
        command = [sys.executable, "-m", "bench.scaling", f"--figures={file}", *flags]
        command.append(f"--weight_shards={shards}")
        running = []
        for process in range(count):
            environment = os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": flag}
            if count > 1:
                environment["JAX_COORDINATOR_ADDRESS"] = address
                environment |= {"JAX_NUM_PROCESSES": f"{count}", "JAX_PROCESS_ID": f"{process}"}
            running.append(subprocess.Popen(command, env=environment))
        try:
            codes = [process.wait(_SECONDS) for process in running]
        finally:
            for process in running:
                process.kill()
        if any(codes):
            sys.exit(f"{count} × {devices} devices: exit codes {codes}")
        return json.loads(file.read_text())


# --- In a process of a layout --------------------------------------------------------------------


def _figures(arguments) -> dict[str, Any]:
    mesh = sharding.make_mesh(arguments.weight_shards)
    width, depth = arguments.width, arguments.depth
    config = ViTConfig(width, depth, 4, patch_size=8, image_size=32, num_classes=_CLASSES)
    space = SearchSpace({name: (1, 5) for name in MODULES}, (depth // 2, depth), depth, width)
    network = machine.network(config, space.max_sizes, mesh)
    split = _split()
    one, two = (np.stack([_sample(space, step, n) for step in range(_STEPS)]) for n in (1, 2))
    params, supernet, found = _supernet(network, split, one, mesh)
    population, test = _evaluated(network, params, split, space, mesh)
    streamed, found_streamed = _streamed(network, split, two, mesh)
    figures = {"supernet": supernet, "streamed": streamed, "population": population, "test": test}
    trainables = sum(leaf.size for leaf in jax.tree.leaves(network.params))
    _check_collectives(found, 4 * (trainables + 1), depth, mesh)
    return {
        "figures": figures,
        "trainables": trainables,
        "collectives_of_a_step": found,
        "collectives_of_a_streamed_step": found_streamed,
    }


def _split() -> loader.Split:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, _CLASSES, _IMAGES)
    pixels = rng.integers(0, 60, (_IMAGES, 40, 48, 3)) + 19 * labels[:, None, None, None]
    images = [PIL.Image.fromarray(image.astype(np.uint8)) for image in pixels]
    names = [f"image {index}" for index in range(_IMAGES)]
    return loader.Split(names, lambda index: (images[index].copy(), int(labels[index])))


def _sample(space, seed, n):
    return space.sample(np.random.default_rng(seed), n)


def _state(network, mesh):
    optimizer = step_lib.make_optimizer(_SCHEDULE, _STEPS)
    return optimizer, step_lib.initial_state(network, optimizer, mesh)


def _supernet(network: Network, split: loader.Split, genomes, mesh: Mesh):
    optimizer, state = _state(network, mesh)
    data = sharding.replicate(mesh, machine.numbered(loader.load(split, 32), _STEPS))
    none, genomes = sharding.replicate(mesh, (np.zeros(_STEPS, np.float32), genomes))
    step, inputs = step_lib.make_step(network, optimizer, 32, mesh), (network.frozen, data, genomes)
    compiled = step.lower(state, none, *inputs, (np.int32(0), np.uint32(0))).compile()
    losses = []
    for first in (0, _STEPS):
        state, loss = machine.train(step, state, none, *inputs, first)
        losses += np.asarray(loss).tolist()
    return state.params, losses, collectives(compiled.as_text())


def _streamed(network: Network, split: loader.Split, genomes, mesh: Mesh):
    optimizer, state = _state(network, mesh)
    step = step_lib.make_augmented_step(network, optimizer, _CLASSES, mesh)
    size = _SCHEDULE.batch_size
    batches = augment.stream(split, 32, size, 0, 0, sharding.local_rows(mesh, size))
    losses = sharding.replicate(mesh, np.zeros(len(genomes), np.float32))
    compiled = None
    placed = sharding.replicate(mesh, genomes)
    for number in range(len(genomes)):
        batch = tuple(sharding.from_local_rows(mesh, part, size) for part in next(batches))
        moment = np.int32(number), np.uint32(0)
        inputs = state, losses, network.frozen, batch, placed, moment
        compiled = compiled or step.lower(*inputs).compile()
        state, losses = step(*inputs)
    batches.close()
    return np.asarray(losses).tolist(), collectives(compiled.as_text())


def _evaluated(network: Network, params, split: loader.Split, space: SearchSpace, mesh: Mesh):
    batches = loader.batches(split, 32, _EVAL_BATCH)
    evaluate = evaluation.population_evaluator(network, params, batches, _SEARCH, mesh)
    found = zip(*evaluate(_sample(space, 7, _POPULATION)), strict=True)
    accuracy, loss = map(np.concatenate, found)
    rows = sharding.local_rows(mesh, _EVAL_BATCH)
    test = loader.Split(split.names[:_TEST_IMAGES], split.read)
    test_batches = loader.batches(test, 32, _EVAL_BATCH, rows=rows)
    images = evaluation.Remaining(test_batches, _EVAL_BATCH, _TEST_IMAGES)
    evaluate = evaluation.make_evaluator(network, mesh, with_logits=True)
    genome = _sample(space, 8, 1)[0]
    *_, (_, totals, *_) = evaluation.score_stream(network, params, genome, images, evaluate, mesh)
    return [*accuracy.tolist(), *loss.tolist()], totals.tolist()


# --- What is in a compiled program ---------------------------------------------------------------


def collectives(text: str) -> list[dict[str, Any]]:
    """Lists the collectives of a compiled step, and how often it runs each.

    Returns:
      Rows of operation, shapes, bytes (that one device receives) and times a step.
    """
    found: collections.Counter[tuple[str, str]] = collections.Counter()
    for kernel in hlo.kernels(text):
        if kernel.kind == "collectives":
            shapes = " ".join(re.findall(r"\w+\[[\d,]*\]", kernel.instruction.shape))
            found[kernel.instruction.opcode.removesuffix("-start"), shapes] += kernel.times
    return [
        {"operation": operation, "shapes": shapes, "bytes": hlo.size(shapes), "times_a_step": times}
        for (operation, shapes), times in found.items()
    ]


def _check_collectives(found, gradient_bytes: int, depth: int, mesh: Mesh) -> None:
    """Checks that only gradients and loss are summed, and cut weights gathered block by block."""
    summed = sum(row["bytes"] * row["times_a_step"] for row in found if _sums(row))
    if mesh.size > 1 and round(summed) != gradient_bytes:
        raise AssertionError(
            f"{summed} bytes are summed in a step, expected {gradient_bytes}: {found}"
        )
    for row in (row for row in found if not _sums(row)):
        whole = any(
            shape.partition("[")[2].startswith(f"{depth},") for shape in row["shapes"].split()
        )
        if row["operation"] != "all-gather" or mesh.shape["weights"] == 1 or whole:
            raise AssertionError(f"unexpected in the supernet's step: {row}")


def _sums(row) -> bool:
    return row["operation"] == "all-reduce"


def huge() -> dict[str, Any]:
    """Compiles a supernet step of a ViT-H/14 at 224 px, batch 64, bfloat16, for 8 devices.

    Returns:
      For each number of weight shards the MB of arguments on each device, and the collectives.
    """
    config = ViTConfig.named("vit_h14", image_size=224, num_classes=_CLASSES, dtype="bfloat16")
    held, found = {}, {}
    for shards in (1, 2, 4, 8):
        mesh = sharding.make_mesh(shards)
        compiled = compile_step(config, mesh)
        held[shards] = compiled.memory_analysis().argument_size_in_bytes / 1e6
        found[shards] = collectives(compiled.as_text())
        for row in found[shards]:
            if not _sums(row) and f"[{config.depth}," in row["shapes"]:
                raise AssertionError(f"all blocks are gathered at once: {row}")
    return {"argument_mb": held, "collectives_of_a_step": found}


def compile_step(config: ViTConfig, mesh: Mesh) -> jax.stages.Compiled:
    """Compiles a supernet step on 64 out of 128 images, without allocating it."""
    network = machine.abstract_network(config, dict.fromkeys(MODULES, 10), mesh)
    optimizer = step_lib.make_optimizer(_SCHEDULE, 2)
    one = np.zeros((1, config.image_size, config.image_size, 3), np.uint8)
    images = jax.ShapeDtypeStruct((128, *step_lib.as_lines(one).shape[1:]), jnp.uint8)
    labels = jax.ShapeDtypeStruct((128,), jnp.int32)
    order = jax.ShapeDtypeStruct((2, 64), jnp.int32)
    genomes = jax.ShapeDtypeStruct((2, 1, config.depth, len(MODULES)), jnp.int32)
    losses = jax.ShapeDtypeStruct((2,), jnp.float32)
    optimizer_state = jax.eval_shape(optimizer.init, network.params)
    state = machine.whole(step_lib.TrainState(network.params, optimizer_state), mesh)
    step = step_lib.make_step(network, optimizer, config.image_size, mesh)
    inputs = machine.whole(((images, labels, order), genomes), mesh)
    moment = np.int32(0), np.uint32(0)
    return step.lower(state, machine.whole(losses, mesh), network.frozen, *inputs, moment).compile()


# --- What is printed -----------------------------------------------------------------------------


def _differences(figures, expected) -> dict[str, float]:
    """The largest relative differences."""
    return {
        name: float(np.max(np.abs(np.array(values) / np.array(expected[name]) - 1)))
        for name, values in figures.items()
    }


def _table(runs) -> list[list[str]]:
    names = list(runs[0]["differences"])
    head = ["processes × devices, weight shards", *names, "summed", "gathered"]
    rows = [head]
    for run in runs:
        layout = f"{run['processes']} × {run['devices_each']}, {run['weight_shards']}"
        totals = [
            sum(
                r["bytes"] * r["times_a_step"]
                for r in run["collectives_of_a_step"]
                if _sums(r) == s
            )
            for s in (True, False)
        ]
        cells = [f"{run['differences'][name]:.1e}" for name in names]
        rows.append([layout, *cells, *(f"{total / 1e3:.1f} kB" for total in totals)])
    return rows


if __name__ == "__main__":
    main()
