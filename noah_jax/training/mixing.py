"""The part of the augmentation that is done on the device, batch by batch.

Random erasing, then mixup or cutmix, and smoothed labels: the values of timm 0.5.4 and of NOAH's
supernet_train_prompt.py. The part on the host is in data/augment.py.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax

_ATTEMPTS = 10  # to draw a box to erase that fits
_ERASE_PROBABILITY, _ERASE_AREA, _ERASE_RATIO = 0.25, (0.02, 1 / 3), (0.3, 1 / 0.3)
_MIXUP_ALPHA, _CUTMIX_PROBABILITY = 0.8, 0.5
_SMOOTHING = 0.1


def mix(
    images: jax.Array, labels: jax.Array, num_classes: int, key: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Erases boxes at random, then mixes the batch with its own reverse, by mixup or cutmix.

    The middle image of an odd batch is its own partner (timm refuses odd batches).

    Args:
      images: normalised, float32 `[b, h, w, 3]`.
      labels: int `[b]`.

    Returns:
      The images, and float32 targets `[b, num_classes]` that sum to 1.
    """
    erase_key, share_key = jax.random.split(key)
    images = jax.vmap(erase)(images, jax.random.split(erase_key, len(images)))
    _, height, width, _ = images.shape
    own = own_share(height, width, share_key)  # [h w]
    targets = optax.smooth_labels(jax.nn.one_hot(labels, num_classes), _SMOOTHING)

    def blend(x, own):
        return own * x + (1 - own) * x[::-1]

    return blend(images, own[None, :, :, None]), blend(targets, own.mean())


def erase(image: jax.Array, key: jax.Array) -> jax.Array:
    """Replaces a box of a normalised image `[h, w, 3]` by normal noise, one time in four."""
    height, width, _ = image.shape
    keys = jax.random.split(key, 6)
    area = jax.random.uniform(keys[0], (_ATTEMPTS,), jnp.float32, *_ERASE_AREA) * height * width
    ratio = jnp.exp(jax.random.uniform(keys[1], (_ATTEMPTS,), jnp.float32, *np.log(_ERASE_RATIO)))
    heights = jnp.round(jnp.sqrt(area * ratio)).astype(jnp.int32)
    widths = jnp.round(jnp.sqrt(area / ratio)).astype(jnp.int32)
    fits = (heights < height) & (widths < width)
    h, w = heights[jnp.argmax(fits)], widths[jnp.argmax(fits)]
    top = jax.random.randint(keys[2], (), 0, height - h + 1)
    left = jax.random.randint(keys[3], (), 0, width - w + 1)
    erased = fits.any() & jax.random.bernoulli(keys[4], _ERASE_PROBABILITY)
    box = _inside(top, top + h, height)[:, None] & _inside(left, left + w, width)[None]
    noise = jax.random.normal(keys[5], image.shape)
    return jnp.where((box & erased)[:, :, None], noise, image)


def own_share(height: int, width: int, key: jax.Array) -> jax.Array:
    """The share of its image in each pixel `[height, width]`; the rest is the partner's.

    Mixup: λ ~ Beta(0.8, 0.8) everywhere. Cutmix: 0 in a box around a random pixel and 1 outside.
    The box has 1 - λ of the area, with λ ~ Beta(1, 1), and is cut off at the image's edge. The mean
    over all pixels is the label's share.
    """
    keys = jax.random.split(key, 5)
    mixup = jax.random.beta(keys[0], _MIXUP_ALPHA, _MIXUP_ALPHA)
    side = jnp.sqrt(jax.random.uniform(keys[1]))  # 1 - λ is uniform as λ is
    half_h = (height * side).astype(jnp.int32) // 2
    half_w = (width * side).astype(jnp.int32) // 2
    y = jax.random.randint(keys[2], (), 0, height)
    x = jax.random.randint(keys[3], (), 0, width)
    rows, columns = _inside(y - half_h, y + half_h, height), _inside(x - half_w, x + half_w, width)
    box = rows[:, None] & columns[None]
    cutmix = jax.random.bernoulli(keys[4], _CUTMIX_PROBABILITY)
    return jnp.where(cutmix, 1 - box.astype(jnp.float32), mixup)


def _inside(start, stop, size):
    """True where start ≤ position < stop, bool `[size]`."""
    position = jnp.arange(size)
    return (start <= position) & (position < stop)
