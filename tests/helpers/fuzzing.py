"""Ways to damage a file's bytes, and what must not come of reading it."""

import collections
import contextlib
import pathlib
import random
import signal

import numpy as np
import pytest

from noah_jax.errors import UserError

# Of inputs; the many, with `-m long`.
NUMBERS = (300, pytest.param(10_000, marks=pytest.mark.long))


def corrupted(data: bytes, rng: random.Random) -> bytes:
    """Some bytes are others, are missing, or are there twice."""
    data, start = bytearray(data), rng.randrange(len(data))
    end = start + rng.choice((1, 1, 1, 4, 64))
    kind = rng.randrange(4)
    if kind == 0:
        data[start] ^= 1 << rng.randrange(8)
    elif kind == 1:
        data[start:end] = rng.randbytes(len(data[start:end]))
    elif kind == 2:
        del data[start:end]
    else:
        data[end:end] = data[start:end]
    return bytes(data)


def pick(rng: np.random.Generator, choices):
    return choices[rng.integers(len(choices))]


def report(what: str, counts: collections.Counter, number: int) -> None:
    """Prints the counts of `try_all`; enough of the inputs must be read, and enough refused."""
    print(f"{what}: {number} inputs, {counts['read']} read, {counts['refused']} refused")
    assert counts.total() == number
    assert counts["read"] > number / 100 and counts["refused"] > number / 10


def corrupt(data: bytes, rng: np.random.Generator) -> bytes:
    """Bits flipped, bytes or blocks changed, zeroed, exchanged, doubled, put in, or cut out."""
    data, size = bytearray(data), len(data)
    a, b = sorted(rng.integers(0, size, 2).tolist()) if size else (0, 0)
    end = min(size, a + int(rng.integers(1, 64)))
    match rng.integers(8) if size else 6:
        case 0:
            data[a] ^= 1 << rng.integers(8)
        case 1:
            data[a] = rng.integers(256)
        case 2:
            data[a:end] = bytes(end - a)
        case 3:
            data[a:end] = rng.bytes(end - a)
        case 4:
            data[a:end], data[b : b + end - a] = data[b : b + end - a], data[a:end]
        case 5:
            data[a:a] = data[a:end]
        case 6:
            data[a:a] = rng.bytes(int(rng.integers(1, 9)))
        case 7:
            del data[a:end]
    return bytes(data)


class _Hang(BaseException):
    """No Exception, which a reader could take for its own."""


def try_all(inputs, read, seconds=10.0, megabytes=300.0) -> collections.Counter:
    """Calls `read` on each input; it may return, or raise UserError, in that time and memory.

    Returns:
      How many were `read`, and how many `refused`.
    """
    counts = collections.Counter()
    with _alarms(), _peak_under(megabytes):
        for number, value in enumerate(inputs):
            try:
                signal.setitimer(signal.ITIMER_REAL, seconds)
                read(value)
                counts["read"] += 1
            except UserError as error:
                assert str(error)
                counts["refused"] += 1
            except BaseException as error:
                raise AssertionError(f"input {number}: {str(value)[:2000]!r}") from error
            finally:
                signal.setitimer(signal.ITIMER_REAL, 0)
    return counts


@contextlib.contextmanager
def _alarms():
    def stop(*_):
        raise _Hang

    before = signal.signal(signal.SIGALRM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGALRM, before)


@contextlib.contextmanager
def _peak_under(megabytes):
    """Memory that is taken and given back counts, where Linux can tell."""
    with contextlib.suppress(OSError):
        pathlib.Path("/proc/self/clear_refs").write_text("5")  # the peak is what it holds now
    before = _peak_mb()
    yield
    assert _peak_mb() - before < megabytes


def _peak_mb():
    with contextlib.suppress(OSError):
        for line in pathlib.Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM"):
                return int(line.split()[1]) / 1000
    return 0
