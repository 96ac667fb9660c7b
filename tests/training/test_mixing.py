"""Erasing, Mixup and CutMix: the distributions, and targets mixed as their images."""

import jax
import numpy as np
import scipy.stats

from noah_jax.training import mixing


def _keys(count):
    return jax.random.split(jax.random.key(0), count)


def _boxes(masks):
    """Heights and widths of `[n, h, w]`, each of which must be a box."""
    heights, widths = masks.any(axis=2).sum(axis=1), masks.any(axis=1).sum(axis=1)
    np.testing.assert_array_equal(masks.sum(axis=(1, 2)), heights * widths)
    return heights, widths


def test_erasing():
    count, size = 4000, 48
    images = np.zeros((count, size, size, 3), np.float32)
    erased = np.asarray(jax.jit(jax.vmap(mixing.erase))(images, _keys(count)))
    noise = erased[erased != 0]
    assert abs(noise.mean()) < 0.01 and abs(noise.std() - 1) < 0.01
    masks = (erased != 0).all(axis=3)
    np.testing.assert_array_equal(masks, (erased != 0).any(axis=3))
    chosen = masks.any(axis=(1, 2))
    assert abs(chosen.mean() - 0.25) < 0.03
    heights, widths = _boxes(masks[chosen])
    rng, expected = np.random.default_rng(0), []
    while len(expected) < 4000:
        area, ratio = (
            rng.uniform(0.02, 1 / 3) * size**2,
            np.exp(rng.uniform(*np.log([0.3, 1 / 0.3]))),
        )
        h, w = round(np.sqrt(area * ratio)), round(np.sqrt(area / ratio))
        if h < size and w < size:
            expected.append((h, w))
    for actual, drawn in zip((heights, widths), np.transpose(expected), strict=True):
        assert scipy.stats.ks_2samp(actual, drawn).pvalue > 1e-3
    area = heights * widths / size**2
    assert 0.015 < area.min() < 0.03 and 0.3 < area.max() < 0.345
    top = masks[chosen].any(axis=2).argmax(axis=1)
    assert top.min() == 0 and (top + heights).max() == size
    assert abs((top / (size - heights)).mean() - 0.5) < 0.03


def test_share_of_mixup_and_cutmix():
    """λ against timm's formula in NumPy; the box is what λ says, less what the edge cuts off."""
    count, size = 4000, 32
    share = jax.jit(jax.vmap(lambda key: mixing.own_share(size, size, key)))(_keys(count))
    share = np.asarray(share, np.float64)
    cutmix = np.isin(share, (0, 1)).all(axis=(1, 2))
    assert abs(cutmix.mean() - 0.5) < 0.03
    mixup = share[~cutmix]
    assert (mixup == mixup[:, :1, :1]).all()
    assert scipy.stats.kstest(mixup[:, 0, 0], scipy.stats.beta(0.8, 0.8).cdf).pvalue > 1e-3
    assert abs(mixup[:, 0, 0].std() - 0.310) < 0.01  # of Beta(1, 1): 0.289
    heights, widths = _boxes(share[cutmix] == 0)
    rng, expected = np.random.default_rng(0), []
    for _ in range(4000):
        side = int(size * np.sqrt(1 - rng.beta(1, 1)))
        row, column = rng.integers(0, size, 2)
        h, w = (min(c + side // 2, size) - max(c - side // 2, 0) for c in (row, column))
        expected.append((h, w, 1 - h * w / size**2))
    actual = heights, widths, share[cutmix].mean(axis=(1, 2))
    for ours, drawn in zip(actual, np.transpose(expected), strict=True):
        assert scipy.stats.ks_2samp(ours, drawn).pvalue > 1e-3


def test_images_and_targets_are_mixed_alike_with_the_reversed_batch(monkeypatch, strict_dtypes):
    """Image i is i² everywhere once erased, so that a mixed pixel tells its share; 64 batches."""
    monkeypatch.setattr(mixing, "erase", lambda image, key: image**2)
    images = np.broadcast_to(np.arange(4, dtype=np.float32)[:, None, None, None], (4, 16, 16, 3))
    labels = np.array([2, 0, 1, 4], np.int32)
    mix = jax.jit(jax.vmap(lambda key: mixing.mix(images, labels, 5, key)))
    mixed, targets = map(np.asarray, mix(_keys(64)))
    assert mixed.dtype == targets.dtype == np.float32
    own = 1 - mixed[:, :1] / 9  # image 0 is mixed with image 3, and one share is for all
    erased = images**2
    np.testing.assert_allclose(mixed, own * erased + (1 - own) * erased[::-1], atol=1e-5)
    share = own.mean(axis=(1, 2, 3, 4))
    assert share.std() > 0.2
    smooth = np.full((4, 5), 0.02)
    smooth[np.arange(4), labels] = 0.92
    share = share[:, None, None]
    np.testing.assert_allclose(targets, share * smooth + (1 - share) * smooth[::-1], atol=1e-5)
    np.testing.assert_allclose(targets.sum(axis=2), 1, atol=1e-6)
