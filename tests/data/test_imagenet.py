"""ImageNet and the other domains: 1,000 classes in order of their synsets, whatever a set shows."""

import shutil

import PIL.Image
import pytest

from noah_jax import data
from noah_jax.data.shots import Shots
from noah_jax.errors import UserError
from tests.helpers.images import SYNSETS


def _image(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    PIL.Image.new("RGB", (2, 2)).save(path, quality=20)


def _label(split, index):
    image, label = split.read(index)
    image.close()
    return label


def test_domains_have_imagenets_classes(imagenet):
    source = data.open_source("imagenet", str(imagenet), 0, Shots(1, 0))
    sizes = {name: len(split) for name, split in source.splits.items()}
    assert sizes == {"train": 1000, "val": 1000, "trainval": 1000, "test": 1000}
    train, val = (source.splits[name] for name in ("train", "val"))
    assert not set(train.names) & set(val.names)
    for split in source.splits.values():
        labels = [_label(split, index) for index in range(0, 1000, 99)]
        assert [SYNSETS[label] for label in labels] == [
            split.names[index].split("/")[1] for index in range(0, 1000, 99)
        ]
    assert set(source.more_tests) == {"imagenet_v2", "imagenet_r"}  # the others are not there
    v2, r = source.more_tests["imagenet_v2"], source.more_tests["imagenet_r"]
    for index in range(0, 1000, 111):  # folders are sorted as names: 0, 1, 10, 100, …
        assert _label(v2, index) == int(v2.names[index].split("/")[1])
    assert v2.classes == ()
    assert r.classes == tuple(range(0, 1000, 5)) and _label(r, 3) == 15


def test_noahs_lists_of_imagenet(imagenet, tmp_path):
    lists = tmp_path / "annotations"
    lists.mkdir()
    rows = [f"{synset}/{synset}_0.JPEG {label}\n" for label, synset in enumerate(SYNSETS)]
    (lists / "train_meta.list.num_shot_1.seed_0").write_text("".join(rows))
    rows = [f"{synset}/{synset}_1.JPEG {label}\n" for label, synset in enumerate(SYNSETS)]
    (lists / "unofficial_val_list_4_shot16seed0").write_text("".join(rows))
    tests = [f"{SYNSETS[i]}/ILSVRC2012_val_{i:08d}.JPEG {i}\n" for i in range(1000)]
    (lists / "val_meta.list").write_text("".join(tests))
    source = data.open_source("imagenet", str(imagenet), 0, Shots(1, 0, str(lists)))
    assert source.splits["train"].names[7] == f"train/{SYNSETS[7]}/{SYNSETS[7]}_0.JPEG"
    assert source.splits["test"].names[7].startswith("val/")
    assert source.more_tests["imagenet_r"].classes == tuple(range(0, 1000, 5))


def test_images_of_the_other_domains_are_looked_at_too(imagenet):
    """A broken one is found before hours of training."""
    broken = imagenet / "imagenet-rendition" / "imagenet-r" / SYNSETS[0] / "broken.jpg"
    sketch = imagenet / "imagenet-sketch"
    broken.write_bytes(b"no image")
    (sketch / "images").mkdir(parents=True)
    try:
        with pytest.raises(UserError, match="(?s)imagenet_sketch has no images.*broken.jpg"):
            data.open_source("imagenet", str(imagenet), 0, Shots(1, 0))
    finally:
        broken.unlink()
        shutil.rmtree(sketch)


def test_validation_images_as_the_archive_has_them(imagenet, tmp_path):
    (tmp_path / "imagenet").mkdir()
    (tmp_path / "imagenet" / "train").symlink_to(imagenet / "imagenet" / "train")
    _image(tmp_path / "imagenet" / "val" / "ILSVRC2012_val_00000001.JPEG")
    with pytest.raises(UserError, match="val has no class folders: sort .* or give NOAH's lists"):
        data.open_source("imagenet", str(tmp_path), 0, Shots(1, 0))


def test_what_is_no_imagenet(imagenet, tmp_path):
    for part in ("train", "val"):
        for synset in SYNSETS[:3]:
            _image(tmp_path / "imagenet" / part / synset / "0.jpg")
    with pytest.raises(UserError, match="has 3 classes, expected 1000 folders in train/"):
        data.open_source("imagenet", str(tmp_path), 0, Shots(1, 0))
    _image(tmp_path / "imagenet" / "val" / "n99999999" / "0.jpg")
    with pytest.raises(UserError, match="not classes of ImageNet: n99999999"):
        data.open_source("imagenet", str(tmp_path), 0, Shots(1, 0))
