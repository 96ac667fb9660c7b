"""The part of training that runs on the devices; loop.py repeats it over time.

A step is a pure function of its inputs, the seed and its number: batch, augmentation and dropout
come from these alone. Each is a call, and the host gives the devices the next ones before they have
done it. A loop on the device would have to ask the host, on a GPU, whether it goes on. Images that
are used as they are stay on the devices; augmented ones are streamed.

Networks that differ in their weights alone share these programs, with all that they have compiled.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax.sharding import Mesh

from noah_jax.config.settings import SCHEDULES, Schedule
from noah_jax.errors import UserError
from noah_jax.runtime import sharding
from noah_jax.training import mixing
from noah_jax.vit.network import Network

_FIRST_LEARNING_RATE, _LAST_LEARNING_RATE = 1e-6, 1e-5
_LINE = 128
_NOT_DECAYED = ("bias", "scale", "cls_token", "register_tokens", "pos_embed", "probe")


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
    """Params and optimiser state, which a step changes. They are donated to the next step.

    The losses are apart from it: the host reads them while the next steps run.
    """

    params: nnx.State
    optimizer: optax.OptState


def learning_rate(schedule: Schedule, steps_per_epoch: int) -> optax.Schedule:
    """Maps a step to its learning rate: linear warm-up, then cosine."""
    return optax.warmup_cosine_decay_schedule(
        _FIRST_LEARNING_RATE,
        schedule.learning_rate,
        schedule.warmup_epochs * steps_per_epoch,
        schedule.epochs * steps_per_epoch,
        min(_LAST_LEARNING_RATE, schedule.learning_rate),
    )


@functools.lru_cache(maxsize=32)
def make_optimizer(schedule: Schedule, steps_per_epoch: int) -> optax.GradientTransformation:
    """AdamW at the `learning_rate`. Biases, norms and embeddings are not decayed."""

    def decayed(params):
        def is_decayed(path, _):
            return not any(name in jax.tree_util.keystr(path) for name in _NOT_DECAYED)

        return jax.tree_util.tree_map_with_path(is_decayed, params)

    rate = learning_rate(schedule, steps_per_epoch)
    return optax.adamw(rate, weight_decay=schedule.weight_decay, mask=decayed)


def initial_state(
    network: Network, optimizer: optax.GradientTransformation, mesh: Mesh
) -> TrainState:
    """The network's params, copied because a step donates them, and a fresh optimiser state."""
    params = jax.tree.map(jnp.copy, network.params)
    return sharding.replicate(mesh, TrainState(params, jax.jit(optimizer.init)(params)))


def _make_update(network: Network, optimizer: optax.GradientTransformation, mesh: Mesh):
    """Makes `update(state, frozen, images, labels, genomes, key)` → the new state and the loss.

    Each of the genomes `[g, depth, columns]` gets an equal part of the batch. Labels are classes
    `[b]` or distributions `[b, classes]`.
    """

    def loss(params, frozen, images, labels, genomes, key):
        groups = len(genomes)
        images = images.reshape(groups, -1, *images.shape[1:])
        images = sharding.spread(mesh, images, axis=1)
        logits = jax.vmap(network.logits, (None, None, 0, 0, 0))(
            params, frozen, images, genomes, jax.random.split(key, groups)
        )
        labels = labels.reshape(groups, -1, *labels.shape[1:])  # logits so flattened would travel
        if labels.ndim == 3:
            return optax.softmax_cross_entropy(logits, labels).mean()
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

    def update(state, frozen, images, labels, genomes, key):
        inputs = state.params, frozen, images, labels, genomes, key
        value, gradient = jax.value_and_grad(loss)(*inputs)
        updates, optimizer_state = optimizer.update(gradient, state.optimizer, state.params)
        return TrainState(optax.apply_updates(state.params, updates), optimizer_state), value

    return update


@functools.lru_cache(maxsize=32)
def make_order(images: int, batch_size: int, mesh: Mesh) -> jax.stages.Wrapped:
    """Makes the compiled `order(seed, epoch)`: the images of each batch of an epoch.

    An image is in one batch at most. The result is int32 `[steps, batch_size]`.
    """
    steps = images // batch_size

    @functools.partial(jax.jit, out_shardings=sharding.replicated(mesh))
    def order(seed, epoch):
        shuffle_key, _ = jax.random.split(jax.random.key(seed))
        shuffled = jax.random.permutation(jax.random.fold_in(shuffle_key, epoch), images)
        return shuffled[: steps * batch_size].reshape(steps, batch_size)

    return order


def as_lines(images: np.ndarray) -> np.ndarray:
    """Puts uint8 images `[n, h, w, 3]` in lines, `[n, lines, 128]`, the last of which is filled up.

    A TPU would copy whole images to another layout before it takes some, all of them in each step.
    """
    flat = images.reshape(len(images), -1)
    short = -flat.shape[1] % _LINE
    filled = np.pad(flat, ((0, 0), (0, short))) if short else flat  # else no copy
    return filled.reshape(len(images), -1, _LINE)


def _from_lines(lines: jax.Array, image_size: int) -> jax.Array:
    flat = lines.reshape(len(lines), -1)[:, : 3 * image_size**2]
    return flat.reshape(-1, image_size, image_size, 3)


def make_step(
    network: Network, optimizer: optax.GradientTransformation, image_size: int, mesh: Mesh
) -> jax.stages.Wrapped:
    """Makes the compiled `step(state, losses, frozen, batch, genomes, moment)`.

    Args:
      image_size: pixels, height and width.

    Args of the result:
      state: a `TrainState`, donated.
      losses: float32 `[steps]`, with those of the epoch's earlier steps.
      batch: all images, see `as_lines`, their labels, int32 `[n]`, and the epoch's order.
      genomes: int32 `[steps, g, depth, modules]`, for all steps of the epoch.
      moment: the number of the step in the whole training, int32, and the training's seed, uint32.

    Returns:
      The new state and losses.
    """
    return _step(network.without_weights(), optimizer, image_size, mesh)


@functools.lru_cache(maxsize=32)
def _step(network, optimizer, image_size, mesh):
    def prepare(batch, i, number, seed):
        images, labels, order = batch
        _, dropout_key = jax.random.split(jax.random.key(seed))
        chosen = _from_lines(images[order[i]], image_size)
        return chosen, labels[order[i]], jax.random.fold_in(dropout_key, number)

    return _compiled(prepare, network, optimizer, mesh)


def make_augmented_step(
    network: Network, optimizer: optax.GradientTransformation, num_classes: int, mesh: Mesh
) -> jax.stages.Wrapped:
    """Makes the compiled `step(state, losses, frozen, batch, genomes, moment)`.

    It is a step of `make_step`, with the part of the augmentation that is done on the device.

    Args of the result:
      batch: images and labels of the step, placed as by `sharding.from_local_rows`.
    """
    return _augmented_step(network.without_weights(), optimizer, num_classes, mesh)


@functools.lru_cache(maxsize=32)
def _augmented_step(network, optimizer, num_classes, mesh):
    def prepare(batch, i, number, seed):
        images, labels = batch
        key = jax.random.fold_in(jax.random.key(seed), number)
        mix_key, dropout_key = jax.random.split(key)
        images = network.normalise(sharding.spread(mesh, images))
        return *mixing.mix(images, labels, num_classes, mix_key), dropout_key

    return _compiled(prepare, network, optimizer, mesh)


def _compiled(prepare, network, optimizer, mesh):
    """Makes the step on what `prepare` returns: images, labels and the key of the dropout."""
    update = _make_update(network, optimizer, mesh)

    def step(state, losses, frozen, batch, genomes, moment):
        i = moment[0] % len(genomes)
        images, labels, key = prepare(batch, i, *moment)
        state, loss = update(state, frozen, images, labels, genomes[i], key)
        return state, losses.at[i].set(loss)

    everywhere, options = sharding.replicated(mesh), network.options
    return jax.jit(step, donate_argnums=0, out_shardings=everywhere, compiler_options=options)


def steps_per_epoch(stage: str, schedule: Schedule, images: int) -> int:
    """Counts the whole batches in an epoch; the rest of its images is left out.

    Raises:
      UserError: there are fewer images than a batch holds.
    """
    if images < schedule.batch_size:
        raise UserError(
            f"{SCHEDULES[stage]}.batch_size={schedule.batch_size}, but there are only {images} "
            f"training images: lower it with --config.{SCHEDULES[stage]}.batch_size={images}"
        )
    return images // schedule.batch_size
