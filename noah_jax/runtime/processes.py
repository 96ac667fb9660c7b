"""Several processes of one run, each a host of a TPU pod or a task of a cluster.

All run the same program on the same input. Only process 0, the main one, writes and prints. It also
reads the workdir for all, so that no file system need be shared. An error in one process ends them
all. A process by itself loads no JAX here, so that it can answer at once.
"""

import atexit
import contextlib
import dataclasses
import json
import os
import sys
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

from noah_jax.errors import UserError, listed
from noah_jax.runtime.cluster import cluster

_PATIENCE_SECONDS = 300  # with processes that do not come
_SECONDS_UNTIL_SAID = 15
_TO_SAY_GOODBYE_SECONDS = 3
_SECONDS_BETWEEN_LOOKS = 0.5
_FOR_EVER_SECONDS = 24 * 3600  # a process that fails ends the waiting, time does not
_FAILED, _STOP, _END = "noah_jax/failed", "noah_jax/stop", "noah_jax/end"


@dataclasses.dataclass
class _Group:
    """The processes that this one has joined: it lasts as long as the process, not as a run.

    Attributes:
      joined: whether they can be asked. Before that, to ask ends this process without a word, and
        `jax.distributed.is_initialized` is true too early.
      told: how many values `from_main` gave.
      ending: is taken by whoever ends this process, and never given back.
    """

    joined: bool = False
    told: int = 0
    ending: threading.Lock = dataclasses.field(default_factory=threading.Lock)


_group = _Group()


def _service():
    """JAX's state of the service that the processes share: its `client`, and our `process_id`.

    None before JAX is loaded. It is not loaded here, since a signal's handler asks for it, and the
    signal may come while JAX is being loaded.

    The client's key-value store has no public name; Orbax, too, reaches it in this way. The
    process's number has one, `jax.process_index`, but that starts the backend and waits for the
    others, which must not happen in a signal's handler, or before all have joined.
    """
    return getattr(sys.modules.get("jax._src.distributed"), "global_state", None)


def _gone() -> type[Exception]:
    """The error of that service about a process or a key that is not there."""
    import jax

    return jax.errors.JaxRuntimeError


def start(stop: Callable[[int], None]) -> None:
    """Joins the other processes, if there are any; must come before any other use of JAX.

    Args:
      stop: is called in the main process with the signal that told another one to stop.

    Raises:
      UserError: the environment is incomplete, or the other processes do not come.
    """
    arguments = cluster(os.environ)
    if arguments is None:
        return
    import jax

    what_to_do = "the same command must run on every host, and each must reach the first one"
    waiting = [
        threading.Timer(
            _SECONDS_UNTIL_SAID,
            lambda: print(f"waiting for the other processes: {what_to_do}", file=sys.stderr),
        ),
        threading.Timer(  # JAX itself aborts without a word of use
            _PATIENCE_SECONDS,
            lambda: _exit(
                2, f"error: after {_PATIENCE_SECONDS} s not all processes are there: {what_to_do}"
            ),
        ),
    ]
    jax.config.update("jax_enable_preemption_service", False)  # it would keep SIGTERM to itself
    for timer in waiting:
        timer.daemon = True
        timer.start()
    try:
        jax.distributed.initialize(**arguments, initialization_timeout=2 * _PATIENCE_SECONDS)
        _group.joined = True
    except Exception as error:  # it can be of any kind: sockets, gRPC, values it does not like
        raise UserError(f"the processes cannot join: {error}") from error
    finally:
        for timer in waiting:
            timer.cancel()
    over = threading.Event()
    threading.Thread(target=_watch, args=[over, stop], daemon=True).start()
    atexit.register(over.set)


def is_main() -> bool:
    """True in the process that writes and prints; a single process does."""
    service = _service()
    return service is None or not service.process_id


def several() -> bool:
    """True where this process has joined others."""
    return _group.joined


def from_main(read: Callable[[], Any]) -> Any:
    """Returns in all processes what `read` returns in the main one, of JSON's types.

    All must call it in the same order.
    """
    if not several():
        return read()
    client, key = _service().client, f"noah_jax/told/{_group.told}"
    _group.told += 1
    if is_main():
        value = read()
        client.key_value_set(key, json.dumps(value))
        return value
    return json.loads(client.blocking_key_value_get(key, _FOR_EVER_SECONDS * 1000))


def arrays_from_main(tree: Any) -> Any:
    """Returns in all processes the main one's arrays, as NumPy; shapes are the same everywhere."""
    if not several():
        return tree
    from jax.experimental import multihost_utils

    return multihost_utils.broadcast_one_to_all(tree)


def require_same(values: Mapping[str, Any]) -> None:
    """Raises UserError if the values, of JSON's types, are not the same in all processes.

    None goes on before all have come.
    """
    if not several():
        return
    here = json.loads(json.dumps(values))
    main = from_main(lambda: here)
    if different := [
        f"{key}: {main[key]!r} there, {value!r} here"
        for key, value in here.items()
        if main[key] != value
    ]:
        raise UserError(
            f"process {_service().process_id} has other settings or data than process 0, "
            f"all need the same:{listed(different)}"
        )
    all_come(f"same/{_group.told}", _FOR_EVER_SECONDS)


def all_come(name: str, seconds: int = 60) -> bool:
    """Waits for all processes at the point of that name; False if some do not come in time."""
    if not several():
        return True
    try:
        _service().client.wait_at_barrier(f"noah_jax/{name}", seconds * 1000)
    except _gone():
        return False
    return True


def end() -> None:
    """Waits for all processes at the end of the program; one that left would miss their errors."""
    all_come("done", _FOR_EVER_SECONDS)


def tell_main_to_stop(number: int) -> bool:
    """Tells the main process of a signal that came here; False before the processes have joined."""
    if several() and not is_main():
        with contextlib.suppress(_gone()):  # it is told already, or gone
            _service().client.key_value_set(_STOP, str(number))
    return several()


def leave(code: int, message: str, trace: str = "", at_once: bool = False) -> NoReturn:
    """Prints the message and ends this process; where there are several, all of them.

    Args:
      trace: a traceback, printed before the message, only in this process. It is not printed if the
        process is ending already, since calls fail anyway once others have left.
      at_once: without waiting for what still runs on the devices.
    """
    if not several():
        if at_once:
            _exit(code, trace + message)
        print(trace + message, file=sys.stderr)
        sys.exit(code)
    _group.ending.acquire()
    try:
        failed = json.dumps([code, _service().process_id, message])
        with contextlib.suppress(_gone()):  # the main process is gone already
            _service().client.key_value_set(_FAILED, failed, allow_overwrite=True)
    finally:  # a signal may come at any time
        _exit(code, trace + message)


def _watch(over: threading.Event, stop: Callable[[int], None]) -> None:
    """Ends this process when another has ended, since it may wait for that one in a collective."""
    while not over.wait(_SECONDS_BETWEEN_LOOKS):
        if failed := _told_by(_FAILED):
            code, process, message = json.loads(failed)
            if _group.ending.acquire(blocking=False):
                _exit(code, f"process {process}: {message}")
            return
        if is_main() and (number := _told_by(_STOP)):
            stop(int(number))


def _told_by(key: str) -> str | None:
    try:
        return _service().client.key_value_try_get(key)
    except _gone():  # no such key
        return None


def _exit(code: int, message: str) -> NoReturn:
    """Ends this process without Python's and JAX's clean-up, which would wait for the others."""
    try:
        with contextlib.suppress(OSError):  # nobody reads it any more
            print(message, file=sys.stderr, flush=True)
            sys.stdout.flush()
        if several():
            with contextlib.suppress(_gone()):
                client = _service().client
                client.wait_at_barrier(_END, _TO_SAY_GOODBYE_SECONDS * 1000)
            if is_main():
                time.sleep(_SECONDS_BETWEEN_LOOKS)  # without the store here the others abort
    finally:  # a signal may come at any time
        os._exit(code)
