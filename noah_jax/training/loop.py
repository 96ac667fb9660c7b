"""Training over time: spans of steps, what is saved when, and when to stop.

Supernet and subnets are trained by the same loop, the one with random genomes, the other with its
own. The result is a pure function of inputs and seed: it is the same, to the last bit on a CPU,
however often training was interrupted and however its steps were divided into spans.
"""

import contextlib
import math
import time
from collections.abc import Callable

import jax
import numpy as np
from flax import nnx
from jax.sharding import Mesh

from noah_jax.config.settings import SCHEDULES, Schedule
from noah_jax.data import augment
from noah_jax.data.augment import Augmented
from noah_jax.errors import UserError
from noah_jax.runtime import memory, preemption, processes, sharding
from noah_jax.runtime.checkpoint import Checkpoints
from noah_jax.runtime.writer import Writer
from noah_jax.training import step as step_lib
from noah_jax.vit.network import Network

_SECONDS_A_SPAN = 1.0  # a signal waits for two
_STEPS_AHEAD = 4  # of the device, that the host may dispatch


def fit(
    stage: str,
    network: Network,
    data: tuple[np.ndarray, np.ndarray] | Augmented,
    schedule: Schedule,
    genomes: Callable[[int], np.ndarray],
    seed: int,
    checkpoints: Checkpoints,
    checkpoint_seconds: float,
    mesh: Mesh,
    writer: Writer,
) -> nnx.State:
    """Trains to the end of `schedule`, from the newest checkpoint if there is one.

    Args:
      data: uint8 images `[n, h, w, 3]` and int32 labels `[n]`, put on the devices whole, once; or
        images that are augmented and streamed.
      genomes: step → `[g, depth, modules]`, a pure function.
      checkpoint_seconds: from one checkpoint to the next.

    Returns:
      The trained params.

    Raises:
      UserError: see `step_lib.steps_per_epoch`, `augment.stream` and `Checkpoints`; or the training
        diverges.
      Preempted: after a checkpoint.
    """
    streamed = isinstance(data, Augmented)
    steps = step_lib.steps_per_epoch(stage, schedule, len(data.split if streamed else data[1]))
    if (each := schedule.batch_size // len(genomes(0))) % mesh.size:
        writer.say(
            f"  {stage}: {mesh.size} devices do not divide the {each} images that a genome gets in "
            "a batch, so each device computes them all"
        )
    optimizer = step_lib.make_optimizer(schedule, steps)
    state = step_lib.initial_state(network, optimizer, mesh)
    losses = no_losses = np.zeros(steps, np.float32)
    done, total = 0, schedule.epochs * steps
    if found := checkpoints.load(_to_saved(state, losses)):
        done, losses = found[0], found[1]["losses"]
        state = sharding.replicate(mesh, _from_saved(state, found[1]))
        writer.say(f"  {stage} goes on after step {done} of {total}")
    saved, saved_at, waiting, pace = done, time.monotonic(), None, _Pace(steps)

    def check(finite: bool, what: str, step: int) -> None:
        if not finite:
            rate = float(step_lib.learning_rate(schedule, steps)(step - 1))
            raise UserError(
                f"{stage}: {what} step {step}, at learning rate {rate:.3g} with the genome "
                f"{genomes(step - 1).tolist()}. "
                + (f"What was saved after step {saved} is kept. " if saved else "")
                + f"Start anew with a --config.{SCHEDULES[stage]}.learning_rate lower than "
                f"{schedule.learning_rate} and --fresh"
            )

    def settle(first: int, start: int, stop: int, losses: jax.Array) -> None:
        """Waits for the end of a span."""
        values = np.asarray(losses)
        for step, value in enumerate(values[start:stop].tolist(), first + start + 1):
            check(math.isfinite(value), f"the loss is {value} at", step)
        pace.note(stop - start)
        loss = float(values[:stop].mean())
        progress.update(stop - start, loss=loss)
        if stop == steps:
            step, epoch = first + steps, first // steps + 1
            writer.log(stage=stage, epoch=epoch, step=step, loss=round(loss, 5))

    def plan() -> tuple[int, bool]:
        """How many steps come next, and whether to save before."""
        late = time.monotonic() >= saved_at + checkpoint_seconds
        return pace.span, late or done == total or preemption.requested()

    with contextlib.ExitStack() as stack:
        if streamed:
            step = step_lib.make_augmented_step(network, optimizer, data.num_classes, mesh)
            run = _streamed(step, network, data, schedule.batch_size, seed, mesh, done, stack)
        else:
            epoch = step_lib.make_epoch(network, optimizer, schedule.batch_size, mesh)
            run = _resident(epoch, network, data, seed, mesh)
        progress = stack.enter_context(writer.progress(stage, total, done, "steps"))
        stack.enter_context(preemption.deferred())
        while True:
            span, due = processes.from_main(plan)  # all save, and notice a divergence, together
            if due:
                if waiting:
                    settle(*waiting)
                    check(_all_finite(state[0]), "parameters are not finite after", done)
                    checkpoints.save(done, _to_saved(state, losses))
                    pace.pause()
                saved, saved_at, waiting = done, time.monotonic(), None
                preemption.stop_if_requested(f"{stage} is saved after step {saved} of {total}")
            if done == total:
                break
            first, start = done - done % steps, done % steps
            if waiting is None or start == 0:
                drawn = np.stack([genomes(number) for number in range(first, first + steps)])
                losses = sharding.replicate(mesh, np.asarray(losses) if start else no_losses)
            stop = min(start + span, steps)
            state, losses = run(state, losses, drawn, first, start, stop)
            done = first + stop
            if waiting:  # one span late, so that the device never waits for the host
                settle(*waiting)
            waiting = first, start, stop, losses
    return state[0]


def trained(
    network: Network, schedule: Schedule, steps: int, checkpoints: Checkpoints, mesh: Mesh
) -> nnx.State:
    """The params that `fit` ended with.

    Args:
      steps: of an epoch.

    Raises:
      UserError: there is no checkpoint of the last step.
    """
    state = step_lib.initial_state(network, step_lib.make_optimizer(schedule, steps), mesh)
    found = checkpoints.load(_to_saved(state, np.zeros(steps, np.float32)))
    if found is None or found[0] != schedule.epochs * steps:
        raise UserError("the checkpoint of the end of the training is missing")
    return _from_saved(state, found[1])[0]


class _Pace:
    """How many steps to give to the devices at once: what they do in `_SECONDS_A_SPAN`."""

    def __init__(self, most: int):
        self._most, self.span, self._since = most, 1, None

    def note(self, steps: int) -> None:
        """So many were done since the last call."""
        now = time.monotonic()
        if self._since is not None:
            seconds = max(1e-9, (now - self._since) / steps)
            self.span = int(min(max(_SECONDS_A_SPAN / seconds, 1), self._most))
        self._since = now

    def pause(self) -> None:
        """The time until the next call says nothing."""
        self._since = None


def _resident(epoch, network, data, seed, mesh):
    """`run(state, losses, genomes, first_step, start, stop)`: see `step_lib.make_epoch`."""
    epoch = memory.watch(epoch)
    images, labels = sharding.replicate(mesh, data)

    def run(state, losses, genomes, first_step, start, stop):
        numbers = np.int32(first_step), np.array([start, stop], np.int32), np.uint32(seed)
        return epoch(state, losses, network.frozen, images, labels, genomes, *numbers)

    return run


def _streamed(step, network, data, batch_size, seed, mesh, first_step, stack):
    """As `_resident`; calls must follow each other, from `first_step` on; `stack` closes."""
    step = memory.watch(step)
    rows = sharding.local_rows(mesh, batch_size)
    batches = augment.stream(data.split, data.size, batch_size, seed, first_step, rows)
    stack.callback(batches.close)

    def run(state, losses, genomes, first_step, start, stop):
        waiting = []
        for i in range(start, stop):
            batch = [sharding.from_local_rows(mesh, part, batch_size) for part in next(batches)]
            numbers = np.int32(first_step), np.int32(i), np.uint32(seed)
            state, losses = step(state, losses, network.frozen, *batch, genomes[i], *numbers)
            waiting.append(losses)
            if len(waiting) > _STEPS_AHEAD:  # else batches pile up in the device's memory
                waiting[-1 - _STEPS_AHEAD].block_until_ready()
        return state, losses

    return run


def _all_finite(params) -> bool:
    return all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(params))


def _to_saved(state, losses):
    """Plain containers with readable names, for Orbax."""
    params, optimizer_state = state
    leaves = jax.tree.leaves(optimizer_state)
    return {
        "params": nnx.to_pure_dict(params),
        "optimizer": {f"{index:03d}": leaf for index, leaf in enumerate(leaves)},
        "losses": losses,
    }


def _from_saved(state, saved):
    params, optimizer_state = state
    leaves = [leaf for _, leaf in sorted(saved["optimizer"].items())]
    nnx.replace_by_pure_dict(params, saved["params"])
    return params, jax.tree.unflatten(jax.tree.structure(optimizer_state), leaves)
