"""Measures the memory of a run, on the host and its devices, and says what to do about too much."""

import contextlib
import contextvars
import resource
import sys
import weakref
from collections.abc import Callable, Iterator

import jax

from noah_jax.errors import UserError

_MB = 1e6
# The settings that the memory of each stage grows with.
_GROWS_WITH = {
    "supernet": "supernet.batch_size, image_size",
    "retrain": "retrain.batch_size, image_size",
    "search": "search.genomes_per_call, eval_batch_size",
    "test": "eval_batch_size",
}
_PLANS: contextvars.ContextVar[list[float] | None] = contextvars.ContextVar("plans", default=None)


def host_peak_mb() -> float:
    """The most that this process has held so far, in MB."""
    unit = 1 if sys.platform == "darwin" else 1024
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / _MB, 1)


def allocator_peak_mb() -> float | None:
    """The most that one of the devices has held so far, in MB; None if the backend is silent."""
    stats = [device.memory_stats() or {} for device in jax.local_devices()]
    if any("peak_bytes_in_use" not in values for values in stats):
        return None
    return round(max(values["peak_bytes_in_use"] for values in stats) / _MB, 1)


def planned_mb(compiled: jax.stages.Compiled) -> float | None:
    """The memory that the compiler plans on each device, in MB: arguments, outputs, temporaries.

    An output in the place of a donated argument counts once. None if the backend does not say.
    """
    plan = compiled.memory_analysis()
    if plan is None:
        return None
    total = plan.argument_size_in_bytes + plan.output_size_in_bytes + plan.temp_size_in_bytes
    return round((total - plan.alias_size_in_bytes) / _MB, 1)


@contextlib.contextmanager
def explained(stage: str) -> Iterator[None]:
    """Turns the backend's error of too little memory into a UserError that says what to lower."""
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        trains = stage in ("supernet", "retrain")
        raise UserError(
            f"{stage}: too little memory on the device. Lower {_GROWS_WITH.get(stage, 'batches')}"
            + (", or set rematerialise=True" if trains else "")
            + (", or cut the weights over devices, weight_shards" if jax.device_count() > 1 else "")
            + f". The backend says: {str(error).splitlines()[0]}"
        ) from error


# Of each compiled function, by the shapes of its arguments.
_KNOWN: weakref.WeakKeyDictionary[Callable, dict] = weakref.WeakKeyDictionary()


def _plan(function: jax.stages.Wrapped, arguments: tuple) -> float | None:
    """The memory planned for a call with these arguments, see `planned_mb`."""
    leaves, structure = jax.tree.flatten(arguments)
    shapes = structure, tuple(map(jax.typeof, leaves))
    known = _KNOWN.setdefault(function, {})
    if shapes not in known:
        known[shapes] = planned_mb(function.lower(*arguments).compile())
    return known[shapes]


def watch(function: jax.stages.Wrapped) -> Callable:
    """Wraps a jitted function: `noting_plans` then collects the memory planned for its first call.

    This costs no further compilation, since the call then runs the program that is compiled here.
    """
    watched = False

    def call(*arguments):
        nonlocal watched
        plans = _PLANS.get()
        if not watched and plans is not None and allocator_peak_mb() is None:
            plan = _plan(function, arguments)
            plans.extend([] if plan is None else [plan])
        watched = True
        return function(*arguments)

    return call


@contextlib.contextmanager
def noting_plans() -> Iterator[list[float]]:
    """Collects the plans of the programs that `watch` starts within, in MB a device."""
    plans: list[float] = []
    token = _PLANS.set(plans)
    try:
        yield plans
    finally:
        _PLANS.reset(token)


def stage_peak(plans: list[float]) -> dict[str, float | str]:
    """Returns `device_mb` and its source, `device_source`; empty if there is no figure.

    "allocator" is the most that a device has held since the process started. If there is no such
    figure, as on a CPU, "compiler" is the largest of the `plans` of the stage's programs.
    """
    if (peak := allocator_peak_mb()) is not None:
        return {"device_mb": peak, "device_source": "allocator"}
    return {"device_mb": max(plans), "device_source": "compiler"} if plans else {}
