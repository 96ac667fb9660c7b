"""Profiles a supernet step on a CPU, here and in PyTorch, operation by operation.

    python -m bench.profile [--backbone=vit_b16] [--image_size=224] [--batch=8] [--steps=3]
        [--rows=16] [--out=FILE.json]

XLA runs fusions. Each counts for the operation that the compiler names it after, with its result's
shape. Times are milliseconds a step, summed over all blocks. XLA's are wall time, with one
operation at a time. PyTorch's are those of the calling thread.
"""

import argparse
import os
import pathlib
import re
import tempfile

os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_cpu_enable_xprof_traceme=true"

import numpy as np
import torch

from bench import machine, torch_vit
from bench.against_torch import Ours, Theirs
from noah_jax.space import SearchSpace
from noah_jax.space.genomes import MODULES

_CLASSES, _SIZE = 100, 10


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--backbone", default="vit_b16", help="see vit.ViTConfig.named")
    for name, default in (("image_size", 224), ("batch", 8), ("steps", 3), ("rows", 16)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--out", type=pathlib.Path, help="a JSON file to write")
    arguments = parser.parse_args(argv)
    profiles = measure(arguments)
    result = machine.describe(__spec__.name, argv) | profiles
    table = [["", "ms a step"]]
    for side, rows in profiles.items():
        table += [["", ""], [f"{side}, in all", f"{sum(rows.values()):.0f}"]]
        table += [[name, f"{ms:.0f}"] for name, ms in list(rows.items())[: arguments.rows]]
    machine.finish(result, table, arguments.out)


def measure(arguments: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Measures milliseconds a step by operation, the largest first, for each side."""
    config = machine.vit(
        arguments.backbone, image_size=arguments.image_size, num_classes=_CLASSES, dtype="float32"
    )
    torch.manual_seed(0)
    model = torch_vit.Supernet(config, _SIZE)
    tensors = {name: x.numpy() for name, x in model.state_dict().items()}
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (arguments.batch, *[config.image_size] * 2, 3), np.uint8)
    labels = rng.integers(0, _CLASSES, arguments.batch).astype(np.int32)
    space = SearchSpace(
        dict.fromkeys(MODULES, (1, 5, _SIZE)), (3, 6, 9, 12), config.depth, config.width
    )
    genomes = space.sample(rng, arguments.steps)
    ours = Ours(config, tensors, images, labels, arguments.steps)
    theirs = Theirs(model, "cpu", images, labels, "float32")
    return {
        "XLA": _by_operation(ours, genomes),
        "PyTorch": _by_aten(theirs, genomes),
    }


def _by_operation(ours, genomes):
    ours.train(genomes)
    with tempfile.TemporaryDirectory() as folder:
        events = machine.traced(lambda: ours.train(genomes), folder)
    names = {}
    for name, shape, rest in re.findall(
        r"%(\S+) = (\S+?)(?:\{|\s)(.*)", ours.compiled_text(genomes)
    ):
        operation = re.search(r'op_name="[^"]*?([\w-]+)"', rest)
        backwards = "backwards" if "transpose(" in rest else "forwards"
        if operation and "while" not in rest.split("(")[0]:
            names[name] = f"{operation[1]} {shape}, {backwards}"
    return machine.longest((names[name], ms / len(genomes)) for name, ms in events if name in names)


def _by_aten(theirs, genomes):
    theirs.train(genomes)
    with torch.profiler.profile() as profile:
        theirs.train(genomes)
    return machine.longest(
        (event.key, event.self_cpu_time_total / 1e3 / len(genomes))
        for event in profile.key_averages()
    )


if __name__ == "__main__":
    main()
