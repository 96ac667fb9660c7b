"""Augmentation: the operations and their arguments, the distributions, the stream."""

import itertools
import os
import threading
import time

import numpy as np
import PIL.Image
import pytest
import scipy.stats
from PIL import ImageEnhance, ImageOps
from PIL.Image import Resampling, Transform

from noah_jax.data import Split, augment
from noah_jax.errors import UserError

SIZE = 24


@pytest.fixture(scope="module")
def photo():
    """96×64 of smooth colours and some noise: no operation leaves it as it is."""
    y, x = np.mgrid[:64, :96]
    pixels = np.stack([x * 2, y * 3, 128 + 100 * np.sin(x / 9)], axis=2)
    pixels = pixels + np.random.default_rng(0).integers(0, 20, pixels.shape)
    return PIL.Image.fromarray(np.clip(pixels, 20, 240).astype(np.uint8))


# --- RandAugment ---------------------------------------------------------------------------------


def _rotated(image, degrees):
    return image.rotate(degrees, Resampling.BICUBIC, fillcolor=(124, 116, 104))


def _moved(image, *matrix):
    kwargs = {"resample": Resampling.BICUBIC, "fillcolor": (124, 116, 104)}
    return image.transform(image.size, Transform.AFFINE, matrix, **kwargs)


def _looked_up(image, function):
    values = np.array([function(value) for value in range(256)], np.uint8)
    return PIL.Image.fromarray(values[np.asarray(image)])


# timm's operation at magnitudes 9, 9.5 and 10, in the direction of sign +1 and then of -1.
TABLE = {
    "auto_contrast": (lambda i, _: ImageOps.autocontrast(i), [None] * 3, [None] * 3),
    "equalize": (lambda i, _: ImageOps.equalize(i), [None] * 3, [None] * 3),
    "invert": (lambda i, _: _looked_up(i, lambda v: 255 - v), [None] * 3, [None] * 3),
    "rotate": (_rotated, [27.0, 28.5, 30.0], [-27.0, -28.5, -30.0]),
    "posterize": (  # multiples of 128 = 1 bit, of 256 = none
        lambda i, step: _looked_up(i, lambda v: v // step * step),
        [128, 128, 256],
        [128, 128, 256],
    ),
    "solarize": (
        lambda i, threshold: _looked_up(i, lambda v: v if v < threshold else 255 - v),
        [26, 13, 0],
        [26, 13, 0],
    ),
    "solarize_add": (
        lambda i, add: _looked_up(i, lambda v: min(255, v + add) if v < 128 else v),
        [99, 104, 110],
        [99, 104, 110],
    ),
    "color": (
        lambda i, x: ImageEnhance.Color(i).enhance(x),
        [1.81, 1.855, 1.9],
        [0.19, 0.145, 0.1],
    ),
    "contrast": (
        lambda i, x: ImageEnhance.Contrast(i).enhance(x),
        [1.81, 1.855, 1.9],
        [0.19, 0.145, 0.1],
    ),
    "brightness": (
        lambda i, x: ImageEnhance.Brightness(i).enhance(x),
        [1.81, 1.855, 1.9],
        [0.19, 0.145, 0.1],
    ),
    "sharpness": (
        lambda i, x: ImageEnhance.Sharpness(i).enhance(x),
        [1.81, 1.855, 1.9],
        [0.19, 0.145, 0.1],
    ),
    "shear_x": (
        lambda i, x: _moved(i, 1, x, 0, 0, 1, 0),
        [0.27, 0.285, 0.3],
        [-0.27, -0.285, -0.3],
    ),
    "shear_y": (
        lambda i, x: _moved(i, 1, 0, 0, x, 1, 0),
        [0.27, 0.285, 0.3],
        [-0.27, -0.285, -0.3],
    ),
    "translate_x": (  # of 96 pixels
        lambda i, x: _moved(i, 1, 0, x, 0, 1, 0),
        [38.88, 41.04, 43.2],
        [-38.88, -41.04, -43.2],
    ),
    "translate_y": (  # of 64 pixels
        lambda i, x: _moved(i, 1, 0, 0, 0, 1, x),
        [25.92, 27.36, 28.8],
        [-25.92, -27.36, -28.8],
    ),
}


def test_operations_and_their_arguments_are_timms(photo):
    """Equal up to one grey value, which the numbers' last decimals may turn."""
    assert list(augment.OPERATIONS) == list(TABLE)
    for name, (operation, *arguments) in TABLE.items():
        for sign, row in zip((1, -1), arguments, strict=True):
            for magnitude, argument in zip((9.0, 9.5, 10.0), row, strict=True):
                actual = np.asarray(augment.OPERATIONS[name](photo, magnitude / 10, sign), int)
                expected = np.asarray(operation(photo, argument), int)
                where = f"{name} {sign:+} at {magnitude}"
                assert actual.shape == (64, 96, 3) and abs(actual - expected).max() <= 1, where
                assert abs(actual - np.asarray(photo, int)).mean() > 1, where


def test_two_operations_each_applied_to_half_of_the_images(photo, monkeypatch):
    """Counts, levels and signs are right over 4,000 images."""
    calls: list[tuple[str, float, int]] = []

    def record(name):
        return lambda image, level, sign: calls.append((name, level, sign)) or image

    names = list(augment.OPERATIONS)
    monkeypatch.setattr(augment, "OPERATIONS", {name: record(name) for name in names})
    counts = []
    for seed in range(4000):
        before = len(calls)
        augment.augment(photo, 4, np.random.default_rng(seed))
        counts.append(len(calls) - before)
    frequency = np.bincount(counts, minlength=3) / 4000
    np.testing.assert_allclose(frequency, [0.25, 0.5, 0.25], atol=0.03)
    drawn, levels, signs = zip(*calls, strict=True)
    per_operation = [drawn.count(name) for name in names]
    assert scipy.stats.chisquare(per_operation).pvalue > 1e-3
    assert abs(np.mean(signs)) < 0.06
    assert max(levels) == 1.0 and abs(np.mean(np.array(levels) == 1.0) - 0.0228) < 0.01
    below = scipy.stats.truncnorm(-18, 2, 0.9, 0.05)  # N(9, 0.5) / 10 where it is not cut at 10
    assert scipy.stats.kstest([x for x in levels if x < 1.0], below.cdf).pvalue > 1e-3


def test_crop_and_flip(photo, monkeypatch):
    """The crop is the box that `crop_box` draws, and half of the crops are mirrored."""
    monkeypatch.setattr(augment, "OPERATIONS", {"none": lambda image, level, sign: image})
    flips = 0
    for seed in range(400):
        actual = augment.augment(photo, SIZE, np.random.default_rng(seed))
        box = augment.crop_box(96, 64, np.random.default_rng(seed))
        crop = photo.crop(box).resize((SIZE, SIZE), Resampling.BICUBIC)
        flipped = not np.array_equal(actual, crop)
        assert actual.dtype == np.uint8
        np.testing.assert_array_equal(actual, np.asarray(crop)[:, ::-1] if flipped else crop)
        flips += flipped
    assert 160 < flips < 240


def test_crops_cover_8_to_100_percent():
    rng = np.random.default_rng(0)
    left, top, right, bottom = np.array([augment.crop_box(500, 375, rng) for _ in range(4000)]).T
    assert left.min() >= 0 and top.min() >= 0 and right.max() <= 500 and bottom.max() <= 375
    width, height = right - left, bottom - top
    area, ratio = width * height / (500 * 375), width / height
    assert 0.079 < area.min() < 0.09 and 0.95 < area.max() <= 1
    assert 0.74 < ratio.min() < 0.76 and 1.32 < ratio.max() < 1.35
    small = area < 0.4  # these always fit: neither area nor ratio is drawn again
    assert scipy.stats.kstest(area[small], scipy.stats.uniform(0.08, 0.32).cdf).pvalue > 1e-3
    log_ratio = scipy.stats.uniform(np.log(3 / 4), 2 * np.log(4 / 3))
    assert scipy.stats.kstest(np.log(ratio[small]), log_ratio.cdf).pvalue > 1e-3
    place = left[small] / (500 - width[small])
    assert scipy.stats.kstest(place, scipy.stats.uniform.cdf).pvalue > 1e-3
    assert augment.crop_box(1000, 9, rng)[1::2] == (0, 9)  # nothing fits: the centre, 4:3
    assert augment.crop_box(1000, 9, rng)[::2] == (494, 506)


# --- The stream ----------------------------------------------------------------------------------


def _examples(photo):
    """Eleven, each of its own class."""
    return Split([f"photo {i}" for i in range(11)], lambda index: (photo.copy(), index))


def _take(split, batches, seed=0, first_step=0):
    stream = augment.stream(split, SIZE, 4, seed, first_step)
    return list(itertools.islice(stream, batches))


def test_a_batch_is_a_function_of_seed_and_step(photo):
    split = _examples(photo)
    whole = _take(split, 6)
    for images, labels in whole:
        assert images.shape == (4, SIZE, SIZE, 3) and images.dtype == np.uint8
        assert labels.shape == (4,) and labels.dtype == np.int32
    for batch, resumed in zip(whole[3:], _take(split, 3, first_step=3), strict=True):
        np.testing.assert_array_equal(batch[0], resumed[0])
        np.testing.assert_array_equal(batch[1], resumed[1])
    assert not np.array_equal(whole[0][0], _take(split, 1, seed=1)[0][0])


def test_parts_of_a_batch_are_those_of_the_whole(photo):
    """Two hosts read them, one the first and last image of each batch."""
    split = _examples(photo)
    whole = _take(split, 5, first_step=1)
    for rows in ([0, 3], [1, 2]):
        stream = augment.stream(split, SIZE, 4, 0, 1, np.array(rows))
        for batch, part in zip(whole, stream, strict=False):
            np.testing.assert_array_equal(batch[0][rows], part[0])
            np.testing.assert_array_equal(batch[1][rows], part[1])


def test_no_image_twice_in_an_epoch_and_every_epoch_is_another(photo):
    batches = _take(_examples(photo), 20)  # 2 a epoch: 3 of 11 images are left out
    epochs = np.array([labels for _, labels in batches]).reshape(10, 8)
    assert all(len(set(epoch)) == 8 for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 10
    assert len({frozenset(epoch) for epoch in epochs}) > 5  # not the same 3 are left out
    crops = np.concatenate([images for images, _ in batches])
    assert len({crop.tobytes() for crop in crops}) == 80


def test_images_are_read_in_several_threads(photo):
    """Each reader waits for another: a single one would wait until the timeout."""
    barrier = threading.Barrier(min(2, os.cpu_count()))

    def read(index):
        assert threading.current_thread() is not threading.main_thread()
        barrier.wait(timeout=20)
        return photo.copy(), index

    images, _ = _take(Split(["photo"] * 8, read), 1)[0]
    barrier.abort()  # for what is read ahead
    assert images.any()


def test_images_that_cannot_be_read_are_named(photo):
    def read(index):
        return PIL.Image.new("I;16" if index == 7 else "L", (9, 9)), index

    names = [f"photo {i}" for i in range(8)]
    with pytest.raises(UserError, match="cannot be read: photo 7: mode I;16 has more than 8 bits"):
        _take(Split(names, read), 2)


def test_closing_ends_reading_ahead(photo):
    before, read = {*threading.enumerate()}, []

    def slowly(index):
        read.append(index)
        time.sleep(0.02)
        return photo.copy(), 0

    cores = os.cpu_count() or 1
    stream = augment.stream(Split(["photo"] * 64 * cores, slowly), SIZE, 8 * cores, 0, 0)
    next(stream)
    assert {*threading.enumerate()} - before
    stream.close()
    for _ in range(100):  # a thread may still be at its last image
        if not {*threading.enumerate()} - before:
            break
        time.sleep(0.05)
    assert not {*threading.enumerate()} - before and next(stream, None) is None
    assert len(read) <= 16 * cores  # four batches ahead would be 40
