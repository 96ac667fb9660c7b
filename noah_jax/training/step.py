"""The part of training that runs on the devices; loop.py repeats it over time.

A step is a pure function of its inputs, the seed and its number: batch, augmentation and dropout
come from these alone. Images that are used as they are stay on the devices, and many steps are one
call. Augmented images are streamed, and each step is a call.
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
_NOT_DECAYED = ("bias", "scale", "cls_token", "register_tokens", "pos_embed")


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
    """Params and optimiser state, which a step changes. They are donated to the next step.

    The losses are apart from it: the host reads them while the next steps run.
    """

    params: nnx.State
    optimizer: optax.OptState


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Span:
    """Some successive steps of one epoch. All its numbers are traced.

    Attributes:
      first_step: number of the epoch's first step in the whole training, int32.
      start, stop: first step of the span and first step after it, counted in the epoch; int32.
      seed: of the training, uint32.
    """

    first_step: np.int32
    start: np.int32
    stop: np.int32
    seed: np.uint32

    @classmethod
    def of(cls, first_step: int, start: int, stop: int, seed: int) -> "Span":
        return cls(np.int32(first_step), np.int32(start), np.int32(stop), np.uint32(seed))


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


def make_epoch(
    network: Network, optimizer: optax.GradientTransformation, batch_size: int, mesh: Mesh
) -> jax.stages.Wrapped:
    """Makes the compiled `epoch(state, losses, frozen, data, genomes, span)`.

    Networks that differ in their weights alone share it, with all that it has compiled.

    It does the steps of `span` and ends early after a loss that is not finite. Only the number of
    steps in an epoch is static: one compilation, and the same numbers however an epoch is divided
    into spans.

    Args of the result:
      state: a `TrainState`, donated.
      losses: float32 `[steps]`, with those of the epoch's earlier steps.
      data: all images, uint8 `[n, h, w, 3]`, and labels, int32 `[n]`.
      genomes: `[steps, g, depth, modules]`, for all steps of the epoch.

    Returns:
      The new state and losses.
    """
    return _epoch(network.without_weights(), optimizer, batch_size, mesh)


@functools.lru_cache(maxsize=32)
def _epoch(network, optimizer, batch_size, mesh):
    update = _make_update(network, optimizer, mesh)

    @functools.partial(jax.jit, donate_argnums=0, out_shardings=sharding.replicated(mesh))
    def epoch(state, losses, frozen, data, genomes, span):
        images, labels = data
        shuffle_key, dropout_key = jax.random.split(jax.random.key(span.seed))
        steps = len(genomes)
        shuffle_key = jax.random.fold_in(shuffle_key, span.first_step // steps)
        order = jax.random.permutation(shuffle_key, len(labels))
        batches = order[: steps * batch_size].reshape(steps, batch_size)

        def goes_on(carry):
            i, _, losses = carry
            return (i < span.stop) & ((i == span.start) | jnp.isfinite(losses[i - 1]))

        def step(carry):
            i, state, losses = carry
            key = jax.random.fold_in(dropout_key, span.first_step + i)
            rows = batches[i]
            state, loss = update(state, frozen, images[rows], labels[rows], genomes[i], key)
            return i + 1, state, losses.at[i].set(loss)

        return jax.lax.while_loop(goes_on, step, (span.start, state, losses))[1:]

    return epoch


def make_augmented_step(
    network: Network, optimizer: optax.GradientTransformation, num_classes: int, mesh: Mesh
) -> jax.stages.Wrapped:
    """Makes the compiled `step(state, losses, frozen, batch, genomes, span)`.

    It does the first step of `span`, as `make_epoch` does, and the part of the augmentation that
    is done on the device.

    Args of the result:
      batch: images and labels of the step, placed as by `sharding.from_local_rows`.
      genomes: `[g, depth, modules]`, for the step.
    """
    return _augmented_step(network.without_weights(), optimizer, num_classes, mesh)


@functools.lru_cache(maxsize=32)
def _augmented_step(network, optimizer, num_classes, mesh):
    update = _make_update(network, optimizer, mesh)

    @functools.partial(jax.jit, donate_argnums=0, out_shardings=sharding.replicated(mesh))
    def step(state, losses, frozen, batch, genomes, span):
        images, labels = batch
        key = jax.random.fold_in(jax.random.key(span.seed), span.first_step + span.start)
        mix_key, dropout_key = jax.random.split(key)
        images = network.normalise(sharding.spread(mesh, images))
        images, targets = mixing.mix(images, labels, num_classes, mix_key)
        state, loss = update(state, frozen, images, targets, genomes, dropout_key)
        return state, losses.at[span.start].set(loss)

    return step


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
