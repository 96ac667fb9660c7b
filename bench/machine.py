"""Parts that the benchmarks share: the machine, a network of a named shape, timing, results."""

import collections
import contextlib
import dataclasses
import gzip
import json
import os
import pathlib
import platform
import shlex
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib.metadata import version
from typing import Any

import jax
import numpy as np
from flax import nnx
from jax.experimental.compilation_cache import compilation_cache
from jax.sharding import Mesh

from noah_jax.pretrained import NORMALISATIONS
from noah_jax.runtime import memory, sharding
from noah_jax.space.genomes import MODULES
from noah_jax.training import step as step_lib
from noah_jax.vit import ViT, ViTConfig, execution
from noah_jax.vit.attention import can_fuse
from noah_jax.vit.network import Network, make_network

_PACKAGES = ("jax", "jaxlib", "flax", "grain", "pillow", "numpy")


def describe(module: str, argv: Sequence[str] | None) -> dict[str, Any]:
    """Describes a measurement: its command, the machine, the devices and the versions.

    Args:
      module: of the benchmark, e.g. `bench.streaming`.
      argv: its arguments; None = those of the process.
    """
    devices = jax.devices()
    return {
        "command": shlex.join(["python", "-m", module, *(sys.argv[1:] if argv is None else argv)]),
        "processor": processor(),
        "cores": _cores(),
        "devices": [device.device_kind for device in devices],
        "platform": jax.default_backend(),
        "versions": {
            "python": platform.python_version(),
            **{name: version(name) for name in _PACKAGES},
        },
    }


def _cores():
    """The number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def processor() -> str:
    """The name of the host's processor, with further numbers if the name is not specific."""
    fields: dict[str, str] = {}
    with contextlib.suppress(OSError):
        for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines():
            key, _, value = line.partition(":")
            fields.setdefault(key.strip(), value.strip())
    name = fields.get("model name") or platform.processor() or platform.machine()
    numbers = [f"{key} {fields[key]}" for key in ("cpu family", "model") if key in fields]
    return f"{name} ({', '.join(numbers)})" if numbers else name


def peak_memory(compiled: jax.stages.Compiled | None = None) -> dict[str, float | None]:
    """Reads in MB the host's and the devices' peaks so far, and the compiler's plan for `compiled`.

    `allocator_peak_mb` is None if the backend does not count, as on a CPU.
    """
    peak = {"host_peak_mb": memory.host_peak_mb(), "allocator_peak_mb": memory.allocator_peak_mb()}
    return peak | ({"compiler_mb": memory.planned_mb(compiled)} if compiled is not None else {})


def host_mb() -> float:
    """The memory that this process holds now, in MB (Linux)."""
    pages = int(pathlib.Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def vit(name: str, attention: str = "auto", **overrides: Any) -> ViTConfig:
    """Makes `ViTConfig.named` with the execution that a run would choose on this device."""
    config = ViTConfig.named(name, **overrides)
    fused = attention == "auto" and can_fuse(
        config.heads, config.width // config.heads, config.dtype
    )
    how = execution.on(jax.default_backend())
    return dataclasses.replace(config, execution=dataclasses.replace(how, fused_attention=fused))


def network(config: ViTConfig, max_sizes: Mapping[str, int], mesh: Mesh) -> Network:
    """Makes a network with random weights, as `pipeline` does for supernet and subnet.

    Its speed does not depend on the weights.
    """
    backbone = jax.jit(lambda: _backbone(config))()
    return make_network(config, dict(max_sizes), backbone, NORMALISATIONS["half"], "noah", 0, mesh)


def abstract_network(config: ViTConfig, max_sizes: Mapping[str, int], mesh: Mesh) -> Network:
    """Makes the network of shapes, which takes no memory and can only be compiled.

    Args:
      mesh: the devices that the shapes are placed on; they may be absent.
    """
    made = []

    def init():
        made.append(network(config, max_sizes, sharding.make_mesh()))
        return made[0].params, made[0].frozen

    params, frozen = jax.eval_shape(init)
    return dataclasses.replace(
        made[0],
        params=whole(params, mesh),
        frozen=jax.tree.map(_placed, frozen, sharding.frozen_shardings(mesh, frozen)),
        mesh=mesh if mesh.shape["weights"] > 1 else None,
    )


def whole(tree: Any, mesh: Mesh) -> Any:
    """The shapes of the arrays of `tree`, each whole on every device."""
    return jax.tree.map(lambda x: _placed(x, sharding.replicated(mesh)), tree)


def _placed(x, place):
    return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place)


def _backbone(config):
    model = ViT(config, dict.fromkeys(MODULES, 0), rngs=nnx.Rngs(0))
    return nnx.split(model, nnx.PathContains("head"), ...)[2]


def numbered(batch: tuple, steps: int) -> tuple:
    """Makes the batch of `step.make_step` whose order is that of images and labels."""
    images, labels = batch
    order = np.arange(len(labels), dtype=np.int32).reshape(steps, -1)
    return step_lib.as_lines(images), labels, order


def train(step: Callable, state, losses, frozen, batch, genomes, first: int = 0) -> tuple:
    """Takes the steps of an epoch, from number `first` on, as a run does.

    Args:
      step: from `step.make_step`; the others are its arguments.

    Returns:
      The state and the losses.
    """
    for number in range(first, first + len(genomes)):
        moment = np.int32(number), np.uint32(0)
        state, losses = step(state, losses, frozen, batch, genomes, moment)
    return state, losses


def examples(shape: Sequence[int], classes: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Makes random images, uint8 `[*shape, size, size, 3]`, and labels, int32 `shape`."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (*shape, size, size, 3), np.uint8)
    return images, rng.integers(0, classes, shape, np.int32)


@contextlib.contextmanager
def compiling_anew():
    """Gives JAX, within, an empty cache of compiled programs of its own."""
    cache = {"compilation_cache_dir": "", "persistent_cache_min_compile_time_secs": 0}
    before = {name: getattr(jax.config, f"jax_{name}") for name in cache}
    with tempfile.TemporaryDirectory() as folder:
        try:
            _set(cache | {"compilation_cache_dir": folder})
            yield
        finally:
            _set(before)


def _set(options):
    for name, value in options.items():
        jax.config.update(f"jax_{name}", value)
    compilation_cache.reset_cache()  # else JAX remembers the folder


def compile_timed(
    function: Callable, *arguments: Any
) -> tuple[jax.stages.Compiled, dict[str, float]]:
    """Compiles a jitted function anew, and once more as the next process would.

    Returns:
      It, and the seconds to trace, lower and compile, `total`, and with the cache, `cached`.
    """
    with compiling_anew():
        compiled, first = traced_lowered_compiled(function, *arguments)
        _, again = traced_lowered_compiled(function, *arguments)
    return compiled, first | {"cached": again["total"]}


def traced_lowered_compiled(
    function: Callable, *arguments: Any
) -> tuple[jax.stages.Compiled, dict[str, float]]:
    """Compiles a jitted function; returns it and the seconds of each step, and in all."""
    jax.clear_caches()  # what equal networks have traced and lowered
    start = time.perf_counter()
    traced = function.trace(*arguments)
    middle = time.perf_counter()
    lowered = traced.lower()
    late = time.perf_counter()
    compiled = lowered.compile()
    end = time.perf_counter()
    seconds = {"trace": middle - start, "lower": late - middle, "compile": end - late}
    seconds["total"] = end - start
    return compiled, {name: round(value, 2) for name, value in seconds.items()}


def repeat(function: Callable, repeats: int) -> list[float]:
    """Times `repeats` calls in seconds, until their results are there, after one that warms up."""
    return in_turns([function], repeats)[0]


def in_turns(functions: Sequence[Callable], repeats: int) -> list[list[float]]:
    """Times several functions as `repeat`, but in turns, so that a slow spell affects all."""
    times: list[list[float]] = [[] for _ in functions]
    for _ in range(repeats + 1):
        for function, seconds in zip(functions, times, strict=True):
            start = time.perf_counter()
            jax.block_until_ready(function())
            seconds.append(time.perf_counter() - start)
    return [seconds[1:] for seconds in times]


def traced(call: Callable[[], Any], folder: str | pathlib.Path) -> list[tuple[str, float]]:
    """Lists what the profiler sees in a call: names of operations or kernels, and milliseconds.

    On a GPU these are the kernels of its streams, on a TPU its operations, on a CPU all but
    Python's calls.

    Args:
      call: what it returns is waited for.
      folder: for the whole trace, as XProf and Perfetto show it.
    """
    with jax.profiler.trace(folder, create_perfetto_trace=True):
        jax.block_until_ready(call())
    (*_, file) = sorted(pathlib.Path(folder).rglob("perfetto_trace.json.gz"))
    events = json.loads(gzip.decompress(file.read_bytes()))["traceEvents"]
    lines = {
        (event["pid"], event.get("tid")): event["args"].get("name", "")
        for event in events
        if event.get("name") in ("process_name", "thread_name")
    }
    on_devices = {
        line
        for line, name in lines.items()
        if lines.get((line[0], None), "").startswith("/device:")
        and ("Stream" in name or name == "XLA Ops")
    }
    return [
        (event["name"], event["dur"] / 1e3)
        for event in events
        if event.get("ph") == "X"
        and not event["name"].startswith("$")
        and (not on_devices or (event["pid"], event["tid"]) in on_devices)
    ]


def longest(pairs: Iterable[tuple[str, float]]) -> dict[str, float]:
    """Adds up the milliseconds of each name; the longest come first."""
    total: collections.Counter[str] = collections.Counter()
    for name, milliseconds in pairs:
        total[name] += milliseconds  # type: ignore[assignment]
    return {name: round(value, 4) for name, value in total.most_common()}


def spread(values: Sequence[float]) -> dict[str, Any]:
    """The median, quartiles and extremes of repeated measurements."""
    low, first, median, third, high = np.percentile(values, (0, 25, 50, 75, 100)).tolist()
    names = {"median": median, "min": low, "quartiles": [first, third], "max": high}
    return {name: _digits(value) for name, value in names.items()} | {"repeats": len(values)}


def finish(result: dict[str, Any], table: Sequence[Sequence[str]], out: pathlib.Path | None):
    """Prints the table, and writes the result as JSON to `out`, or prints it if `out` is None."""
    text = json.dumps(result, indent=2)
    if out is None:
        print(text)
    else:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(text + "\n")
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for row in table:
        cells = [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
        print("  ".join([row[0].ljust(widths[0]), *cells]).rstrip())


def _digits(value):
    """Rounds numbers to four significant digits, also inside lists."""
    return [_digits(item) for item in value] if isinstance(value, list) else float(f"{value:.4g}")
