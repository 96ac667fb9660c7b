"""VTAB-1k's specialized sets."""

import gzip
import io

import numpy as np
import PIL.Image

from tests.helpers.tfds_raw.formats import (
    h5_file,
    image_file,
    labels,
    pictures,
    splits,
    text_file,
    zip_file,
)


def patch_camelyon():
    files = {}
    for split, numbers in splits(train=810, validation=205, test=40).items():
        name = f"camelyonpatch_level_2_split_{split.replace('validation', 'valid')}"
        y = np.array(numbers).reshape(-1, 1, 1, 1) % 2
        for kind, array in (("x", pictures(numbers, 96)), ("y", y)):
            files[f"{name}_{kind}.h5.gz"] = gzip.compress(h5_file({kind: array}), 1)
    return files


def eurosat():
    names = labels("eurosat")
    images = {
        f"2750/{names[n % 10]}/{names[n % 10]}_{n}.jpg": image_file(n, height=64, width=64)
        for n in range(1350)
    }
    return {"EuroSAT.zip": zip_file(images)}


def resisc45():
    names, files = labels("resisc45"), {}
    for n in range(1350):
        path = f"NWPU-RESISC45/{names[n % 45]}/{names[n % 45]}_{n:03d}.jpg"
        files[path] = image_file(n, height=256, width=256)
    return files


def diabetic_retinopathy_detection():
    """The builder's filter leaves of the squares only their edges: what tells images apart."""
    parts = splits(train=810, validation=205, test=40)
    rows = {split: [f"{n}_left,{n % 5}" for n in numbers] for split, numbers in parts.items()}
    solution = [f"{row},Public" for row in rows["validation"]]
    solution += [f"{row},Private" for row in rows["test"]]
    files = {
        "trainLabels.csv": text_file(["image,level", *rows["train"]]),
        "retinopathy_solution.csv": text_file(["image,level,Usage", *solution]),
        "sample/10_left.jpeg": image_file(10),
    }
    for split, numbers in parts.items():
        folder = "train" if split == "train" else "test"
        for n in numbers:
            # A row of 16 bits, none of them black: the filter takes black for the background.
            pixels = np.repeat(128 + 127 * (n >> np.arange(16) & 1), 2).astype(np.uint8)
            out = io.BytesIO()
            PIL.Image.fromarray(np.tile(pixels, (2, 1))).convert("RGB").save(out, "JPEG")
            files[f"{folder}/{n}_left.jpeg"] = out.getvalue()
    return files


DATASETS = (patch_camelyon, eurosat, resisc45, diabetic_retinopathy_detection)
