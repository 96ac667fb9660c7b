"""The facts of every named benchmark: VTAB-1k, few-shot, domain generalisation.

VTAB-1k's splits and labels are those of its reference code (google-research/task_adaptation).
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from operator import itemgetter
from typing import Any

import numpy as np

GROUPS = ("natural", "specialized", "structured")
METRIC = "test accuracy (%)"  # for every task: whether the likeliest class is right

Example = Mapping[str, Any]  # as TFDS gives it


@dataclasses.dataclass(frozen=True)
class Task:
    """One task of a benchmark.

    Attributes:
      num_classes: number of the benchmark's classes; a split may show fewer.
      tfds: dataset, config and version in TFDS; empty if TFDS does not have it.
      group: the task's group in VTAB-1k, one of `GROUPS`.
      val: the TFDS split that validation images come from, and where in it they begin (percent).
      test: the same for test images, which go to the split's end.
      pool: the TFDS splits that few-shot images are drawn from.
      label: TFDS example → class.
      binary: whether pixels are stored as 0 and 1.
      partial: whether only some classes occur; predictions are then made among these alone.
      lists: the original's names of a few-shot task's validation list and test list.
      more_tests: keys of `DOMAINS`, test sets of other domains.
      published: method → test accuracy in percent (NOAH's table 1, ViT-B/16 IN-21k).
    """

    num_classes: int
    tfds: str = ""
    group: str = ""
    val: tuple[str, int] = ("validation", 0)
    test: tuple[str, int] = ("test", 0)
    pool: str = "train"
    label: Callable[[Example], int] = itemgetter("label")
    binary: bool = False
    partial: bool = False
    lists: tuple[str, str] = ("val_meta.list", "test_meta.list")
    more_tests: tuple[str, ...] = ()
    published: Mapping[str, float] = dataclasses.field(default_factory=dict)

    def test_split(self, examples: Mapping[str, int]) -> str:
        """The test images in TFDS's notation; `examples` has the size of each TFDS split."""
        name, first = self._begin(self.test, examples)
        return f"{name}[{first}:]" if first else name

    def vtab_splits(self, examples: Mapping[str, int]) -> dict[str, str]:
        """VTAB-1k's splits in TFDS's notation: 800 to train, 200 to validate, and the test."""
        name, first = self._begin(self.val, examples)
        train, val = "train[:800]", f"{name}[{first}:{first + 200}]"
        splits = {"train": train, "val": val, "trainval": f"{train}+{val}"}
        return splits | {"test": self.test_split(examples)}

    def _begin(self, part: tuple[str, int], examples: Mapping[str, int]) -> tuple[str, int]:
        name, percent = part
        return name, percent * examples[name] // 100


# --- Labels that are computed --------------------------------------------------------------------


def _interval(value: float, bounds: tuple[float, ...]) -> int:
    """The number of the last of `bounds` that lies below `value`, in float32."""
    return int(np.flatnonzero(np.array(bounds, np.float32) < np.float32(value)).max())


def _depths(example: Example, key: str) -> np.ndarray:
    """The distance to each of the objects: the last of its three coordinates."""
    return np.array(example["objects"][key], np.float32).reshape(-1, 3)[:, 2]


def _clevr_count(example: Example) -> int:
    return len(example["objects"]["size"]) - 3  # 3 to 10 objects


def _clevr_distance(example: Example) -> int:
    nearest = _depths(example, "pixel_coords").min()
    return _interval(nearest, (0.0, 8.0, 8.5, 9.0, 9.5, 10.0, 100.0))


def _kitti_distance(example: Example) -> int:
    """The class of the closest car, van or truck: up to 8 m, up to 20 m, farther, none at all."""
    vehicles = np.array(example["objects"]["type"], int) < 3
    nearest = _depths(example, "location")[vehicles].min(initial=1000.0)
    return _interval(nearest, (-100.0, 8.0, 20.0, 999.0))


def _sixteen_bins(key: str, values: int) -> Callable[[Example], int]:
    """Puts a factor of that many values into 16 classes of neighbouring values."""
    return lambda example: int(np.float32(example[key]) // np.float32(values / 16))


# --- VTAB-1k (arXiv 1910.04867) ------------------------------------------------------------------


_one_set = functools.partial(Task, val=("train", 60), test=("train", 80))
_clevr = functools.partial(Task, tfds="clevr:3.*.*", val=("train", 90), test=("validation", 0))
_dsprites = functools.partial(
    Task, 16, "dsprites:2.*.*", val=("train", 80), test=("train", 90), binary=True
)
_smallnorb = functools.partial(Task, tfds="smallnorb:2.*.*", val=("test", 0), test=("test", 50))

_VTAB = {
    "natural": {
        "cifar100": Task(100, "cifar100:3.*.*", val=("train", 90)),
        "caltech101": Task(102, "caltech101:3.*.*", val=("train", 90)),
        "dtd": Task(47, "dtd:3.*.*"),
        "oxford_flowers102": Task(102, "oxford_flowers102:2.*.*"),
        "oxford_pet": Task(37, "oxford_iiit_pet:4.*.*", val=("train", 80)),
        "svhn": Task(10, "svhn_cropped:3.*.*", val=("train", 90)),
        "sun397": Task(397, "sun397/tfds:4.*.*"),
    },
    "specialized": {
        "patch_camelyon": Task(2, "patch_camelyon:2.*.*"),
        "eurosat": _one_set(10, "eurosat/rgb:2.*.*"),
        "resisc45": _one_set(45, "resisc45:3.*.*"),
        "diabetic_retinopathy": Task(5, "diabetic_retinopathy_detection/btgraham-300:3.*.*"),
    },
    "structured": {
        "clevr_count": _clevr(8, label=_clevr_count),
        "clevr_dist": _clevr(6, label=_clevr_distance),
        "dmlab": Task(6, "dmlab:2.0.1"),
        "kitti": Task(4, "kitti:3.*.*", label=_kitti_distance),
        "dsprites_loc": _dsprites(label=_sixteen_bins("label_x_position", 32)),
        "dsprites_ori": _dsprites(label=_sixteen_bins("label_orientation", 40)),
        "smallnorb_azi": _smallnorb(18, label=itemgetter("label_azimuth")),
        "smallnorb_ele": _smallnorb(9, label=itemgetter("label_elevation")),
    },
}

# In the order above. NOAH's table repeats the first two from VPT's (arXiv 2203.12119); three
# figures that are misprinted there (full on flowers, linear on cifar100 and resisc45) are VPT's.
# fmt: off
_PUBLISHED = {
    "full": (68.9, 87.7, 64.3, 97.2, 86.9, 87.4, 38.8, 79.7, 95.7, 84.2, 73.9,
             56.3, 58.6, 41.7, 65.5, 57.5, 46.7, 25.7, 29.1),
    "linear": (63.4, 85.0, 63.2, 97.0, 86.3, 36.6, 51.0, 78.5, 87.5, 68.6, 74.0,
               34.3, 30.6, 33.2, 55.4, 12.5, 20.0, 9.6, 19.2),
    "vpt": (78.8, 90.8, 65.8, 98.0, 88.3, 78.1, 49.6, 81.8, 96.1, 83.4, 68.4,
            68.5, 60.0, 46.5, 72.8, 73.6, 47.9, 32.9, 37.8),
    "adapter": (69.2, 90.1, 68.0, 98.8, 89.9, 82.8, 54.3, 84.0, 94.9, 81.9, 75.5,
                80.9, 65.3, 48.6, 78.3, 74.8, 48.5, 29.9, 41.6),
    "lora": (67.1, 91.4, 69.4, 98.8, 90.4, 85.3, 54.0, 84.9, 95.3, 84.4, 73.6,
             82.9, 69.2, 49.8, 78.5, 75.7, 47.1, 31.0, 44.0),
    "noah": (69.6, 92.7, 70.2, 99.1, 90.4, 86.1, 53.7, 84.4, 95.4, 83.9, 75.8,
             82.8, 68.9, 49.9, 81.7, 81.8, 48.3, 32.8, 44.2),
}
# fmt: on


def _vtab() -> dict[str, Task]:
    named = [(group, name, task) for group in GROUPS for name, task in _VTAB[group].items()]
    figures = zip(*_PUBLISHED.values(), strict=True)
    return {
        name: dataclasses.replace(
            task, group=group, published=dict(zip(_PUBLISHED, row, strict=True))
        )
        for (group, name, task), row in zip(named, figures, strict=True)
    }


VTAB = _vtab()

# --- Few-shot and domain generalisation (NOAH, sections 4.2 and 4.3) -----------------------------

FEW_SHOT = {
    "stanford_cars": Task(196, "cars196:2.*.*"),
    "food101": Task(101, "food101:2.*.*", test=("validation", 0)),
    "oxford_flowers": Task(102, "oxford_flowers102:2.*.*", pool="train+validation"),
    "fgvc_aircraft": Task(100),
    "oxford_pets": Task(37, "oxford_iiit_pet:4.*.*"),
}

FEW_SHOT_MEANS = {1: 41.0, 2: 50.7, 4: 59.1, 8: 67.8, 16: 76.5}  # NOAH's over the five, by shots

DOMAINS = {  # all in ImageNet's classes
    "imagenet_v2": Task(1000, "imagenet_v2/matched-frequency:3.*.*"),
    "imagenet_sketch": Task(1000, "imagenet_sketch:1.*.*"),
    "imagenet_a": Task(1000, "imagenet_a:0.*.*", partial=True),
    "imagenet_r": Task(1000, "imagenet_r:0.*.*", partial=True),
}

IMAGENET = {
    "imagenet": Task(
        1000,
        "imagenet2012:5.*.*",
        test=("validation", 0),
        lists=("unofficial_val_list_4_shot16seed0", "val_meta.list"),
        more_tests=tuple(DOMAINS),
    )
}

TASKS = VTAB | FEW_SHOT | IMAGENET

# --- Downloads -----------------------------------------------------------------------------------

GIGABYTES = {  # downloads of datasets for which TFDS also lists files that it does not download
    "caltech101": 0.13,
    "eurosat/rgb": 0.09,
    "imagenet_v2/matched-frequency": 1.18,
    "imagenet2012": 0.0,
}

MANUAL = {  # datasets that the user has to download, and the files that TFDS expects of each
    "resisc45": ("NWPU-RESISC45",),
    "diabetic_retinopathy_detection/btgraham-300": ("train", "test", "sample", "trainLabels.csv"),
    "imagenet2012": ("ILSVRC2012_img_train.tar", "ILSVRC2012_img_val.tar"),
}
