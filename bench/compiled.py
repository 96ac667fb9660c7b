"""Compiles the programs of a run for a GPU or TPU that is not here, and says where time would go.

    python -m bench.compiled --device=h200|h100|v5e:2x4|v6e:2x4|… [--program=step]
        [--backbone=vit_b16] [--image_size=224] [--batch=64] [--size=10] [--genomes_per_call=4]
        [--attention=auto] [--rematerialise] [--weight_shards=1] [--rows=20] [--out=FILE.json]
        [--text=FILE]

It needs no accelerator, but JAX's package for it: `pip install -r launch/requirements-cuda.txt` or
`-r launch/requirements-tpu.txt`, in an environment of its own.

For a GPU, each kernel's time is estimated as the larger of the bytes that it moves over the
device's bandwidth and the operations of its products over the device's rate, and a launch. Which
kernel a library would choose for a product is not known without the device. For a TPU the times are
the cycles that its compiler expects, and operations are not counted. Both say where the time goes,
not how much it is: of 25.0 ms that an H200 took for a step, the estimate was 19.5 ms. Memory is
exact.

The programs are those of `bench.throughput`: a supernet step (or retraining's, which is the same at
the largest size), the evaluation of a call's genomes on 200 images, and a batch of the test.
"""

import argparse
import collections
import dataclasses
import os
import pathlib
import re
import time

# The compiler must not look for the device, and without one it cannot choose between Triton's
# products and those of cuBLAS.
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_gpu_enable_triton_gemm=false"
os.environ |= {"TPU_SKIP_MDS_QUERY": "1", "TPU_WORKER_HOSTNAMES": "localhost"}

import jax
import numpy as np
from jax.experimental import topologies
from jax.sharding import AxisType, Mesh, NamedSharding

from bench import hlo, machine
from noah_jax.config.settings import Schedule
from noah_jax.runtime import sharding
from noah_jax.space.genomes import MODULES
from noah_jax.training import evaluation
from noah_jax.training import step as step_lib
from noah_jax.vit import ViTConfig, execution
from noah_jax.vit.network import Network

_CLASSES = 100


@dataclasses.dataclass(frozen=True)
class _GPU:
    """What is known of a GPU: bytes and operations (bfloat16 products) a second, and its memory."""

    name: str
    bandwidth: float  # the data sheet's, for the compiler
    copies: float  # reached by copies
    products: float
    memory: float


_GPUS = {
    # Copies and products as measured there, see README.md.
    "h200": _GPU("NVIDIA H200", 4.8e12, 4.0e12, 679e12, 150e9),
    # Not measured: the same share of the data sheet's bandwidth, the same clock and cores.
    "h100": _GPU("NVIDIA H100 80GB HBM3", 3.35e12, 2.8e12, 679e12, 85e9),
}
_LAUNCH_SECONDS = 2.5e-6
# As CUDA's runtime describes a GPU of the Hopper generation.
_HOPPER = """
gpu_device_info {{
  name: "{0.name}" device_vendor: "NVIDIA Corporation"
  platform_version: "Compute Capability 9.0a"
  cuda_compute_capability {{ major: 9 feature_extension: ACCELERATED_FEATURES }}
  core_count: 132 fpus_per_core: 128 clock_rate_ghz: 1.98
  threads_per_warp: 32 threads_per_block_limit: 1024 threads_per_core_limit: 2048
  thread_dim_limit_x: 1024 thread_dim_limit_y: 1024 thread_dim_limit_z: 64
  block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
  registers_per_core_limit: 65536 registers_per_block_limit: 65536
  shared_memory_per_block: 49152 shared_memory_per_block_optin: 232448
  shared_memory_per_core: 233472 l2_cache_size: 52428800
  memory_bandwidth: {0.bandwidth:.0f} device_memory_size: {0.memory:.0f} device_address_bits: 64
  driver_version: "13.0.0" runtime_version: "13.0.0" compile_time_toolkit_version: "13.0.0"
  dnn_version: "9.10.0"
}}
platform_name: "CUDA" dnn_version_info {{ major: 9 minor: 10 }}
device_description_str: "{0.name}"
"""


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", required=True, help="h100, h200 or a TPU slice, e.g. v5e:2x4")
    parser.add_argument("--program", default="step", choices=_PROGRAMS)
    parser.add_argument("--backbone", default="vit_b16", help="see ViTConfig.named")
    for name, default in (("image_size", 224), ("batch", 64), ("size", 10), ("rows", 20)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--genomes_per_call", type=int, default=4, help="on each device")
    parser.add_argument("--attention", default="auto", choices=("auto", "plain"))
    parser.add_argument("--rematerialise", action="store_true")
    parser.add_argument("--weight_shards", type=int, default=1)
    parser.add_argument("--out", type=pathlib.Path, help="a JSON file to write")
    parser.add_argument("--text", type=pathlib.Path, help="a file for the compiled program")
    arguments = parser.parse_args(argv)
    compiled, seconds = compile_program(arguments)
    text = compiled.as_text()
    if arguments.text:
        arguments.text.write_text(text)
    gpu = _GPUS.get(arguments.device)
    found = summary(hlo.kernels(text), gpu)
    memory = {"planned_mb": machine.peak_memory(compiled)["compiler_mb"]}
    settings = {key: value for key, value in vars(arguments).items() if key not in ("out", "text")}
    result = machine.describe(__spec__.name, argv) | {"settings": settings}
    result |= {"compile_seconds": round(seconds, 1), "memory": memory, **found}
    machine.finish(result, _table(result, arguments.rows), arguments.out)


def compile_program(arguments: argparse.Namespace) -> tuple[jax.stages.Compiled, float]:
    """Compiles a program for a device; returns the seconds that this took as well."""
    described = _topology(arguments.device)
    devices = np.array(described.devices).reshape(-1, arguments.weight_shards)
    mesh = Mesh(devices, ("data", "weights"), axis_types=(AxisType.Auto,) * 2)
    config = ViTConfig.named(
        arguments.backbone,
        image_size=arguments.image_size,
        num_classes=_CLASSES,
        dtype="bfloat16",
        rematerialise=arguments.rematerialise,
        execution=_execution(arguments),
    )
    network = _abstract_network(config, arguments.size, mesh)
    start = time.perf_counter()
    compiled = _PROGRAMS[arguments.program](network, config, arguments, mesh).compile()
    return compiled, time.perf_counter() - start


def _execution(arguments: argparse.Namespace) -> execution.Execution:
    """The execution that a run would choose on the device."""
    if arguments.device not in _GPUS:
        return execution.on("tpu")
    fused = arguments.attention == "auto"
    return dataclasses.replace(execution.on("gpu"), fused_attention=fused)


def _topology(device: str):
    """The device as the compiler knows it, without being there."""
    kind = "cuda" if device in _GPUS else "tpu"
    target = {"target_config": _HOPPER.format(_GPUS[device])} if kind == "cuda" else {}
    name = {"topology": "1x1x1"} if kind == "cuda" else {"topology_name": device}
    try:
        return topologies.get_topology_desc(platform=kind, **name, **target)
    except (RuntimeError, ValueError, NotImplementedError) as error:
        raise SystemExit(
            f"{error}\nTo compile for {device}, install JAX's package for it in an environment of "
            f"its own: pip install -r requirements.txt -r launch/requirements-{kind}.txt"
        ) from error


def _abstract_network(config: ViTConfig, size: int, mesh: Mesh) -> Network:
    """The network as shapes that are placed on the devices of `mesh`."""
    here = sharding.make_mesh()
    network = machine.abstract_network(config, dict.fromkeys(MODULES, size), here)
    frozen = jax.tree.map(_placed, network.frozen, sharding.frozen_shardings(mesh, network.frozen))
    cut = mesh if mesh.shape["weights"] > 1 else None
    return dataclasses.replace(
        network, params=_whole(network.params, mesh), frozen=frozen, mesh=cut
    )


def _placed(x, place: NamedSharding) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place)


def _whole(tree, mesh):
    """The shapes of `tree`, whole on every device."""
    return jax.tree.map(lambda x: _placed(x, sharding.replicated(mesh)), tree)


def _step(network, config, arguments, mesh):
    steps, batch, side = 12, arguments.batch, arguments.image_size
    schedule = Schedule(500, batch, 5e-4, 1e-4, 10)
    optimizer = step_lib.make_optimizer(schedule, steps)
    state = step_lib.TrainState(network.params, jax.eval_shape(optimizer.init, network.params))
    images = np.broadcast_to(np.uint8(0), (steps * batch, side, side, 3))
    data = machine.numbered((images, np.zeros(steps * batch, np.int32)), steps)
    genomes = np.zeros((steps, 1, config.depth, len(MODULES)), np.int32)
    begin = _whole((state, np.zeros(steps, np.float32)), mesh)
    rest = _whole((data, genomes, (np.int32(0), np.uint32(0))), mesh)
    return step_lib.make_step(network, optimizer, side, mesh).lower(*begin, network.frozen, *rest)


def _evaluation(network, config, arguments, mesh):
    images = np.broadcast_to(np.uint8(0), (2, 100, *[config.image_size] * 2, 3))
    genomes = arguments.genomes_per_call * mesh.size
    return _evaluator(network, config, images, genomes, mesh)


def _test(network, config, arguments, mesh):
    images = np.broadcast_to(np.uint8(0), (1, 100 * mesh.size, *[config.image_size] * 2, 3))
    return _evaluator(network, config, images, 1, mesh)


def _evaluator(network, config, images, genomes, mesh):
    labels = np.zeros(images.shape[:2], np.int32)
    genomes = np.zeros((genomes, config.depth, len(MODULES)), np.int32)
    others = _whole((images, labels, genomes, np.ones(_CLASSES, bool)), mesh)
    return evaluation.make_evaluator(network, mesh).lower(network.params, network.frozen, *others)


_PROGRAMS = {"step": _step, "evaluation": _evaluation, "test": _test}


def summary(kernels: list[hlo.Kernel], gpu: _GPU | None) -> dict:
    """Adds up time, bytes and operations by kind and by stage, and lists the largest kernels.

    Args:
      gpu: its rates; None = a TPU, whose unit of time is a million cycles instead of milliseconds.
    """

    def cost(kernel):
        if gpu is None:
            return kernel.cycles / 1e6
        busy = max(kernel.moved / gpu.copies, kernel.operations / gpu.products)
        return 1e3 * (busy + _LAUNCH_SECONDS)

    def row(chosen):
        return {
            "time": round(sum(k.times * cost(k) for k in chosen), 3),
            "gb": round(sum(k.times * k.moved for k in chosen) / 1e9, 3),
            "tflop": round(sum(k.times * k.operations for k in chosen) / 1e12, 4),
            "kernels": sum(k.times for k in chosen),
        }

    def by(name):
        groups = collections.defaultdict(list)
        for kernel in kernels:
            groups[name(kernel)].append(kernel)
        rows = {key: row(group) for key, group in groups.items()}
        return dict(sorted(rows.items(), key=lambda item: -item[1]["time"]))

    listed = collections.defaultdict(list)
    for kernel in kernels:
        i = kernel.instruction
        shape = re.sub(r"\{[^}]*\}", "", i.shape)
        listed[kernel.kind, kernel.stage, shape, re.sub(r".*/", "", i.source)].append(kernel)
    rows = [
        dict(zip(("kind", "stage", "shape", "operation"), key, strict=True)) | row(group)
        for key, group in listed.items()
    ]
    collectives = [r for r in rows if r["kind"] == "collectives"]
    return {
        "unit": "ms" if gpu else "million cycles",
        "all": row(kernels),
        "kinds": by(lambda kernel: kernel.kind),
        "stages": by(lambda kernel: kernel.stage),
        "collectives": collectives,
        "largest": sorted(rows, key=lambda r: -r["time"])[:100],
    }


def _table(result, rows: int) -> list[list[str]]:
    table = [["", result["unit"], "GB", "TFLOP", "kernels"]]

    def add(name, row):
        numbers = f"{row['time']:.3f}", f"{row['gb']:.2f}", f"{row['tflop']:.3f}"
        table.append([name, *numbers, str(row["kernels"])])

    add("all", result["all"])
    for group in ("kinds", "stages"):
        for name, row in result[group].items():
            add(f"  {name}", row)
    for title, listed in (("collectives", result["collectives"]), ("largest", result["largest"])):
        table.append([title, "", "", "", ""])
        for row in listed[:rows]:
            add(f"  {row['kind']} {row['stage']} {row['operation'][-40:]} {row['shape'][:60]}", row)
    table.append(["memory planned, MB", f"{result['memory']['planned_mb']:.0f}", "", "", ""])
    table.append(["compile time, s", f"{result['compile_seconds']}", "", "", ""])
    return table


if __name__ == "__main__":
    main()
