"""Every TFDS task: its real builder on tiny raw files, prepared once, read without TensorFlow."""

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
import tensorflow_datasets as tfds

from noah_jax import data
from noah_jax.data import tfds as tfds_lib
from noah_jax.data.loader import load
from noah_jax.data.shots import Shots
from noah_jax.data.tasks import VTAB
from noah_jax.errors import UserError
from tests.helpers.commands import TINY_FLAGS
from tests.helpers.documents import documented
from tests.helpers.tfds_raw.formats import number_in

SPLITS = ("train", "val", "test")


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    """TFDS's data folder with every dataset prepared."""
    folder = tmp_path_factory.mktemp("tfds")
    command = [sys.executable, "-m", "tests.helpers.tfds_raw", folder, "vtab", "fewshot", "domain"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return str(folder)


READ = """
import sys
import numpy as np
from noah_jax import data
from noah_jax.data.loader import load

data_dir, out, *tasks = sys.argv[1:]
arrays = {}
for task in tasks:
    source = data.open_source(task, data_dir, 0)
    arrays[f"{task}/encoding"] = source.encoding
    for split in ("train", "val", "test"):
        images, labels = load(source.splits[split], 32)
        arrays |= {f"{task}/{split}/images": images, f"{task}/{split}/labels": labels}
assert "tensorflow" not in sys.modules, "TensorFlow was imported"
np.savez(out, **arrays)
"""


@pytest.fixture(scope="module")
def arrays(data_dir, tmp_path_factory):
    """`task/split/images` and `task/split/labels` of all VTAB tasks, as another process reads."""
    out = tmp_path_factory.mktemp("read") / "arrays.npz"
    command = [sys.executable, "-c", READ, data_dir, out, *VTAB]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    with np.load(out) as file:
        return dict(file)


# --- VTAB-1k, against google-research/task_adaptation --------------------------------------------

COMPUTED = [  # task, real size of the splits, and what VTAB's code makes of it, by hand
    ("cifar100", {"train": 50_000}, "train[45000:45200]", "test"),
    ("caltech101", {"train": 3059}, "train[2753:2953]", "test"),
    ("oxford_pet", {"train": 3680}, "train[2944:3144]", "test"),
    ("svhn", {"train": 73_257}, "train[65931:66131]", "test"),
    ("eurosat", {"train": 27_000}, "train[16200:16400]", "train[21600:]"),
    ("resisc45", {"train": 31_500}, "train[18900:19100]", "train[25200:]"),
    ("clevr_count", {"train": 70_000, "validation": 15_000}, "train[63000:63200]", "validation"),
    ("clevr_dist", {"train": 70_000, "validation": 15_000}, "train[63000:63200]", "validation"),
    ("dsprites_loc", {"train": 737_280}, "train[589824:590024]", "train[663552:]"),
    ("dsprites_ori", {"train": 737_280}, "train[589824:590024]", "train[663552:]"),
    ("smallnorb_azi", {"test": 24_300}, "test[0:200]", "test[12150:]"),
    ("smallnorb_ele", {"test": 24_300}, "test[0:200]", "test[12150:]"),
]
OFFICIAL = VTAB.keys() - {row[0] for row in COMPUTED}  # train, validation and test as they come


@pytest.mark.parametrize(
    ("task", "sizes", "val", "test"),
    COMPUTED
    + [(task, {"validation": 300}, "validation[0:200]", "test") for task in sorted(OFFICIAL)],
)
def test_splits_are_vtabs(task, sizes, val, test):
    sizes = {"train": 1000, "test": 1000} | sizes
    assert VTAB[task].vtab_splits(sizes) == {
        "train": "train[:800]",
        "val": val,
        "trainval": f"train[:800]+{val}",
        "test": test,
    }


ORIENTATIONS = np.array([0, 0, 0, 1, 1, 2, 2, 2, 3, 3, 4, 4, 4, 5, 5, 6, 6, 6, 7, 7] * 2)
ORIENTATIONS[20:] += 8
LABELS = {  # number of a picture → class
    "cifar100": lambda n: n % 100,
    "caltech101": lambda n: n % 68,
    "dtd": lambda n: n % 47,
    "oxford_flowers102": lambda n: n % 102,
    "oxford_pet": lambda n: n % 37,
    "svhn": lambda n: n % 10,
    "sun397": lambda n: n % 397,
    "patch_camelyon": lambda n: n % 2,
    "eurosat": lambda n: n % 10,
    "resisc45": lambda n: n % 45,
    "clevr_count": lambda n: n % 8,
    "clevr_dist": lambda n: np.array([0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5])[n % 12],
    "dmlab": lambda n: n % 6,
    "kitti": lambda n: np.array([0, 0, 1, 1, 2, 3, 3, 3])[n % 8],
    "dsprites_loc": lambda n: n % 32 // 2,
    "dsprites_ori": lambda n: ORIENTATIONS[n // 32 % 40],
    "smallnorb_azi": lambda n: n % 20_000 % 18,
    "smallnorb_ele": lambda n: n % 20_000 // 18 % 9,
}
TESTS = {"caltech101": 68, "eurosat": 270, "resisc45": 270, "kitti": 200}
TESTS |= {"dsprites_loc": 256, "dsprites_ori": 256, "smallnorb_azi": 243, "smallnorb_ele": 243}
LOSSLESS = {"cifar100", "svhn", "patch_camelyon", "clevr_count", "clevr_dist", "kitti"}
LOSSLESS |= {"dsprites_loc", "dsprites_ori", "smallnorb_azi", "smallnorb_ele"}


@pytest.mark.parametrize("task", VTAB)
def test_vtab_task(task, arrays):
    """Sizes, no image in two splits, and each image with its label."""
    images = {split: arrays[f"{task}/{split}/images"] for split in SPLITS}
    sizes = {split: len(part) for split, part in images.items()}
    assert sizes == {"train": 800, "val": 200, "test": TESTS.get(task, 40)}
    every = [image.tobytes() for part in images.values() for image in part]
    assert len(set(every)) == len(every)
    assert arrays[f"{task}/encoding"] == ("png" if task in LOSSLESS else "jpeg")
    if task in LABELS:  # Retinopathy's filter hides the numbers
        for split in SPLITS:
            expected = LABELS[task](number_in(images[split]))
            np.testing.assert_array_equal(arrays[f"{task}/{split}/labels"], expected)


def test_every_value_of_the_factors(arrays):
    x, angle = (
        np.concatenate(
            [factor(number_in(arrays[f"dsprites_loc/{split}/images"])) for split in SPLITS]
        )
        for factor in (lambda n: n % 32, lambda n: n // 32 % 40)
    )
    assert set(x) == set(range(32)) and set(angle) == set(range(40))
    for task, key, expected in (
        ("dsprites_loc", "label_x_position", np.arange(32) // 2),
        ("dsprites_ori", "label_orientation", ORIENTATIONS),
        ("smallnorb_azi", "label_azimuth", np.arange(18)),
        ("smallnorb_ele", "label_elevation", np.arange(9)),
    ):
        labels = [VTAB[task].label({key: np.int64(value)}) for value in range(len(expected))]
        np.testing.assert_array_equal(labels, expected)
        seen = np.concatenate([arrays[f"{task}/{split}/labels"] for split in SPLITS])
        assert set(seen) == set(expected) and VTAB[task].num_classes == len(set(expected))


def test_retinopathy(data_dir, arrays):
    """VTAB takes the labels as they are; TFDS's examples have names that tell which."""
    builder = tfds.builder(
        VTAB["diabetic_retinopathy"].tfds, data_dir=data_dir, file_format="array_record"
    )
    for split, part in (("train", "train[:800]"), ("val", "validation[:200]"), ("test", "test")):
        names = [example["name"].decode() for example in builder.as_data_source(part)]
        expected = [int(name.removesuffix("_left")) % 5 for name in names]
        assert arrays[f"diabetic_retinopathy/{split}/labels"].tolist() == expected


@pytest.mark.parametrize("task", VTAB)
def test_trainval_is_train_and_val_in_every_process(task, data_dir, arrays):
    trainval = load(data.open_source(task, data_dir, 1).splits["trainval"], 32)
    for kind, array in zip(("images", "labels"), trainval, strict=True):
        parts = [arrays[f"{task}/{split}/{kind}"] for split in ("train", "val")]
        np.testing.assert_array_equal(array, np.concatenate(parts))


@pytest.mark.parametrize(("task", "size"), [("dsprites_loc", 64), ("smallnorb_azi", 96)])
def test_grey_images_become_black_and_white_in_rgb(data_dir, task, size):
    """dSprites stores 0 and 1. SmallNORB's second image, the negative here, is not used."""
    images, _ = load(data.open_source(task, data_dir, 0).splits["val"], size)
    assert set(np.unique(images)) == {0, 255}
    assert (images == images[..., :1]).all()


# --- Few-shot, ImageNet and its other domains ----------------------------------------------------

FEW_SHOT = [("stanford_cars", 196, 196), ("food101", 101, 101)]
FEW_SHOT += [("oxford_flowers", 102, 40), ("oxford_pets", 37, 40)]


@pytest.mark.parametrize(("task", "classes", "tests"), FEW_SHOT)
def test_few_shot_task(data_dir, task, classes, tests):
    source = data.open_source(task, data_dir, 0, Shots(2, seed=0))
    arrays = {name: load(split, 32) for name, split in source.splits.items()}
    numbers = {name: number_in(images) for name, (images, _) in arrays.items()}
    for name, (_, labels) in arrays.items():
        np.testing.assert_array_equal(labels, numbers[name] % classes)
    for name in ("train", "val"):
        np.testing.assert_array_equal(np.bincount(arrays[name][1], minlength=classes), 2)
    assert len(arrays["test"][1]) == tests
    every = np.concatenate([numbers[name] for name in ("train", "val", "test")])
    assert len(set(every)) == len(every)
    assert len({*source.class_names}) == classes


def test_fingerprint_is_that_of_the_drawn_images(data_dir):
    def fingerprint(task, number, seed):
        shots = Shots(number, seed) if number else None
        return data.open_source(task, data_dir, 0, shots).fingerprint

    drawings = [("food101", 1, 0), ("food101", 2, 0), ("food101", 1, 1), ("cifar100", 0, 0)]
    first, again = ([fingerprint(*drawing) for drawing in drawings] for _ in range(2))
    assert first == again and len(set(first)) == 4


def test_something_must_be_left_to_validate_with(data_dir):
    with pytest.raises(
        UserError,
        match="oxford_pets: shots=2000 takes 2000 images of each class",
    ):
        data.open_source("oxford_pets", data_dir, 0, Shots(2000, seed=0))


def test_imagenet_and_its_domains(data_dir):
    """A class has the same number everywhere: the place of its synset among ImageNet's."""
    source = data.open_source("imagenet", data_dir, 0, Shots(2, seed=0))
    assert source.num_classes == 1000 and source.class_names[0] == "n01440764"
    classes = np.array([0, 6, 653, 883, 954, 999])  # of the six synsets, as in NOAH's lists
    images, labels = load(source.splits["train"], 32)
    np.testing.assert_array_equal(labels, classes[number_in(images) % 6])
    assert len(labels) == 12
    images, labels = load(source.splits["test"], 32)
    first = number_in(images) - 20_000 < 5
    real = np.array([65, 970, 230, 809, 516])  # of the validation images 1 to 5
    np.testing.assert_array_equal(labels[first], real[number_in(images)[first] - 20_000])
    assert len(labels) == 40 and first.sum() == 5
    expected = dict.fromkeys(("imagenet_sketch", "imagenet_a", "imagenet_r"), classes)
    expected["imagenet_v2"] = np.arange(0, 1000, 180)  # its folders have class numbers
    assert source.more_tests.keys() == expected.keys()
    for name, split in source.more_tests.items():
        images, labels = load(split, 32)
        assert len(labels) == 30
        np.testing.assert_array_equal(labels, expected[name][number_in(images) % 6])
        among = tuple(classes) if name in ("imagenet_a", "imagenet_r") else ()
        assert split.classes == among


# --- From preparation to a result ----------------------------------------------------------------

TRAIN = """
import atexit, os, runpy, sys
atexit.register(lambda: "tensorflow" in sys.modules and os._exit(77))
runpy.run_module("noah_jax.main", run_name="__main__", alter_sys=True)
"""


def test_training_does_without_tensorflow(data_dir, ti16, tmp_path):
    config = f"configs/vtab.py:kitti+smallnorb_azi,data_dir={data_dir},method=linear"
    flags = [f"--config={config}", f"--workdir={tmp_path}", f"--config.weights={ti16}", *TINY_FLAGS]
    flags += ["--config.retrain.epochs=1", "--config.retrain.warmup_epochs=0"]
    flags += ["--config.retrain.batch_size=200"]
    done = subprocess.run([sys.executable, "-c", TRAIN, *flags], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]  # 77: TensorFlow was imported
    result = json.loads((tmp_path / "smallnorb_azi-linear-s0" / "result.json").read_text())
    assert result["images"] == {"train": 800, "val": 200, "trainval": 1000, "test": 243}
    rows = done.stdout.split("test accuracy (%), mean")[1].splitlines()[3:5]
    assert [row.split()[0] for row in rows] == ["kitti", "smallnorb_azi"]


# --- What is not there ---------------------------------------------------------------------------


@pytest.mark.parametrize("command", [c for c in documented() if "noah_jax.data prepare" in c])
def test_what_the_documents_prepare(command, data_dir):
    words = [sys.executable, *command.split()[1:], f"--data_dir={data_dir}"]
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    lines = done.stdout.splitlines()
    assert lines and all("is prepared already" in line for line in lines)


def test_prepared_sets_are_left_alone(data_dir, capsys, monkeypatch):
    monkeypatch.setattr(tfds_lib.importlib.util, "find_spec", lambda name: None)  # no TensorFlow
    tfds_lib.prepare(["dtd", "clevr_count"], data_dir)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 and all("is prepared already" in line for line in lines)


@pytest.mark.parametrize(
    ("version", "file_format", "message"),
    [
        ("2.0.0", "array_record", "there is version 2.0.0, .* prepare dtd --data_dir="),
        ("3.0.1", "tfrecord", "(?s)'tfrecord'.* in array_record format: .* prepare dtd --data"),
    ],
)
def test_another_version_or_format(data_dir, tmp_path, version, file_format, message):
    """A file that TFDS writes beside the data says what is there."""
    folder = tmp_path / "dtd" / version
    shutil.copytree(f"{data_dir}/dtd/3.0.1", folder)
    path = folder / "dataset_info.json"
    info = json.loads(path.read_text()) | {"version": version, "fileFormat": file_format}
    path.write_text(json.dumps(info))
    with pytest.raises(UserError, match=message):
        data.open_source("dtd", str(tmp_path), 0)


def test_failed_download_says_where_files_are_taken_from(tmp_path, monkeypatch):
    def fail(self, url):
        raise OSError("404")

    monkeypatch.setattr(tfds.download.DownloadManager, "download", fail)
    name = "dsprites_ndarray_co1sh3sc6or40x32y32_64x64.hdf5"
    message = f"(?s)dsprites_loc: OSError: 404.*{tmp_path}/downloads/manual, .* names {name}"
    with pytest.raises(UserError, match=message):
        tfds_lib.prepare(["dsprites_loc"], str(tmp_path))


def test_without_tensorflow_nothing_is_fetched(tmp_path, monkeypatch):
    monkeypatch.setattr(tfds_lib.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(tfds.core.DatasetBuilder, "download_and_prepare", None)
    message = r"dtd, svhn.*: TensorFlow is missing. Run `pip install 'noah-jax\[prepare\]'`"
    with pytest.raises(UserError, match=message):
        tfds_lib.prepare(["dtd", "svhn"], str(tmp_path))


def test_a_set_that_cannot_be_prepared_does_not_stop_the_others(data_dir, capsys):
    with pytest.raises(UserError, match="TFDS does not have fgvc_aircraft"):
        tfds_lib.prepare(["fgvc_aircraft", "dtd"], data_dir)
    assert "dtd is prepared already" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("task", "there", "missing"),
    [
        ("resisc45", (), "NWPU-RESISC45"),
        ("diabetic_retinopathy", ("train", "sample"), "test, trainLabels.csv"),
        ("imagenet", ("ILSVRC2012_img_train.tar",), "ILSVRC2012_img_val.tar"),
    ],
)
def test_missing_manual_download(tmp_path, task, there, missing):
    manual = tmp_path / "downloads" / "manual"
    for name in there:
        (manual / name).mkdir(parents=True)
    with pytest.raises(UserError, match=f"{task}: put {missing} into {manual}"):
        tfds_lib.prepare([task], str(tmp_path))
