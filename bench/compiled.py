"""Compiles the programs of a run for a GPU or TPU that is not here, and says where time would go.

    python -m bench.compiled --device=h200|h100|v5e:2x4|v6e:2x4|… [--program=step+evaluation+…]
        [--backbone=vit_b16] [--image_size=224] [--batch=64] [--size=10] [--genomes_per_call=4]
        [--attention=auto] [--rematerialise] [--weight_shards=1] [--hosts=1] [--depth=12]
        [--rows=20] [--out=FILE.json] [--text=FILE]

It needs no accelerator, but JAX's package for it: `pip install -r launch/requirements-cuda.txt` or
`-r launch/requirements-tpu.txt`, in an environment of its own.

For a GPU, each kernel's time is estimated as the larger of the bytes that it moves over the
device's bandwidth and the operations of its products over the device's rate, and a launch. Which
kernel a library would choose for a product is not known without the device. For a TPU the times are
the cycles that its compiler expects, and operations are not counted. Both say where the time goes,
not how much it is: of 25.0 ms that an H200 took for a step, the estimate was 19.5 ms. Memory is
exact.

The programs are those of a run: `step` is a supernet step (or retraining's, which is the same at
the largest size), `augmented` a step on streamed images with mixup and cutmix, `evaluation` that of
a call's genomes on 200 images, `test` that of a subnet on a batch of streamed ones. All is each of
them. With several, joined by +, or several devices, each is a line of the table. `--hosts=2` makes
a TPU slice of so many hosts, of which each has the chips that the device names: with `v5e:2x4` it
has 4x4.
"""

import argparse
import collections
import dataclasses
import os
import pathlib
import re

# The compiler must not look for the device, and without one it cannot choose between Triton's
# products and those of cuBLAS.
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_gpu_enable_triton_gemm=false"
os.environ |= {"TPU_SKIP_MDS_QUERY": "1", "TPU_WORKER_HOSTNAMES": "localhost"}
os.environ["ALLOW_MULTIPLE_LIBTPU_LOAD"] = "1"  # no device that only one process can have

import jax
import numpy as np
from jax.experimental import topologies
from jax.sharding import AxisType, Mesh

from bench import hlo, machine
from noah_jax.config.settings import SupernetSchedule
from noah_jax.runtime import sharding
from noah_jax.space.genomes import MODULES
from noah_jax.training import evaluation
from noah_jax.training import step as step_lib
from noah_jax.vit import ViTConfig, execution

_CLASSES, _STEPS = 100, 12  # steps in an epoch
_SCHEDULE = SupernetSchedule()


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
    parser.add_argument("--program", default="step", help=f"{', '.join(_PROGRAMS)}, or all")
    parser.add_argument("--backbone", default="vit_b16", help="see ViTConfig.named")
    for name, default in (("image_size", 224), ("batch", 64), ("size", 10), ("rows", 20)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--genomes_per_call", type=int, default=4, help="on each device")
    parser.add_argument("--attention", default="auto", choices=("auto", "plain"))
    parser.add_argument("--rematerialise", action="store_true")
    parser.add_argument("--weight_shards", type=int, default=1)
    parser.add_argument("--depth", type=int, help="blocks, if not the backbone's number")
    parser.add_argument("--hosts", type=int, default=1, help="of a TPU slice")
    parser.add_argument("--out", type=pathlib.Path, help="a JSON file to write")
    parser.add_argument("--text", type=pathlib.Path, help="a file for the compiled program")
    arguments = parser.parse_args(argv)
    chosen = _PROGRAMS if arguments.program == "all" else arguments.program.split("+")
    several = len(chosen) > 1 or "+" in arguments.device
    if several and arguments.text:
        parser.error("--text is for one program on one device")
    if unknown := [name for name in chosen if name not in _PROGRAMS]:
        parser.error(f"unknown programs {unknown}: expected some of {list(_PROGRAMS)}, or all")
    settings = {key: value for key, value in vars(arguments).items() if key not in ("out", "text")}
    result = machine.describe(__spec__.name, argv) | {"settings": settings}
    programs = {
        f"{device} {name}": measure(device, name, arguments)
        for device in arguments.device.split("+")
        for name in chosen
    }
    if several:
        for program in programs.values():
            del program["largest"]
        machine.finish(result | {"programs": programs}, _summaries(programs), arguments.out)
    else:
        (only,) = programs.values()
        machine.finish(result | only, _table(only, arguments.rows), arguments.out)


def measure(device: str, program: str, arguments: argparse.Namespace) -> dict:
    """Compiles a program for a device, and adds up what it does; for the arguments see `main`."""
    compiled, seconds = compile_program(device, program, arguments)
    text = compiled.as_text()
    if arguments.text:
        arguments.text.write_text(text)
    memory = {"planned_mb": machine.peak_memory(compiled)["compiler_mb"]}
    found = summary(hlo.kernels(text), _GPUS.get(device))
    return {"compile_seconds": seconds, "memory": memory, **found}


def compile_program(
    device: str, program: str, arguments: argparse.Namespace
) -> tuple[jax.stages.Compiled, dict[str, float]]:
    """Compiles a program for a device; returns the seconds that each step took as well."""
    described = _topology(device, arguments.hosts)
    devices = np.array(described.devices).reshape(-1, arguments.weight_shards)
    mesh = Mesh(devices, ("data", "weights"), axis_types=(AxisType.Auto,) * 2)
    config = ViTConfig.named(
        arguments.backbone,
        image_size=arguments.image_size,
        num_classes=_CLASSES,
        dtype="bfloat16",
        rematerialise=arguments.rematerialise,
        execution=_execution(device, arguments.attention),
    )
    config = dataclasses.replace(config, depth=arguments.depth or config.depth)
    network = machine.abstract_network(config, dict.fromkeys(MODULES, arguments.size), mesh)
    function, *inputs = _PROGRAMS[program](network, config, arguments, mesh)
    return machine.traced_lowered_compiled(function, *inputs)


def _execution(device: str, attention: str) -> execution.Execution:
    """The execution that a run would choose on the device."""
    if device not in _GPUS:
        return execution.on("tpu")
    return dataclasses.replace(execution.on("gpu"), fused_attention=attention == "auto")


def _topology(device: str, hosts: int):
    """The device as the compiler knows it, without being there."""
    kind = "cuda" if device in _GPUS else "tpu"
    if kind == "cuda":
        more = {"topology": "1x1x1", "target_config": _HOPPER.format(_GPUS[device])}
    else:
        name, sides = _slice(device)
        whole = "x".join(map(str, (hosts * sides[0], *sides[1:])))
        bounds = (*sides, 1, 1)[:3]
        more = {"topology_name": f"{name}:{whole}", "chips_per_host_bounds": bounds}
    try:
        return topologies.get_topology_desc(platform=kind, **more)
    except (RuntimeError, ValueError, NotImplementedError) as error:
        raise SystemExit(
            f"{error}\nTo compile for {device}, install JAX's package for it in an environment of "
            f"its own: pip install -r requirements.txt -r launch/requirements-{kind}.txt"
        ) from error


def _slice(device: str) -> tuple[str, list[int]]:
    """The kind of a TPU and the chips along each side, of `v5e:2x4`."""
    found = re.fullmatch(r"(\w+):(\d+(?:x\d+){1,2})", device)
    if not found:
        known = ", ".join(_GPUS)
        raise SystemExit(f"unknown device {device!r}: expected {known} or a slice like v5e:2x4")
    return found[1], [int(side) for side in found[2].split("x")]


def _step(network, config, arguments, mesh):
    batch, side = arguments.batch, arguments.image_size
    images = np.broadcast_to(np.uint8(0), (_STEPS * batch, side, side, 3))
    data = machine.numbered((images, np.zeros(_STEPS * batch, np.int32)), _STEPS)
    optimizer = step_lib.make_optimizer(_SCHEDULE, _STEPS)
    step = step_lib.make_step(network, optimizer, side, mesh)
    return step, *_inputs(optimizer, network, machine.whole(data, mesh), config, mesh)


def _augmented(network, config, arguments, mesh):
    batch, side = arguments.batch, arguments.image_size
    images = _rows((batch, side, side, 3), np.uint8, mesh)
    optimizer = step_lib.make_optimizer(_SCHEDULE, _STEPS)
    step = step_lib.make_augmented_step(network, optimizer, _CLASSES, mesh)
    data = images, _rows((batch,), np.int32, mesh)
    return step, *_inputs(optimizer, network, data, config, mesh)


def _inputs(optimizer, network, data, config, mesh):
    """The arguments of a training step."""
    state = step_lib.TrainState(network.params, jax.eval_shape(optimizer.init, network.params))
    genomes = np.zeros((_STEPS, 1, config.depth, len(MODULES)), np.int32)
    begin = machine.whole((state, np.zeros(_STEPS, np.float32)), mesh)
    rest = machine.whole((genomes, (np.int32(0), np.uint32(0))), mesh)
    return *begin, network.frozen, data, *rest


def _evaluation(network, config, arguments, mesh):
    side, genomes = config.image_size, arguments.genomes_per_call * mesh.size
    shapes = np.broadcast_to(np.uint8(0), (2, 100, side, side, 3)), np.zeros((2, 100), np.int32)
    return _evaluator(network, machine.whole(shapes, mesh), genomes, config, mesh)


def _test(network, config, arguments, mesh):
    side, rows = config.image_size, 100 * mesh.size
    images = _rows((1, rows, side, side, 3), np.uint8, mesh, axis=1)
    data = images, _rows((1, rows), np.int32, mesh, axis=1)
    return _evaluator(network, data, 1, config, mesh)


def _evaluator(network, data, genomes, config, mesh):
    genomes = np.zeros((genomes, config.depth, len(MODULES)), np.int32)
    others = machine.whole((genomes, np.ones(_CLASSES, bool)), mesh)
    evaluate = evaluation.make_evaluator(network, mesh)
    return evaluate, network.params, network.frozen, *data, *others


def _rows(shape, dtype, mesh, axis=0) -> jax.ShapeDtypeStruct:
    """A batch that is spread over the devices along an axis."""
    place = sharding.rows_sharding(mesh, shape[axis], axis)
    return jax.ShapeDtypeStruct(shape, dtype, sharding=place)


_PROGRAMS = {"step": _step, "augmented": _augmented, "evaluation": _evaluation, "test": _test}


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


def _summaries(programs) -> list[list[str]]:
    unit = {result["unit"] for result in programs.values()}
    table = [
        ["program", " or ".join(unit), "GB", "collectives", "MB summed", "plan MB", "compile s"]
    ]
    for name, result in programs.items():
        collectives = result["collectives"]
        summed = sum(row["gb"] for row in collectives) * 1e3
        table.append(
            [
                name,
                f"{result['all']['time']:.2f}",
                f"{result['all']['gb']:.1f}",
                f"{sum(row['kernels'] for row in collectives)}",
                f"{summed:.1f}",
                f"{result['memory']['planned_mb']:.0f}",
                f"{result['compile_seconds']['total']:.1f}",
            ]
        )
    return table


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
    for name, seconds in result["compile_seconds"].items():
        table.append([f"compile time, {name}, s", f"{seconds:.1f}", "", "", ""])
    return table


if __name__ == "__main__":
    main()
