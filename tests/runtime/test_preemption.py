"""Signals that come while the main thread hears nothing."""

import os
import signal
import subprocess
import sys
import time

import pytest

PROGRAM = """
import jax
from noah_jax.runtime import preemption
preemption.install()
with preemption.deferred():
    print("computing", flush=True)
    jax.lax.while_loop(lambda x: x >= 0, lambda x: x * 0, 1.0).block_until_ready()
"""


@pytest.mark.parametrize(
    ("signals", "code", "seconds", "message"),
    [
        ([signal.SIGTERM], 143, 10, "stopped by SIGTERM: it could not be waited for"),
        ([signal.SIGINT, signal.SIGINT], 130, 3, "stopped at once; the same command goes on"),
    ],
)
def test_a_computation_without_end_is_left(signals, code, seconds, message):
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ,
    ) as running:
        assert running.stdout.readline() == "computing\n"
        time.sleep(1.0)  # it compiles, then computes
        began = time.monotonic()
        for number in signals:
            running.send_signal(number)
            time.sleep(0.7)  # sooner it would count as the same
        _, said = running.communicate(timeout=30)
        assert running.returncode == code and message in said, said
        assert time.monotonic() - began < seconds


LOST = """
import os, signal, time
from noah_jax.runtime import preemption
class Garbage:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.1)
preemption.install()
Garbage()
time.sleep(60)
"""


def test_raised_where_python_drops_it():
    """In a destructor, whose exceptions go nowhere: it leaves nevertheless, without a traceback."""
    running = subprocess.run(
        [sys.executable, "-c", LOST], capture_output=True, text=True, env=os.environ, timeout=30
    )
    assert running.returncode == 143, running.stderr
    assert running.stderr.startswith("stopped by SIGTERM"), running.stderr
