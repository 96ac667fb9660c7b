"""The training loop: spans of steps, when to save, and when to stop.

The same loop trains the supernet, with random genomes, and each subnet, with its own genome. The
result is a pure function of inputs and seed. On a CPU it is the same to the last bit, however often
training was interrupted and however its steps were divided into spans.
"""

import abc
import collections
import contextlib
import dataclasses
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
from noah_jax.training.step import TrainState
from noah_jax.vit.network import Network

_SECONDS_A_SPAN = 1.0  # a signal waits for two spans
_STEPS_AHEAD = 4  # that the host may dispatch before the device has done them


@dataclasses.dataclass(frozen=True)
class Recipe:
    """Settings of one training. With the network and the images they determine the result.

    Attributes:
      stage: its name, for the log and messages.
      genomes: step → `[g, depth, modules]`, a pure function.
      checkpoint_seconds: time between checkpoints. The result does not depend on it.
    """

    stage: str
    schedule: Schedule
    genomes: Callable[[int], np.ndarray]
    seed: int
    checkpoint_seconds: float


def fit(
    recipe: Recipe,
    network: Network,
    data: tuple[np.ndarray, np.ndarray] | Augmented,
    checkpoints: Checkpoints,
    mesh: Mesh,
    writer: Writer,
) -> nnx.State:
    """Trains to the end of the schedule, from the newest checkpoint if there is one.

    Args:
      data: uint8 images `[n, h, w, 3]` and int32 labels `[n]`, put on the devices whole, once; or
        images that are augmented and streamed.

    Returns:
      The trained params.

    Raises:
      UserError: see `step_lib.steps_per_epoch`, `augment.stream` and `Checkpoints`; or the training
        diverges.
      Preempted: a signal came; a checkpoint is saved.
    """
    return _Training(recipe, network, data, checkpoints, mesh, writer).run()


class _Training:
    """A training under way.

    Attributes:
      _state, _losses: on the devices, after the steps that these were given. The losses are those
        of one epoch, `[steps]`.
      _done, _saved: how many steps the devices were given, and how many the newest checkpoint has.
      _waiting: the span that the devices were given last, and the losses that it makes.
    """

    def __init__(self, recipe, network, data, checkpoints, mesh, writer):
        self._recipe, self._checkpoints, self._writer = recipe, checkpoints, writer
        self._mesh, schedule, streamed = mesh, recipe.schedule, isinstance(data, Augmented)
        images = len(data.split if streamed else data[1])
        self._steps = steps = step_lib.steps_per_epoch(recipe.stage, schedule, images)
        self._done, self._total = 0, schedule.epochs * steps
        if (each := schedule.batch_size // len(recipe.genomes(0))) % mesh.size:
            writer.say(
                f"  {recipe.stage}: {mesh.size} devices do not divide the {each} images that a "
                "genome gets in a batch, so each device computes them all"
            )
        optimizer = step_lib.make_optimizer(schedule, steps)
        self._state = step_lib.initial_state(network, optimizer, mesh)
        self._losses = np.zeros(steps, np.float32)
        if found := checkpoints.load(_to_saved(self._state, self._losses)):
            self._done, self._losses = found[0], found[1]["losses"]
            self._state = sharding.replicate(mesh, _from_saved(self._state, found[1]))
            writer.say(f"  {recipe.stage} goes on after step {self._done} of {self._total}")
        self._saved, self._saved_at = self._done, time.monotonic()
        self._waiting, self._pace = None, _Pace(steps)
        kind = _Streamed if streamed else _Resident
        self._devices = kind(recipe, network, optimizer, data, mesh, self._done)

    def run(self) -> nnx.State:
        """Trains to the end, and returns the params."""
        stage = self._recipe.stage
        with (
            contextlib.closing(self._devices),
            self._writer.progress(stage, self._total, self._done, "steps") as self._progress,
            preemption.deferred(),
        ):
            while True:
                # All processes save, and notice a divergence, together.
                most, save_first = processes.from_main(self._plan)
                if save_first:
                    self._save()
                if self._done == self._total:
                    return self._state.params
                self._advance(most)

    def _plan(self) -> tuple[int, bool]:
        """The largest number of steps to do next, and whether to save before them."""
        late = time.monotonic() >= self._saved_at + self._recipe.checkpoint_seconds
        return self._pace.span, late or self._done == self._total or preemption.requested()

    def _advance(self, most: int) -> None:
        """Gives the devices at most that many steps, then settles the span before.

        A span is settled one late so that the devices never wait for the host.
        """
        recipe, steps, start = self._recipe, self._steps, self._done % self._steps
        first = self._done - start
        if self._waiting is None or start == 0:
            genomes = np.stack([recipe.genomes(first + i) for i in range(steps)])
            losses = np.asarray(self._losses) if start else np.zeros(steps, np.float32)
            placed = sharding.replicate(self._mesh, (genomes, losses))
            self._genomes, self._losses = placed
        span = range(self._done, min(self._done + most, first + steps))
        inputs = self._state, self._losses, self._genomes, span
        self._state, self._losses = self._devices.run(*inputs)
        before, self._waiting = self._waiting, (span, self._losses)
        self._done = span.stop
        if before:
            self._settle(*before)

    def _settle(self, span: range, losses: jax.Array) -> None:
        """Waits for the end of a span, and notes its losses."""
        epoch, start = divmod(span.start, self._steps)
        stop = start + len(span)
        values = np.asarray(losses)
        for step, value in enumerate(values[start:stop].tolist(), span.start + 1):
            self._require(math.isfinite(value), f"the loss is {value} at", step)
        self._pace.note(len(span))
        loss = float(values[:stop].mean())
        self._progress.update(len(span), loss=loss)
        if stop == self._steps:
            stage = self._recipe.stage
            self._writer.log(stage=stage, epoch=epoch + 1, step=span.stop, loss=round(loss, 5))

    def _save(self) -> None:
        """Saves the state after the steps that are done, and stops if a signal came."""
        if self._waiting:
            self._settle(*self._waiting)
            leaves = jax.tree.leaves(self._state.params)
            finite = all(np.isfinite(leaf).all() for leaf in leaves)
            self._require(finite, "parameters are not finite after", self._done)
            self._checkpoints.save(self._done, _to_saved(self._state, self._losses))
            self._pace.pause()
        self._saved, self._saved_at, self._waiting = self._done, time.monotonic(), None
        stage = self._recipe.stage
        preemption.stop_if_requested(f"{stage} is saved after step {self._saved} of {self._total}")

    def _require(self, finite: bool, what: str, step: int) -> None:
        """Raises UserError that says at which step the training diverged."""
        if finite:
            return
        stage, schedule = self._recipe.stage, self._recipe.schedule
        rate = float(step_lib.learning_rate(schedule, self._steps)(step - 1))
        raise UserError(
            f"{stage}: {what} step {step}, at learning rate {rate:.3g} with the genome "
            f"{self._recipe.genomes(step - 1).tolist()}. "
            + (f"What was saved after step {self._saved} is kept. " if self._saved else "")
            + f"Start anew with a --config.{SCHEDULES[stage]}.learning_rate lower than "
            f"{schedule.learning_rate} and --fresh"
        )


class _Pace:
    """The number of steps to give to the devices at once: as many as `_SECONDS_A_SPAN` allows."""

    def __init__(self, most: int):
        self._most, self.span = most, 1
        self._since: float | None = None

    def note(self, steps: int) -> None:
        """Counts the steps that were done since the last call."""
        now = time.monotonic()
        if self._since is not None:
            seconds = max(1e-9, (now - self._since) / steps)
            self.span = int(min(max(_SECONDS_A_SPAN / seconds, 1), self._most))
        self._since = now

    def pause(self) -> None:
        """Leaves the time until the next call out of account."""
        self._since = None


class _Devices(abc.ABC):
    """Has steps done on batches."""

    def __init__(self, step, frozen, seed):
        self._step, self._frozen, self._seed = memory.watch(step), frozen, np.uint32(seed)

    @abc.abstractmethod
    def _batch(self, number: int) -> tuple[jax.Array, ...]:
        """Places the batch of a step on the devices."""

    @abc.abstractmethod
    def close(self) -> None:
        """Ends what places batches."""

    def run(self, state, losses, genomes, span: range):
        """Has the steps of a span done, and returns the state and losses; see `make_step`.

        Spans must follow each other.
        """
        waiting: collections.deque[jax.Array] = collections.deque()
        for number in span:
            moment = np.int32(number), self._seed
            inputs = self._frozen, self._batch(number), genomes, moment
            state, losses = self._step(state, losses, *inputs)
            waiting.append(losses)
            if len(waiting) > _STEPS_AHEAD:  # else batches pile up in the device's memory
                waiting.popleft().block_until_ready()
        return state, losses


class _Resident(_Devices):
    """Steps on images that stay on the devices."""

    def __init__(self, recipe, network, optimizer, data, mesh, first):
        images, labels = data
        step = step_lib.make_step(network, optimizer, images.shape[1], mesh)
        super().__init__(step, network.frozen, recipe.seed)
        self._data = sharding.replicate(mesh, (step_lib.as_lines(images), labels))
        batch = recipe.schedule.batch_size
        self._make_order = step_lib.make_order(len(labels), batch, mesh)
        self._steps, self._epoch = len(labels) // batch, -1

    def _batch(self, number):
        if (epoch := number // self._steps) != self._epoch:
            self._epoch, self._order = epoch, self._make_order(self._seed, np.int32(epoch))
        return *self._data, self._order

    def close(self):
        pass


class _Streamed(_Devices):
    """Steps on images that are augmented on their way to the devices, from step `first` on."""

    def __init__(self, recipe, network, optimizer, data, mesh, first):
        step = step_lib.make_augmented_step(network, optimizer, data.num_classes, mesh)
        super().__init__(step, network.frozen, recipe.seed)
        self._mesh, self._size = mesh, recipe.schedule.batch_size
        rows = sharding.local_rows(mesh, self._size)
        self._batches = augment.stream(data.split, data.size, self._size, recipe.seed, first, rows)

    def close(self):
        self._batches.close()

    def _batch(self, number):
        local = next(self._batches)
        return tuple(sharding.from_local_rows(self._mesh, x, self._size) for x in local)


def _to_saved(state: TrainState, losses) -> dict:
    """Puts everything in plain containers with readable names, for Orbax."""
    leaves = jax.tree.leaves(state.optimizer)
    return {
        "params": nnx.to_pure_dict(state.params),
        "optimizer": {f"{index:03d}": leaf for index, leaf in enumerate(leaves)},
        "losses": losses,
    }


def _from_saved(state: TrainState, saved: dict) -> TrainState:
    """Puts the saved values in the structure of `state`."""
    leaves = [leaf for _, leaf in sorted(saved["optimizer"].items())]
    nnx.replace_by_pure_dict(state.params, saved["params"])
    optimizer = jax.tree.unflatten(jax.tree.structure(state.optimizer), leaves)
    return TrainState(state.params, optimizer)
