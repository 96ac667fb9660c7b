"""Few-shot drawing: disjoint, balanced, nested, the same each time, and no label read in vain."""

import dataclasses
import re

import numpy as np
import pytest

from noah_jax.config import derived, expand, few_shot_defaults
from noah_jax.data.shots import Shots
from noah_jax.errors import UserError
from noah_jax.training import step as step_lib

LABELS = np.random.default_rng(0).integers(0, 10, 2000)


def _split(shots, labels=LABELS, classes="abcdefghij"):
    return shots.split(lambda index: labels[index], len(labels), classes)


@pytest.mark.parametrize(("number", "val"), [(1, 1), (4, 4), (16, 4)])
def test_as_many_of_each_class_as_asked_for(number, val):
    train, validation = _split(Shots(number, seed=0))
    np.testing.assert_array_equal(np.bincount(LABELS[train]), [number] * 10)
    np.testing.assert_array_equal(np.bincount(LABELS[validation]), [val] * 10)
    assert not set(train) & set(validation) and len(set(train)) == len(train)


def test_fewer_shots_are_among_more_of_the_same_seed_only():
    one, sixteen = (set(_split(Shots(number, seed=3))[0]) for number in (1, 16))
    assert one < sixteen
    assert _split(Shots(16, seed=3)) == _split(Shots(16, seed=3))
    assert not set(_split(Shots(1, seed=4))[0]) == one


def test_all_that_is_left_can_validate():
    train, val = _split(Shots(2, seed=0, whole_val=True))
    assert len(train) == 20 and sorted(train + val) == list(range(2000))
    assert Shots(2, 0, whole_val=True).val(None, 7, 3) == list(range(7))


def test_a_small_class_validates_with_what_is_left():
    labels = np.array([0] * 50 + [1] * 5 + [2] * 7)
    train, val = _split(Shots(4, seed=0), labels, "abc")
    assert np.bincount(labels[train]).tolist() == [4, 4, 4]
    assert np.bincount(labels[val]).tolist() == [4, 1, 3]


@pytest.mark.parametrize(
    ("counts", "shots", "few", "most"),
    [
        ((8, 8), Shots(8, 0), "\n  8 of class a\n  8 of class b", "Set shots to 7 or less"),
        ((50, 3), Shots(4, 0), "\n  3 of class b", "Set shots to 2 or less"),
        ((1, 5), Shots(1, 0), "\n  1 of class a", "Add images to these classes"),
        ((4, 3), Shots(4, 0, whole_val=True), "\n  3 of class b", "Set shots to 3 or less"),
    ],
)
def test_too_few_images_of_a_class(counts, shots, few, most):
    """What is needed and what is there; the advice works."""
    labels = np.repeat([0, 1], counts)
    with pytest.raises(UserError) as error:
        _split(shots, labels, "ab")
    val = 0 if shots.whole_val else min(shots.number, 4)
    needed = f"takes {shots.number} images of each class to train on"
    needed += f" and {val} to validate with" if val else ";"
    assert needed in str(error.value) and str(error.value).endswith(f"only{few}\n{most}")
    if "Set" in most:
        number = int(re.findall(r"\d+", most)[0])
        train, val = _split(dataclasses.replace(shots, number=number), labels, "ab")
        assert np.bincount(labels[train]).tolist() == [number] * 2 and val


def test_nothing_that_is_left():
    with pytest.raises(UserError, match="shots=4 leaves no images to validate with"):
        _split(Shots(4, 0, whole_val=True), np.repeat([0, 1], 4), "ab")


def test_reading_stops_when_all_classes_are_full():
    read = []

    def label(index):
        read.append(index)
        return index % 10

    Shots(1, seed=0).split(label, 1_000_000, "abcdefghij")
    assert len(read) == len(set(read)) < 200


def _batch_sizes(train_images, trainval_images):
    """Batch sizes of a supernet with four genomes a step and of a subnet; the recipe's are 64."""
    values = few_shot_defaults()
    values.update(task="few", supernet={"genomes_per_step": 4})
    (config,) = expand(values)
    counts = {"train": train_images, "trainval": trainval_images}
    stages = {stage: derived.schedule(config, counts, stage) for stage in ("supernet", "retrain")}
    for stage, schedule in stages.items():
        step_lib.steps_per_epoch(stage, *schedule)
    return [schedule.batch_size for schedule, _ in stages.values()]


def test_few_images_are_one_batch():
    assert _batch_sizes(37, 41) == [36, 41]
    assert _batch_sizes(64, 80) == [64, 64]
    with pytest.raises(UserError, match="supernet.batch_size=4, but there are only 3"):
        _batch_sizes(3, 6)
