"""Training what trains: the supernet with random genomes, a subnet with its own.

A run is a pure function of its inputs, the seed and the step: batch, genome, augmentation and
dropout of a step come from the seed and the step's number alone. Images that are used as they are
stay on the devices, and an epoch is one call; augmented ones are streamed, and a step is one call.
"""

import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax.sharding import Mesh

from noah_jax import augment, memory, sharding
from noah_jax.augment import Augmented
from noah_jax.checkpoint import Checkpoints
from noah_jax.errors import UserError
from noah_jax.network import Network
from noah_jax.settings import Schedule
from noah_jax.writer import Writer

_FIRST_LEARNING_RATE, _LAST_LEARNING_RATE = 1e-6, 1e-5
_STEPS_AHEAD = 4  # of the device, that the host may dispatch
_NOT_DECAYED = ("bias", "scale", "cls_token", "register_tokens", "pos_embed")


def make_optimizer(schedule: Schedule, steps_per_epoch: int) -> optax.GradientTransformation:
    """AdamW; linear warm-up, then cosine; biases and norms are not decayed."""
    learning_rate = optax.warmup_cosine_decay_schedule(
        _FIRST_LEARNING_RATE,
        schedule.learning_rate,
        schedule.warmup_epochs * steps_per_epoch,
        schedule.epochs * steps_per_epoch,
        min(_LAST_LEARNING_RATE, schedule.learning_rate),
    )

    def decayed(params):
        def is_decayed(path, _):
            return not any(name in jax.tree_util.keystr(path) for name in _NOT_DECAYED)

        return jax.tree_util.tree_map_with_path(is_decayed, params)

    return optax.adamw(learning_rate, weight_decay=schedule.weight_decay, mask=decayed)


def initial_state(network: Network, optimizer: optax.GradientTransformation, mesh: Mesh):
    """Params and optimiser state; copies, since an epoch donates them and the network is kept."""
    params = jax.tree.map(jnp.copy, network.params)
    return sharding.replicate(mesh, (params, jax.jit(optimizer.init)(params)))


def _make_update(network: Network, optimizer: optax.GradientTransformation, mesh: Mesh):
    """`update(state, frozen, images, labels, genomes, key)` → the new state and the loss.

    `state` is `(params, optimiser state)`. Each of the genomes `[g, depth, modules]` gets an equal
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
    network: Network, optimizer: optax.GradientTransformation, batch_size: int, mesh: Mesh
):
    """The compiled `epoch(state, frozen, images, labels, genomes, first_step, seed)`.

    `state` is donated, see `_make_update`; `genomes` `[steps, g, depth, modules]` are for all steps
    of the epoch. Returns the new state and the losses `[steps]`. All but the number of steps is
    traced: one compilation.
    """
    update = _make_update(network, optimizer, mesh)

    @functools.partial(jax.jit, donate_argnums=0, out_shardings=sharding.replicated(mesh))
    def epoch(state, frozen, images, labels, genomes, first_step, seed):
        shuffle_key, dropout_key = jax.random.split(jax.random.key(seed))
        steps = len(genomes)
        shuffle_key = jax.random.fold_in(shuffle_key, first_step // steps)
        order = jax.random.permutation(shuffle_key, len(labels))
        batches = order[: steps * batch_size].reshape(steps, batch_size)

        def step(state, inputs):
            number, batch, genomes = inputs
            key = jax.random.fold_in(dropout_key, number)
            return update(state, frozen, images[batch], labels[batch], genomes, key)

        return jax.lax.scan(step, state, (first_step + jnp.arange(steps), batches, genomes))

    return epoch


def make_augmented_step(
    network: Network, optimizer: optax.GradientTransformation, num_classes: int, mesh: Mesh
):
    """The compiled `step(state, frozen, images, labels, genomes, number, seed)`.

    As one step of `make_epoch`, with the part of the augmentation that is done on the device.
    Images and labels are placed as by `sharding.from_local_rows`.
    Returns the new state and the loss.
    """
    update = _make_update(network, optimizer, mesh)

    @functools.partial(jax.jit, donate_argnums=0, out_shardings=sharding.replicated(mesh))
    def step(state, frozen, images, labels, genomes, number, seed):
        mix_key, dropout_key = jax.random.split(jax.random.fold_in(jax.random.key(seed), number))
        images = network.normalise(sharding.spread(mesh, images))
        images, targets = augment.mix(images, labels, num_classes, mix_key)
        return update(state, frozen, images, targets, genomes, dropout_key)

    return step


def _resident(network, optimizer, data, batch_size, seed, mesh):
    """`run(state, genomes, first_step)` → the state after an epoch and its mean loss."""
    epoch = memory.watch(make_epoch(network, optimizer, batch_size, mesh))
    images, labels = sharding.replicate(mesh, data)

    def run(state, genomes, first_step):
        numbers = np.int32(first_step), np.uint32(seed)
        state, losses = epoch(state, network.frozen, images, labels, genomes, *numbers)
        return state, losses.mean()

    return run


def _streamed(network, optimizer, data, batch_size, seed, mesh, first_step):
    """As `_resident`; calls must follow each other, from `first_step` on."""
    step = memory.watch(make_augmented_step(network, optimizer, data.num_classes, mesh))
    rows = sharding.local_rows(mesh, batch_size)
    batches = augment.stream(data.split, data.size, batch_size, seed, first_step, rows)

    def run(state, genomes, first_step):
        losses = []
        for number, drawn in enumerate(genomes, first_step):
            numbers = np.int32(number), np.uint32(seed)
            batch = [sharding.from_local_rows(mesh, part, batch_size) for part in next(batches)]
            state, loss = step(state, network.frozen, *batch, drawn, *numbers)
            losses.append(loss)
            if len(losses) > _STEPS_AHEAD:  # else batches pile up in the device's memory
                losses[-1 - _STEPS_AHEAD].block_until_ready()
        return state, jnp.stack(losses).mean()

    return run


def steps_per_epoch(stage: str, schedule: Schedule, images: int) -> int:
    """Whole batches in an epoch; the rest of its images is left out.

    Raises:
      UserError: fewer images than a batch holds.
    """
    if images < schedule.batch_size:
        raise UserError(
            f"{stage}.batch_size={schedule.batch_size}, but there are only {images} training "
            f"images: lower it with --config.{stage}.batch_size={images}"
        )
    return images // schedule.batch_size


def fit(
    stage: str,
    network: Network,
    data: tuple[np.ndarray, np.ndarray] | Augmented,
    schedule: Schedule,
    genomes: Callable[[int], np.ndarray],
    seed: int,
    checkpoints: Checkpoints,
    checkpoint_epochs: int,
    mesh: Mesh,
    writer: Writer,
) -> nnx.State:
    """Trains to the end of `schedule`, from the newest checkpoint if there is one.

    Args:
      data: uint8 images `[n, h, w, 3]` and int32 labels `[n]`, put on the devices whole, once; or
        images that are augmented and streamed.
      genomes: step → `[g, depth, modules]`, a pure function.

    Returns:
      The trained params.

    Raises:
      UserError: see `steps_per_epoch` and `augment.stream`; or the loss is not finite.
    """
    streamed = isinstance(data, Augmented)
    steps = steps_per_epoch(stage, schedule, len(data.split if streamed else data[1]))
    if (each := schedule.batch_size // len(genomes(0))) % mesh.size:
        writer.say(
            f"  {stage}: {mesh.size} devices do not divide the {each} images that a genome gets in "
            "a batch, so each device computes them all"
        )
    optimizer = make_optimizer(schedule, steps)
    state = initial_state(network, optimizer, mesh)
    first = 0
    if (latest := checkpoints.latest) is not None:
        first = latest // steps
        state = sharding.replicate(mesh, _from_saved(state, checkpoints.load(_to_saved(state))))
        writer.say(f"  {stage} goes on after epoch {first}")
    inputs = network, optimizer, data, schedule.batch_size, seed, mesh
    run_epoch = _streamed(*inputs, first * steps) if streamed else _resident(*inputs)
    seen: tuple[int, jax.Array] | None = None
    with writer.progress(stage, schedule.epochs, first, "epochs") as progress:

        def report(epoch, loss):  # one epoch late, so that the device never waits for the host
            loss = float(loss)
            if not math.isfinite(loss):
                raise UserError(
                    f"{stage}: the loss is {loss} in epoch {epoch + 1}; start again with a lower "
                    f"--config.{stage}.learning_rate than {schedule.learning_rate}"
                )
            writer.log(stage=stage, epoch=epoch + 1, step=(epoch + 1) * steps, loss=round(loss, 5))
            progress.update(1, loss=loss)

        for epoch in range(first, schedule.epochs):
            numbers = range(epoch * steps, (epoch + 1) * steps)
            drawn = np.stack([genomes(number) for number in numbers])
            state, loss = run_epoch(state, drawn, numbers[0])
            if seen:
                report(*seen)
            seen = epoch, loss
            if (epoch + 1) % checkpoint_epochs == 0 or epoch + 1 == schedule.epochs:
                report(*seen)
                seen = None
                checkpoints.save((epoch + 1) * steps, _to_saved(state))
    return state[0]


def _to_saved(state):
    """Plain containers with readable names, for Orbax."""
    params, optimizer_state = state
    leaves = jax.tree.leaves(optimizer_state)
    return {
        "params": nnx.to_pure_dict(params),
        "optimizer": {f"{index:03d}": leaf for index, leaf in enumerate(leaves)},
    }


def _from_saved(state, saved):
    params, optimizer_state = state
    leaves = [leaf for _, leaf in sorted(saved["optimizer"].items())]
    nnx.replace_by_pure_dict(params, saved["params"])
    return params, jax.tree.unflatten(jax.tree.structure(optimizer_state), leaves)
