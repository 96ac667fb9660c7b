"""Few-shot sets that are not VTAB-1k's, ImageNet and its other domains."""

import numpy as np

from tests.helpers.tfds_raw.formats import (
    image_file,
    json_file,
    labels,
    mat_file,
    splits,
    tar_file,
    zip_file,
)

SYNSETS = ("n01440764", "n01498041", "n03764736", "n04522168", "n07753592", "n15075141")


def cars196():
    files, lists = {}, {}
    for split, numbers in splits(train=4 * 196, test=196).items():
        images = {f"cars_{split}/{i:05d}.jpg": image_file(n) for i, n in enumerate(numbers, 1)}
        files[f"cars_{split}.tgz"] = tar_file(images)
        rows = [(1, 2, 3, 4, 1 + n % 196, f"{i:05d}.jpg") for i, n in enumerate(numbers, 1)]
        fields = ("bbox_x1", "bbox_y1", "bbox_x2", "bbox_y2", "class", "fname")
        lists[split] = mat_file(annotations=np.array([rows], [(field, object) for field in fields]))
    devkit = {"devkit/cars_train_annos.mat": lists["train"]}
    return files | {
        "car_devkit.tgz": tar_file(devkit),
        "cars_test_annos_withlabels.mat": lists["test"],
    }


def food101():
    names, files = labels("food101"), {}
    for split, numbers in splits(train=4 * 101, validation=101).items():
        paths = {name: [] for name in names}
        for n in numbers:
            paths[names[n % 101]].append(f"{names[n % 101]}/{n}")
        files[f"food-101/meta/{split.replace('validation', 'test')}.json"] = json_file(paths)
        files |= {f"food-101/images/{names[n % 101]}/{n}.jpg": image_file(n) for n in numbers}
    return {"food-101.tar.gz": tar_file(files)}


def imagenet2012():
    """Six of the classes to train, `SYNSETS[number % 6]`; the first images of the real list."""
    train, val = {}, {}
    for i, synset in enumerate(SYNSETS):
        images = {f"{synset}_{n}.JPEG": image_file(n) for n in range(i, 120, 6)}
        train[f"{synset}.tar"] = tar_file(images, "w")
    for i, n in enumerate(splits(validation=40)["validation"], 1):
        val[f"ILSVRC2012_val_{i:08d}.JPEG"] = image_file(n)
    return {
        "ILSVRC2012_img_train.tar": tar_file(train, "w"),
        "ILSVRC2012_img_val.tar": tar_file(val, "w"),
    }


def _of_classes(pattern: str, classes=SYNSETS) -> dict[str, bytes]:
    return {pattern.format(classes[n % 6], n): image_file(n) for n in splits(test=30)["test"]}


def imagenet_v2():
    images = _of_classes("imagenetv2-matched-frequency-format-val/{}/{}.jpeg", range(0, 1000, 180))
    return {"imagenetv2-matched-frequency.tar.gz": tar_file(images)}


def imagenet_sketch():
    return {"ImageNet-Sketch.zip": zip_file(_of_classes("sketch/{}/sketch_{}.JPEG"))}


def imagenet_a():
    images = _of_classes("imagenet-a/{}/{}_toaster.jpg")
    return {"imagenet-a.tar": tar_file(images | {"imagenet-a/README.txt": b""}, "w")}


def imagenet_r():
    images = _of_classes("imagenet-r/{}/art_{}.jpg")
    return {"imagenet-r.tar": tar_file(images | {"imagenet-r/README.txt": b""}, "w")}


DATASETS = (cars196, food101, imagenet2012, imagenet_v2, imagenet_sketch, imagenet_a, imagenet_r)
