"""What training does on the devices; `loop.py` has what it does over time.

A step is a pure function of its inputs, the seed and its number: batch, augmentation and dropout
come from these alone. Images that are used as they are stay on the devices, and many steps are one
call; augmented ones are streamed, and a step is one call.
"""

import functools

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from noah_jax.config.settings import SCHEDULES, Schedule
from noah_jax.errors import UserError
from noah_jax.runtime import sharding
from noah_jax.training import mixing
from noah_jax.vit.network import Network

_FIRST_LEARNING_RATE, _LAST_LEARNING_RATE = 1e-6, 1e-5
_NOT_DECAYED = ("bias", "scale", "cls_token", "register_tokens", "pos_embed")


def learning_rate(schedule: Schedule, steps_per_epoch: int) -> optax.Schedule:
    """Step → rate: linear warm-up, then cosine."""
    return optax.warmup_cosine_decay_schedule(
        _FIRST_LEARNING_RATE,
        schedule.learning_rate,
        schedule.warmup_epochs * steps_per_epoch,
        schedule.epochs * steps_per_epoch,
        min(_LAST_LEARNING_RATE, schedule.learning_rate),
    )


def make_optimizer(schedule: Schedule, steps_per_epoch: int) -> optax.GradientTransformation:
    """AdamW at the `learning_rate`; biases and norms are not decayed."""

    def decayed(params):
        def is_decayed(path, _):
            return not any(name in jax.tree_util.keystr(path) for name in _NOT_DECAYED)

        return jax.tree_util.tree_map_with_path(is_decayed, params)

    rate = learning_rate(schedule, steps_per_epoch)
    return optax.adamw(rate, weight_decay=schedule.weight_decay, mask=decayed)


def initial_state(network: Network, optimizer: optax.GradientTransformation, mesh: Mesh):
    """Params and optimiser state; copies, since an epoch donates them and the network is kept."""
    params = jax.tree.map(jnp.copy, network.params)
    return sharding.replicate(mesh, (params, jax.jit(optimizer.init)(params)))


def _make_update(
    network: Network,
    optimizer: optax.GradientTransformation,
    mesh: Mesh,
):
    """`update(state, frozen, images, labels, genomes, key)` → the new state and the loss.

    `state` is `(params, optimiser state)`. Each of the genomes `[g, depth, columns]` gets an equal
    part of the batch. Labels are classes `[b]`, or distributions `[b, classes]`.
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
        params, optimizer_state = state
        value, gradient = jax.value_and_grad(loss)(params, frozen, images, labels, genomes, key)
        updates, optimizer_state = optimizer.update(gradient, optimizer_state, params)
        return (optax.apply_updates(params, updates), optimizer_state), value

    return update


def make_epoch(
    network: Network,
    optimizer: optax.GradientTransformation,
    batch_size: int,
    mesh: Mesh,
):
    """The compiled `epoch(state, losses, frozen, images, labels, genomes, first_step, span, seed)`.

    It does the steps `span`, int32 `[2]`, from and to, of an epoch that begins with `first_step`,
    and ends early after a loss that is not finite. `state` is donated, see `_make_update`; `losses`
    `[steps]` has those of the epoch's earlier steps; `genomes` `[steps, g, depth, modules]` are for
    all of them. Returns the new state and losses. All but the number of steps in an epoch is
    traced: one compilation, and the same numbers however an epoch is divided into spans.
    """
    update = _make_update(network, optimizer, mesh)

    @functools.partial(jax.jit, donate_argnums=0, out_shardings=sharding.replicated(mesh))
    def epoch(state, losses, frozen, images, labels, genomes, first_step, span, seed):
        shuffle_key, dropout_key = jax.random.split(jax.random.key(seed))
        steps = len(genomes)
        shuffle_key = jax.random.fold_in(shuffle_key, first_step // steps)
        order = jax.random.permutation(shuffle_key, len(labels))
        batches = order[: steps * batch_size].reshape(steps, batch_size)

        def goes_on(carry):
            i, _, losses = carry
            return (i < span[1]) & ((i == span[0]) | jnp.isfinite(losses[i - 1]))

        def step(carry):
            i, state, losses = carry
            key = jax.random.fold_in(dropout_key, first_step + i)
            rows = batches[i]
            state, loss = update(state, frozen, images[rows], labels[rows], genomes[i], key)
            return i + 1, state, losses.at[i].set(loss)

        return jax.lax.while_loop(goes_on, step, (span[0], state, losses))[1:]

    return epoch


def make_augmented_step(
    network: Network,
    optimizer: optax.GradientTransformation,
    num_classes: int,
    mesh: Mesh,
):
    """The compiled `step(state, losses, frozen, images, labels, genomes, first_step, i, seed)`.

    As the step `i` of `make_epoch`, with the part of the augmentation that is done on the device.
    Images and labels are placed as by `sharding.from_local_rows`; `genomes` are the step's.
    """
    update = _make_update(network, optimizer, mesh)

    @functools.partial(jax.jit, donate_argnums=0, out_shardings=sharding.replicated(mesh))
    def step(state, losses, frozen, images, labels, genomes, first_step, i, seed):
        key = jax.random.fold_in(jax.random.key(seed), first_step + i)
        mix_key, dropout_key = jax.random.split(key)
        images = network.normalise(sharding.spread(mesh, images))
        images, targets = mixing.mix(images, labels, num_classes, mix_key)
        state, loss = update(state, frozen, images, targets, genomes, dropout_key)
        return state, losses.at[i].set(loss)

    return step


def steps_per_epoch(stage: str, schedule: Schedule, images: int) -> int:
    """Whole batches in an epoch; the rest of its images is left out.

    Raises:
      UserError: fewer images than a batch holds.
    """
    if images < schedule.batch_size:
        raise UserError(
            f"{SCHEDULES[stage]}.batch_size={schedule.batch_size}, but there are only {images} "
            f"training images: lower it with --config.{SCHEDULES[stage]}.batch_size={images}"
        )
    return images // schedule.batch_size
