"""The method on arrays, by the names that a program imports."""

import io

import numpy as np
import PIL.Image
import pytest
import sklearn.datasets
import torch

import noah_jax
from noah_jax.data import loader
from noah_jax.data.arrays import from_arrays
from noah_jax.errors import UserError
from tests.helpers.documents import programs


def test_the_readmes_example(ti16, tmp_path, monkeypatch, capsys):
    """Word by word, but for a smaller backbone, shorter schedules and the place."""
    (example,) = programs("README.md")
    assert len(example.splitlines()) <= 24
    lines = [
        *(f'config.weights = "{ti16}"', 'config.backbone = "vit_ti16"'),
        *('config.normalisation = "half"', "config.image_size = 48"),
        *("config.space.vpt = config.space.lora = config.space.adapter = (0, 1)",),
        *("config.search.update(population=4, generations=1, mutations=1, crossovers=1)",),
        *("config.search.budget_millions = 0.03",),
        *("for schedule in (config.supernet, config.retrain):",),
        *("    schedule.update(epochs=2, batch_size=8)",),
        "result = ",
    ]
    digits = sklearn.datasets.load_digits()
    few = slice(60)
    digits.images, digits.target = digits.images[few], digits.target[few]
    monkeypatch.setattr(sklearn.datasets, "load_digits", lambda: digits)
    monkeypatch.chdir(tmp_path)
    assert example.count("result = ") == 1
    names = {}
    exec(example.replace("result = ", "\n".join(lines)), names)
    result, subnet = names["result"], names["subnet"]
    assert (tmp_path / "runs/mine/report.html").is_file()
    assert result["images"] == {"train": 40, "val": 10, "trainval": 50, "test": 10}
    assert result["genome"] == subnet.facts["genome"] and result["params"] <= 30_000
    chances = noah_jax.classify(subnet, names["images"])
    np.testing.assert_allclose(chances.sum(axis=1), 1, atol=1e-5)
    for program in programs("docs/subnet.md")[:2]:  # the third needs an export
        exec(program, names)
    np.testing.assert_allclose(names["chances"], chances, atol=1e-6)
    assert capsys.readouterr().out.endswith("\n(2, 10)\n")


def test_the_rooms_example(ti16):
    """Word by word, but for a smaller backbone."""
    example, _ = programs("noah_jax/README.md")  # the other needs an export
    for old, new in (('"vit_b16"', '"vit_ti16"'), ("224", "48"), ('"vit_b16_in21k"', "weights")):
        assert old in example
        example = example.replace(old, new)
    names = {"weights": str(ti16), "images": np.zeros((2, 48, 48, 3), np.float32)}
    exec(example, names | {"genome": np.zeros((12, 3), np.int32)})


CUT = io.BytesIO()
PIL.Image.effect_noise((99, 99), 9).save(CUT, "PNG")
CUT = CUT.getvalue()[:2000]
IMAGES, LABELS = np.zeros((9, 8, 8, 3), np.uint8), np.arange(9) % 3


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (None, LABELS, "images: it is NoneType; expected an array"),
        ("photos", LABELS, "images: it is str"),
        ([], LABELS, "images: there are none"),
        (IMAGES[:0], LABELS[:0], "images: there are none"),
        (IMAGES[0], LABELS, "is a single image, which images.None. would make"),
        (IMAGES[0, 0, 0], LABELS, r"images: it is uint8 \[3\]"),
        (IMAGES.transpose(0, 3, 1, 2), LABELS, "colours first: give NumPy.s images.transpose"),
        (IMAGES[..., :2], LABELS, r"images: it is uint8 \[9, 8, 8, 2\]"),
        (IMAGES - 1.0, LABELS, "image 0 has float64 values from -1.0 to -1.0"),
        (IMAGES + np.nan, LABELS, "image 0 has float64 values from nan"),
        (IMAGES.astype(int) + 256, LABELS, "image 0 has .* values from 256 to 256"),
        ([*IMAGES[:8], IMAGES[8, 0, 0]], LABELS, r"image 8 is uint8 \[3\]"),
        ([*IMAGES[:8], "9.png"], LABELS, "image 8 is <U5"),
        (IMAGES[:, :0], LABELS, r"images: \[9, 0, 8, 3\] has no pixels"),
        ([PIL.Image.open(io.BytesIO(CUT))] * 9, LABELS, "images: image 0 .*truncated"),
        (torch.zeros(9, 8, 8, 3, requires_grad=True), LABELS, "images: Can't call numpy"),
        (IMAGES, LABELS[:8], "there are 9 images, but 8 labels"),
        (IMAGES, LABELS / 2, r"labels: expected whole numbers or names \[n\], got float64 \[9\]"),
        (IMAGES, None, "labels: expected whole numbers or names"),
        (IMAGES, np.eye(9), r"labels: .* got float64 \[9, 9\]"),
        (IMAGES, [None] * 9, "labels: .* got object"),
        (IMAGES, [10**12, *range(8)], "fewer than 3 images of the classes 0, 1, 2, 3, .*, 7, 1000"),
    ],
)
def test_arrays_that_are_refused(images, labels, message, tmp_path):
    """With one message, before anything is written."""
    with pytest.raises(UserError, match=message) as error:
        noah_jax.find_subnet(images, labels, tmp_path / "run")
    assert len(str(error.value)) < 1000 and not (tmp_path / "run").exists()


def test_the_message_is_short_and_takes_no_memory(no_memory):
    for labels in (range(0, 10**12, 10**8), ["x" * 10_000] * 2 + ["y"] * 2):
        with pytest.raises(UserError, match="fewer than 3 images of the classes") as error:
            from_arrays(IMAGES[:1].repeat(len(labels), 0)[:, :2, :2], labels, (), 0)
        assert len(str(error.value)) < 2000


def _source(images=IMAGES, labels=LABELS, class_names=()):
    return from_arrays(images, labels, class_names, 0)


@pytest.mark.parametrize(
    ("labels", "class_names", "names"),
    [
        (LABELS, (), ()),
        (LABELS + 1, (), ("1", "2", "3")),
        (LABELS * 10**12 - 7, (), ("-7", "999999999993", "1999999999993")),
        (np.array(["dog", "cat", "eel"])[LABELS], (), ("cat", "dog", "eel")),
        (np.array(["dog", "cat", "eel"], object)[LABELS], (), ("cat", "dog", "eel")),
        (LABELS.tolist(), np.array(["a", "b", "c"]), ("a", "b", "c")),
        (LABELS.astype(np.uint8), range(5, 8), ("5", "6", "7")),
        (LABELS, iter([0.5, "b", None]), ("0.5", "b", "None")),
        (LABELS + 4, ["a", "b", "c"], ("a", "b", "c")),
    ],
)
def test_labels_of_all_kinds(labels, class_names, names):
    """They are counted from 0, and their names are kept."""
    source = _source(labels=labels, class_names=class_names)
    assert source.num_classes == 3 and source.class_names == names and source.warnings == ()
    order = np.unique(np.asarray(labels)).tolist()
    for split in source.splits.values():
        for name, label in zip(split.names, split.labels, strict=True):
            assert order[label] == labels[int(name.split()[1])]


NAMED = np.array(["dog", "cat", "eel"])[LABELS]


@pytest.mark.parametrize(
    ("labels", "class_names", "names"),
    [
        (NAMED, ["dog", "cat", "eel"], ("dog", "cat", "eel")),  # the order that is wanted
        (NAMED, ["eel", "fox", "dog", "cat"], ("eel", "dog", "cat")),
        (LABELS, {0: "dog", 1: "cat", 2: "eel"}, ("dog", "cat", "eel")),
        (LABELS, {"2": "eel", "1": "cat", "0": "dog"}, ("dog", "cat", "eel")),
        (
            NAMED,
            {"cat": "Felis", "dog": "Canis", "eel": "Anguilla"},
            ("Felis", "Canis", "Anguilla"),
        ),
        (LABELS, None, ()),
    ],
)
def test_names_that_are_given_belong_to_their_labels(labels, class_names, names):
    source = _source(labels=labels, class_names=class_names)
    assert source.class_names == names
    translated = class_names if isinstance(class_names, dict) else {}
    for split in source.splits.values():
        for name, label in zip(split.names, split.labels, strict=True):
            own = labels[int(name.split()[1])]
            own = translated.get(own, translated.get(str(own), own))
            assert (names or (0, 1, 2))[label] == own


@pytest.mark.parametrize(
    ("labels", "class_names", "message"),
    [
        (NAMED, ["a", "b", "c"], "class_names: 3 are given, but none for cat, dog, eel"),
        (LABELS, {0: "dog", 1: "cat"}, "class_names: 2 are given, but none for 2"),
        (LABELS, {"dog", "cat", "eel"}, "expected a sequence, or a dict by label, got set"),
        (LABELS, "dog", "expected a sequence, or a dict by label, got str"),
        (LABELS, ["a", "a", "b"], "expected names that differ from each other"),
        ([*NAMED[:8], None], (), "expected whole numbers or names .* 1 of which are missing"),
        ([*NAMED[:7], float("nan"), None], (), "2 of which are missing"),
        ([[0], [1, 2]], (), "labels: .*expected whole numbers or names"),
        (LABELS, 5, "class_names: expected a sequence, got 5"),
        (LABELS * 0, (), "labels: all images are of the class 0, expected at least two"),
    ],
)
def test_names_and_labels_that_cannot_be_meant(labels, class_names, message):
    with pytest.raises(UserError, match=message):
        _source(labels=labels, class_names=class_names)


def test_class_names_of_classes_without_images():
    source = _source(labels=2 * LABELS, class_names=list("abcdef"))
    assert source.class_names == ("a", "c", "e")
    assert source.warnings == ("no image of 3 of the classes: b, d, f",)
    with pytest.raises(UserError, match="class_names: 1 are given, but none for 1, 2"):
        _source(class_names=["a"])


def test_images_of_all_kinds():
    """What a program has in memory comes out as the pixels that it means."""
    rng = np.random.default_rng(0)
    whole = rng.integers(0, 256, (9, 8, 6, 3), np.uint8)
    grey, alpha = whole[..., 0], np.concatenate([whole, whole[..., :1] * 0], -1)
    same = [
        *(whole.astype(np.int64), whole.astype(np.float32) / 255, list(whole), tuple(whole)),
        *(list(whole.astype(np.float64) / 255), [PIL.Image.fromarray(x) for x in whole]),
        np.array([*whole, None], object)[:9],
    ]
    expected = {name: loader.load(split, 8)[0] for name, split in _source(whole).splits.items()}
    first = _source(whole).fingerprint
    for images in same:
        source = _source(images)
        for name, split in source.splits.items():
            np.testing.assert_array_equal(loader.load(split, 8)[0], expected[name])
        assert source.fingerprint == first
    for images in (grey, grey[..., None], grey / 255, [PIL.Image.fromarray(x) for x in grey]):
        pixels = loader.load(_source(images).splits["test"], 8)[0]
        np.testing.assert_array_equal(pixels, pixels[..., :1].repeat(3, -1))
        np.testing.assert_array_equal(pixels[..., 0], expected["test"][..., 0])
    assert (loader.load(_source(alpha).splits["test"], 8)[0] == 255).all()  # transparent
    unequal = [image[: 4 + number % 3] for number, image in enumerate(whole)]
    assert loader.load(_source(unequal).splits["test"], 8)[0].shape == (3, 8, 8, 3)


def test_other_arrays_in_a_finished_run_are_refused(ti16, tmp_path):
    """A plain dict sets single settings; their names may have dots."""
    config = {
        **{"method": "linear", "weights": str(ti16), "backbone": "vit_ti16"},
        **{"normalisation": "half", "image_size": 32, "retrain.epochs": 2},
        "retrain": {"batch_size": 5, "warmup_epochs": 0},
    }
    result = noah_jax.find_subnet(IMAGES, LABELS, tmp_path / "run", config)
    assert result["method"] == "linear" and result["image_size"] == 32
    assert noah_jax.find_subnet(IMAGES, LABELS, tmp_path / "run", config) == result
    with pytest.raises(UserError, match="the images: not the same as there"):
        noah_jax.find_subnet(IMAGES + 1, LABELS, tmp_path / "run", config)
    with pytest.raises(UserError, match="other class names: delete it and run the command again"):
        noah_jax.find_subnet(IMAGES, LABELS, tmp_path / "run", config, ["a", "b", "c"])
    (tmp_path / "run/result.json").unlink()
    again = noah_jax.find_subnet(IMAGES, LABELS, tmp_path / "run", config, ["a", "b", "c"])
    assert again["class_names"] == ["a", "b", "c"]
    assert again["test_accuracy"] == result["test_accuracy"]
    config["image_size"] = np.int64(32)
    assert noah_jax.find_subnet(IMAGES, LABELS, tmp_path / "run", config, list("abc")) == again
    with pytest.raises(UserError, match="the images: not the same as there"):
        turned = IMAGES.reshape(9, 4, 16, 3)
        noah_jax.find_subnet(turned, LABELS, tmp_path / "run", config, list("abc"))
    for wrong, message in (
        ({"methid": "lora"}, "unknown key methid .did you mean method"),
        ({"retrain": {"epoch": 3}}, "unknown key retrain.epoch .did you mean retrain.epochs"),
        ({"method": "lora", "space": {"lora": (4,)}}, "its key is baseline.lora"),
        ({"retrain": 5}, "retrain: expected a dict with the settings of this group"),
        ({"retrain.epochs": "many"}, "retrain.epochs='many': expected int"),
    ):
        with pytest.raises(UserError, match=message):
            noah_jax.find_subnet(IMAGES, LABELS, tmp_path / "other", config | wrong)


def test_find_subnet_is_one_run(tmp_path):
    config = noah_jax.defaults()
    config.method = "lora+noah"
    with pytest.raises(UserError, match="one run"):
        noah_jax.find_subnet(IMAGES, LABELS, tmp_path / "run", config)
    assert not (tmp_path / "run").exists()


def test_all_names_are_there():
    for name in noah_jax.__all__:
        assert callable(getattr(noah_jax, name)) and name in noah_jax.__doc__
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = noah_jax.nothing
