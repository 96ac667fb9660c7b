"""SIGTERM and Ctrl-C: save and leave, within ten seconds; a second Ctrl-C leaves at once.

Loops that can save ask `requested` between their steps, inside `deferred`; elsewhere a signal
raises `Preempted` where it comes. A step that takes too long is not waited for: the run goes on
from what was saved before. Of several processes the main one alone decides and saves, whichever
is told to stop; so all go on from one step.
"""

import contextlib
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator

from noah_jax.runtime import processes, workdir

_SECONDS_TO_SAVE = 5.0  # of the ten; several processes need some to tell each other
_SECONDS_FOR_MAIN = 3.0  # more, until another process no longer waits for the main one
_SECONDS_BETWEEN_LOOKS = 0.2  # whether it can be told, while the processes join
_SECONDS_BETWEEN_TWO = 0.5  # of a user; one Ctrl-C may come twice, from a wrapper or another host
_SIGNALS = (signal.SIGTERM, signal.SIGINT)

_first: int | None = None  # the signal that came first
_deferred = _raised = False
_wake_up: socket.socket  # is to live as long as the process


class Preempted(BaseException):
    """The run was told to stop, by the signal `number`; `saved` says how far it has got."""

    def __init__(self, number: int, saved: str = ""):
        super().__init__(number, saved)
        self.number, self.saved = number, saved


def install() -> None:
    """From now on, for this process; in its main thread."""
    global _wake_up
    sys.unraisablehook = _unraisable
    reader, _wake_up = socket.socketpair()
    _wake_up.setblocking(False)
    for number in _SIGNALS:
        if signal.getsignal(number) != signal.SIG_IGN:  # as of Ctrl-C in a shell's background
            signal.signal(number, _handle)
    # The main thread may sit in a computation, where it hears nothing; this one always does.
    signal.set_wakeup_fd(_wake_up.fileno(), warn_on_full_buffer=False)
    threading.Thread(target=_listen, args=[reader], daemon=True).start()


def forward(number: int) -> None:
    """As if the signal had come to this process, unless one has come already."""
    if _first is None:
        os.kill(os.getpid(), number)


def requested() -> bool:
    """Whether to save and leave `deferred`."""
    return _first is not None and processes.is_main()


@contextlib.contextmanager
def deferred() -> Iterator[None]:
    """Around a loop that asks `requested`.

    Raises:
      Preempted: it was requested, at the end.
    """
    global _deferred
    _deferred = True
    try:
        yield
    finally:
        _deferred = False
    stop_if_requested()


def stop_if_requested(saved: str = "") -> None:
    """Raises Preempted if a signal has come; `saved` says how far the run has got."""
    if requested():
        raise Preempted(_first, saved)


def leave(number: int, saved: str) -> None:
    """Ends this process, and all of several, with the exit code that shells know."""
    name = signal.Signals(number).name
    processes.leave(
        128 + number,
        f"stopped by {name}{': ' if saved else ''}{saved}; {workdir.how_to_go_on()}",
        at_once=True,
    )


def _handle(number: int, _) -> None:
    global _first, _raised
    _first = _first or number
    if _deferred or _raised or not processes.is_main():
        return
    _raised = True
    raise Preempted(number)


def _unraisable(unraisable) -> None:
    """Where `Preempted` is raised in what Python calls on its own, as when it collects garbage.

    There it is lost, which Python would tell in a traceback; `_listen` still ends this process.
    """
    if not issubclass(unraisable.exc_type, Preempted):
        sys.__unraisablehook__(unraisable)


def _listen(signals: socket.socket) -> None:
    """Tells the main process; ends this one if it does not end in time, or at a second Ctrl-C."""
    global _first
    while (number := signals.recv(1)[0]) not in _SIGNALS:
        pass
    _first, came = _first or number, time.monotonic()
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
                    said = f"stopped at once; {workdir.how_to_go_on()}"
                    print(said, file=sys.stderr, flush=True)
                os._exit(128 + signal.SIGINT)
    leave(number, "it could not be waited for what was running")
