"""VTAB-1k's natural sets."""

import io

import numpy as np
import PIL.Image
import tensorflow_datasets as tfds

from tests.helpers.tfds_raw.formats import (
    image_file,
    labels,
    mat_file,
    pictures,
    splits,
    tar_file,
    text_file,
    zip_file,
)


def cifar100():
    files = {
        f"cifar-100-binary/{kind}_label_names.txt": text_file(f"{kind}{i}" for i in range(classes))
        for kind, classes in (("coarse", 20), ("fine", 100))
    }
    for split, numbers in splits(train=2000, test=40).items():
        rows = np.zeros((len(numbers), 2 + 3 * 1024), np.uint8)
        rows[:, 1] = np.array(numbers) % 100
        rows[:, 2:] = pictures(numbers, 32).transpose(0, 3, 1, 2).reshape(len(rows), -1)
        files[f"cifar-100-binary/{split}.bin"] = rows.tobytes()
    return {"cifar-100-binary.tar.gz": tar_file(files)}


def caltech101():
    """68 of the classes: the builder draws 30 images of each for `train`."""
    names, images = labels("caltech101"), {}
    for n in range(68 * 31):
        path = f"101_ObjectCategories/{names[n % 68]}/image_{1 + n // 68:04d}.jpg"
        images[path] = image_file(n)
    inner = {"caltech-101/101_ObjectCategories.tar.gz": tar_file(images)}
    return {"caltech-101.zip": zip_file(inner)}


def dtd():
    names, files = labels("dtd"), {}
    for split, numbers in splits(train=810, validation=205, test=40).items():
        paths = {f"{names[n % 47]}/{names[n % 47]}_{n:05d}.jpg": image_file(n) for n in numbers}
        files[f"dtd/labels/{split.replace('validation', 'val')}1.txt"] = text_file(paths)
        files |= {f"dtd/images/{path}": data for path, data in paths.items()}
    return {"dtd-r1.0.1.tar.gz": tar_file(files)}


def oxford_flowers102():
    """Images are numbered from 1 through all the splits."""
    numbers = [n for part in splits(train=816, validation=205, test=40).values() for n in part]
    images = {f"jpg/image_{i:05d}.jpg": image_file(n) for i, n in enumerate(numbers, 1)}
    ids = np.arange(1, len(numbers) + 1)
    return {
        "102flowers.tgz": tar_file(images),
        "imagelabels.mat": mat_file(labels=1 + np.array(numbers) % 102),
        "setid.mat": mat_file(trnid=ids[:816], valid=ids[816:1021], tstid=ids[1021:]),
    }


def oxford_iiit_pet():
    names, images, annotations = labels("oxford_iiit_pet"), {}, {}
    for split, numbers in splits(train=1000, test=40).items():
        stems = [f"{names[n % 37]}_{n}" for n in numbers]
        images |= {f"images/{s}.jpg": image_file(n) for s, n in zip(stems, numbers, strict=True)}
        annotations[f"annotations/{split.replace('train', 'trainval')}.txt"] = text_file(
            f"{s} {1 + n % 37} 1 1" for s, n in zip(stems, numbers, strict=True)
        )
        mask = io.BytesIO()
        PIL.Image.new("L", (32, 32), 2).save(mask, "PNG")
        annotations |= {f"annotations/trimaps/{stem}.png": mask.getvalue() for stem in stems}
    return {"images.tar.gz": tar_file(images), "annotations.tar.gz": tar_file(annotations)}


def svhn_cropped():
    """The digit 0 has label 10."""
    files = {}
    for split, numbers in (splits(train=2000, test=40) | {"extra": range(1)}).items():
        files[f"{split}_32x32.mat"] = mat_file(
            X=pictures(numbers, 32).transpose(1, 2, 3, 0),
            y=np.array([[number % 10 or 10] for number in numbers]),
        )
    return files


def sun397():
    """The builder knows its splits by the real file names."""
    names, files = labels("sun397"), {}
    lists = {"train": "tr", "validation": "va", "test": "te"}
    for split, numbers in splits(train=810, validation=205, test=40).items():
        path = tfds.core.tfds_path(f"image_classification/sun397_tfds_{lists[split]}.txt")
        in_class = {name: [] for name in names}
        for line in path.read_text().split():
            in_class[line.rpartition("/")[0]].append(line)
        for n in numbers:
            files[f"SUN397{in_class[names[n % 397]].pop()}"] = image_file(n)
    return {"SUN397.tar.gz": tar_file(files), "Partitions.zip": zip_file({"ClassName.txt": b""})}


DATASETS = (cifar100, caltech101, dtd, oxford_flowers102, oxford_iiit_pet, svhn_cropped, sun397)
