"""Small pictures on disk: three plain colours, and the folders of ImageNet."""

import io
import pathlib

import numpy as np
import PIL.Image

from noah_jax import data
from noah_jax.data import Source, loader
from noah_jax.data.shots import Shots

SYNSETS = [f"n{10_000 + 7 * label:08d}" for label in range(1000)]


def write_photo(path: pathlib.Path, label: int, rng: np.random.Generator) -> None:
    """A noisy photo of 40×40 in red, green or blue."""
    pixels = rng.integers(0, 90, (40, 40, 3))
    pixels[..., label] += 150
    PIL.Image.fromarray(pixels.astype(np.uint8)).save(path)


def write_colours(folder: pathlib.Path) -> None:
    """Photos of three plain colours in VTAB-1k's layout: 24 to train, 9 to validate, 15 to test."""
    rng, rows = np.random.default_rng(0), {}
    for name, count in (("train800", 24), ("val200", 9), ("test", 15)):
        (folder / "images" / name).mkdir(parents=True)
        rows[name] = []
        for i in range(count):
            label, path = i % 3, f"images/{name}/{i:06d}.jpg"
            write_photo(folder / path, label, rng)
            rows[name].append(f"{path} {label}\n")
    rows["train800val200"] = rows["train800"] + rows["val200"]
    for name, lines in rows.items():
        (folder / f"{name}.txt").write_text("".join(lines))


def write_imagenet(home: pathlib.Path) -> None:
    """Two training images and a validation image of each class; parts of V2 and R."""
    image = io.BytesIO()
    PIL.Image.new("RGB", (2, 2)).save(image, "jpeg", quality=20)

    def put(*parts):
        path = home.joinpath(*parts)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(image.getvalue())

    for label, synset in enumerate(SYNSETS):
        for number in range(2):
            put("imagenet", "train", synset, f"{synset}_{number}.JPEG")
        put("imagenet", "val", synset, f"ILSVRC2012_val_{label:08d}.JPEG")
        put("imagenetv2", "imagenetv2-matched-frequency-format-val", str(label), "0.jpeg")
    for label in range(0, 1000, 5):
        put("imagenet-rendition", "imagenet-r", SYNSETS[label], "art 0.jpg")


def open_red(place: pathlib.Path, shots: Shots | None = None, label_column: str = "") -> Source:
    """Opens images whose red channel is 80 × class, and sees that each has its own label."""
    source = data.open_source(place.name, str(place.parent), 0, shots, label_column)
    names = [name for split in ("train", "val", "test") for name in source.splits[split].names]
    assert len({*names}) == len(names)  # none is in two splits
    for split in source.splits.values():
        images, labels = loader.load(split, 8)
        np.testing.assert_array_equal(images[:, 0, 0, 0], 80 * labels)
    return source


def sizes(source: Source) -> dict[str, int]:
    """The number of images in train, val and test."""
    return {name: len(split) for name, split in source.splits.items() if name != "trainval"}
