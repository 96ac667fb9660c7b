"""Measures how fast test images are decoded, on how many cores, and in how much host memory.

    python -m bench.streaming [--images=50000] [--size=224] [--out=bench/results/streaming.json]

It evaluates a streamed test set of JPEGs of 500×375 pixels, like ImageNet's. The ViT is so small
that decoding takes nearly all the time. As in a run, `loader.batches` feeds
`evaluation.score_stream`. The images are made here; 1,000 files are listed over and over.
"""

import argparse
import pathlib
import tempfile
import time

import numpy as np
import PIL.Image

from bench import machine
from noah_jax.data import folders, loader
from noah_jax.runtime import memory, sharding
from noah_jax.training import evaluation
from noah_jax.vit import ViTConfig

_FILES = 1000
_NO_PROMPTS = {"vpt": 0, "lora": 0, "adapter": 0}


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=50_000)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--out", type=pathlib.Path, help="a JSON file to write")
    arguments = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        result = machine.describe(__spec__.name, argv)
        result |= measure(pathlib.Path(folder), arguments.images, arguments.size)
    names = ("images", "images_per_second", "cores_at_work", "peak_memory_mb")
    machine.finish(result, [names, [str(result[name]) for name in names]], arguments.out)


def measure(folder: pathlib.Path, images: int, size: int) -> dict:
    """Measures images a second, busy cores and peak memory in MB, over the whole test set."""
    files = make_jpegs(folder)
    rows = [(files[index % _FILES], index % 10) for index in range(images)]
    split = folders.file_split(folder, rows)
    config = ViTConfig(width=32, depth=1, heads=1, patch_size=32, image_size=size, num_classes=10)
    mesh = sharding.make_mesh()
    network = machine.network(config, _NO_PROMPTS, mesh)
    genome = np.zeros((1, 3), np.int32)
    evaluate = evaluation.make_evaluator(network, mesh, with_logits=True)

    def score(split):
        batches = loader.batches(split, size, 100, crop=True)
        images = evaluation.Remaining(batches, 100, len(split), split.classes)
        inputs = network, network.params, genome, images, evaluate, mesh
        return list(evaluation.score_stream(*inputs))

    score(folders.file_split(folder, rows[:100]))  # compiles
    before = memory.host_peak_mb()
    start, cpu = time.perf_counter(), time.process_time()
    score(split)
    wall, cpu = time.perf_counter() - start, time.process_time() - cpu
    return {
        "images": images,
        "size": size,
        "jpeg_kb": round(np.mean([(folder / file).stat().st_size for file in files]) / 1000, 1),
        "seconds": round(wall, 1),
        "images_per_second": round(images / wall, 1),
        "cores_at_work": round(cpu / wall, 2),
        "peak_memory_mb": memory.host_peak_mb(),
        "peak_memory_before_mb": before,
    }


def make_jpegs(folder: pathlib.Path) -> list[pathlib.Path]:
    """Makes JPEGs of 500×375 pixels with structure at all scales, which cost as much as photos."""
    rng = np.random.default_rng(0)
    files = []
    for number in range(_FILES):
        image = np.zeros((375, 500, 3))
        for cells in (2, 8, 32, 128):
            noise = rng.integers(0, 256, (cells, cells, 3)).astype(np.uint8)
            layer = PIL.Image.fromarray(noise).resize((500, 375), PIL.Image.Resampling.BILINEAR)
            image += np.asarray(layer) / 4
        file = pathlib.Path(f"{number:04d}.jpg")
        PIL.Image.fromarray(image.astype(np.uint8)).save(folder / file, quality=90)
        files.append(file)
    return files


if __name__ == "__main__":
    main()
