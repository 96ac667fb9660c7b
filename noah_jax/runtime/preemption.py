"""SIGTERM and Ctrl-C: save and leave, within ten seconds; a second Ctrl-C leaves at once.

Loops that can save ask `requested` between their steps, inside `deferred`; elsewhere a signal
raises `Preempted` where it comes. A step that takes too long is not waited for: the run goes on
from what was saved before. Of several processes the main one alone decides and saves, whichever
is told to stop; so all go on from one step.
"""

import contextlib
import dataclasses
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from typing import NoReturn

from noah_jax.runtime import processes

_SECONDS_TO_SAVE = 5.0  # the rest of the ten is for several processes to tell each other
_SECONDS_FOR_MAIN = 3.0  # more, until another process no longer waits for the main one
_SECONDS_BETWEEN_LOOKS = 0.2  # whether it can be told, while the processes join
_SECONDS_BETWEEN_TWO = 0.5  # a single Ctrl-C may come twice, from a wrapper or another host
_SIGNALS = (signal.SIGTERM, signal.SIGINT)

SAME_COMMAND = "the same command goes on"


@dataclasses.dataclass
class _Signals:
    """The state of this process's signals: it lasts as long as the process, not as a run.

    Attributes:
      first: the signal that came first.
      deferred: whether the main thread asks `requested` by itself.
      raised: whether `Preempted` was raised in the main thread.
      advice: see `advising`.
      wake_up: where Python writes which signals came.
    """

    first: int | None = None
    deferred: bool = False
    raised: bool = False
    advice: str = SAME_COMMAND
    wake_up: socket.socket | None = None


_signals = _Signals()


class Preempted(BaseException):
    """The run was told to stop, by the signal `number`.

    `saved` says how far it has got, `advice` how to go on.
    """

    def __init__(self, number: int, saved: str = ""):
        super().__init__(number, saved)
        self.number, self.saved, self.advice = number, saved, _signals.advice


@contextlib.contextmanager
def advising(advice: str) -> Iterator[None]:
    """Within, messages that a run was stopped end with this in the place of `SAME_COMMAND`."""
    before, _signals.advice = _signals.advice, advice
    try:
        yield
    finally:
        _signals.advice = before


def advice() -> str:
    """How to go on with a run that is stopped now."""
    return _signals.advice


def install() -> None:
    """Handles the signals of this process from now on; to be called in its main thread."""
    sys.unraisablehook = _unraisable
    reader, _signals.wake_up = socket.socketpair()
    _signals.wake_up.setblocking(False)
    for number in _SIGNALS:
        if signal.getsignal(number) != signal.SIG_IGN:  # a shell's background has no Ctrl-C
            signal.signal(number, _handle)
    # The main thread may sit in a computation, where it hears nothing; this one always does.
    signal.set_wakeup_fd(_signals.wake_up.fileno(), warn_on_full_buffer=False)
    threading.Thread(target=_listen, args=[reader], daemon=True).start()


def forward(number: int) -> None:
    """Sends the signal on to this process, unless one has come already."""
    if _signals.first is None:
        os.kill(os.getpid(), number)


def requested() -> bool:
    """Says whether to save and leave `deferred`."""
    return _signals.first is not None and processes.is_main()


@contextlib.contextmanager
def deferred() -> Iterator[None]:
    """Around a loop that asks `requested`.

    Raises:
      Preempted: it was requested, at the end.
    """
    _signals.deferred = True
    try:
        yield
    finally:
        _signals.deferred = False
    stop_if_requested()


def stop_if_requested(saved: str = "") -> None:
    """Raises Preempted if a signal has come; `saved` says how far the run has got."""
    if requested() and (number := _signals.first):
        raise Preempted(number, saved)


def leave(stopped: Preempted) -> NoReturn:
    """Ends this process, and all of several, with the exit code that shells know."""
    name, saved = signal.Signals(stopped.number).name, f": {stopped.saved}" if stopped.saved else ""
    said = f"stopped by {name}{saved}; {stopped.advice}"
    processes.leave(128 + stopped.number, said, at_once=True)


def _handle(number: int, _) -> None:
    _signals.first = _signals.first or number
    if _signals.deferred or _signals.raised or not processes.is_main():
        return
    _signals.raised = True
    raise Preempted(number)


def _unraisable(unraisable) -> None:
    """Hides the traceback of a `Preempted` that was raised where nothing can catch it.

    Python calls some code on its own, as when it collects garbage, and drops what that raises.
    `_listen` still ends this process.
    """
    if not issubclass(unraisable.exc_type, Preempted):
        sys.__unraisablehook__(unraisable)


def _listen(signals: socket.socket) -> None:
    """Tells the main process; ends this one if it does not end in time, or at a second Ctrl-C."""
    while (number := signals.recv(1)[0]) not in _SIGNALS:
        pass
    _signals.first, came = _signals.first or number, time.monotonic()
    deadline, told = came + _SECONDS_TO_SAVE, False
    if not processes.is_main():
        deadline += _SECONDS_FOR_MAIN
    elif sys.stderr.isatty():
        with contextlib.suppress(OSError):
            print("\nstopping; Ctrl-C once more: at once", file=sys.stderr)
    while (left := deadline - time.monotonic()) > 0:
        told = told or processes.tell_main_to_stop(number)
        signals.settimeout(min(left, _SECONDS_BETWEEN_LOOKS))
        with contextlib.suppress(TimeoutError):
            again = signals.recv(1)[0] == signal.SIGINT
            if again and time.monotonic() > came + _SECONDS_BETWEEN_TWO:
                with contextlib.suppress(OSError):
                    said = f"stopped at once; {_signals.advice}"
                    print(said, file=sys.stderr, flush=True)
                os._exit(128 + signal.SIGINT)
    leave(Preempted(number, "it could not be waited for what was running"))
