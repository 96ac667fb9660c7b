"""VTAB-1k's structured sets."""

import gzip
import pathlib
import tempfile

import numpy as np

from tests.helpers.tfds_raw.formats import (
    h5_file,
    image_file,
    json_file,
    picture,
    splits,
    tar_file,
    text_file,
    zip_file,
)

NEAREST = (7.9, 8.0, 8.000001, 8.5, 8.6, 9.0, 9.25, 9.5, 9.75, 10.0, 10.01, 50.0)  # of CLEVR
SCENES = (  # of KITTI: types and distances
    [("Car", 5.0)],
    [("Van", 8.0)],
    [("Truck", 8.000001), ("Pedestrian", 2.0)],
    [("Car", 20.0)],
    [("Car", 45.0), ("Van", 20.5)],
    [("Tram", 1.0), ("Misc", 2.0), ("Cyclist", 3.0), ("Person_sitting", 4.0)],
    [("Car", 999.5)],
    [("DontCare", -1000.0)],
)


def clevr():
    """`number % 8 + 3` objects, the nearest of them `NEAREST[number % 12]` away."""
    files, names = {}, {"train": "train", "validation": "val", "test": "test"}
    for split, numbers in splits(train=2000, validation=40, test=5).items():
        name, scenes = names[split], []
        for i, n in enumerate(numbers):
            files[f"images/{name}/CLEVR_{name}_{i:06d}.png"] = image_file(n, "PNG")
            depths = [NEAREST[n % 12] + (k + n) % (3 + n % 8) for k in range(3 + n % 8)]
            scenes.append({"objects": [_clevr_object(depth) for depth in depths]})
        questions = [{"image_filename": f"CLEVR_{name}_000000.png", "question": "?"}]
        files[f"questions/CLEVR_{name}_questions.json"] = json_file({"questions": questions})
        if split != "test":
            files[f"scenes/CLEVR_{name}_scenes.json"] = json_file({"scenes": scenes})
    return {"CLEVR_v1.0.zip": zip_file({f"CLEVR_v1.0/{name}": x for name, x in files.items()})}


def _clevr_object(depth: float) -> dict:
    kind = {"color": "red", "material": "metal", "shape": "cube", "size": "small"}
    return kind | {"rotation": 0.5, "pixel_coords": [1, 2, depth], "3d_coords": [0.1, 0.2, 0.3]}


def dmlab():
    import tensorflow as tf

    def feature(value):
        if isinstance(value, int):
            return tf.train.Feature(int64_list=tf.train.Int64List(value=[value]))
        return tf.train.Feature(bytes_list=tf.train.BytesList(value=[value]))

    def example(number):
        image = image_file(number, height=360, width=480)
        values = {"image": image, "filename": b"%d.jpg" % number, "label": number % 6}
        features = tf.train.Features(feature={key: feature(x) for key, x in values.items()})
        return tf.train.Example(features=features).SerializeToString()

    files = {}
    for split, numbers in splits(train=810, validation=205, test=40).items():
        name = f"dmlab-{split}.tfrecord-00000-of-00001"
        with tempfile.NamedTemporaryFile() as file:
            with tf.io.TFRecordWriter(file.name) as writer:
                for number in numbers:
                    writer.write(example(number))
            files[name] = pathlib.Path(file.name).read_bytes()
    return {"dmlab.tar.gz": tar_file(files)}


def kitti():
    """100 frames of each of 20 videos; the builder takes two videos to validate, two to test."""
    images, labels = {}, {}
    for n in range(2000):
        images[f"training/image_2/{n:06d}.png"] = image_file(n, "PNG")
        labels[f"training/label_2/{n:06d}.txt"] = text_file(
            f"{kind} 0.00 0 -0.20 1 2 3 4 1.9 0.5 1.2 1.8 1.5 {z} 0.01"
            for kind, z in SCENES[n % len(SCENES)]
        )
    order = np.random.default_rng(0).permutation(2000)
    devkit = {
        "mapping/train_rand.txt": ",".join(str(1 + i) for i in order).encode(),
        "mapping/train_mapping.txt": text_file(
            f"2011_09_26 2011_09_26_drive_{i // 100:04d}_sync {i % 100:010d}" for i in range(2000)
        ),
    }
    images["testing/image_2/000000.png"] = image_file(0, "PNG")
    return {
        "data_object_image_2.zip": zip_file(images),
        "data_object_label_2.zip": zip_file(labels),
        "devkit_object.zip": zip_file(devkit),
    }


def dsprites():
    """Every one of 32 x positions with every one of 40 orientations, twice."""
    n = np.arange(2560)
    classes = np.stack([0 * n, n % 3, n % 6, n // 32 % 40, n % 32, 31 - n % 32], axis=1)
    images = np.stack([picture(number, 64, 64) for number in n]) // 255
    arrays = {"imgs": images, "latents/classes": classes, "latents/values": classes / 40}
    name = "dsprites_ndarray_co1sh3sc6or40x32y32_64x64.hdf5"
    return {name: h5_file(arrays)}


def smallnorb():
    """Every one of 18 azimuths with every one of 9 elevations, in the order of the numbers."""
    files = {}
    names = {"train": "46789x9x18x6x2x96x96-training", "test": "01235x9x18x6x2x96x96-testing"}
    for split, numbers in splits(train=972, test=486).items():
        left = np.stack([picture(number, 96, 96) for number in numbers])
        i = np.arange(len(numbers), dtype="<i4")
        info = np.stack([0 * i, i // 18 % 9, 2 * (i % 18), i % 6], axis=1)
        arrays = {"dat": np.stack([left, 255 - left], axis=1), "cat": i % 5, "info": info}
        for kind, array in arrays.items():
            magic = 507333717 if array.dtype == np.uint8 else 507333716
            shape = [*array.shape, 1, 1][: max(3, array.ndim)]
            matrix = np.array([magic, array.ndim, *shape], "<i4").tobytes() + array.tobytes()
            files[f"smallnorb-5x{names[split]}-{kind}.mat.gz"] = gzip.compress(matrix, 1)
    return files


DATASETS = (clevr, dmlab, kitti, dsprites, smallnorb)
