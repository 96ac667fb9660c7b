"""Real processes on this machine that join as those of a cluster do."""

import os
import socket
import subprocess
from collections.abc import Sequence

from tests.helpers.commands import ROOT

_TWO, _ONE = (f"--xla_force_host_platform_device_count={number}" for number in (2, 1))
ALONE = os.environ | {"XLA_FLAGS": os.environ["XLA_FLAGS"].replace(_TWO, _ONE)}


def start(commands: Sequence[Sequence[str]]) -> list[subprocess.Popen]:
    """Joined through JAX's variables; each is process i of them."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    running = []
    for number, command in enumerate(commands):
        environment = ALONE | {
            "JAX_COORDINATOR_ADDRESS": address,
            "JAX_NUM_PROCESSES": f"{len(commands)}",
            "JAX_PROCESS_ID": f"{number}",
        }
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        running.append(subprocess.Popen(command, cwd=ROOT, env=environment, **pipes))
    return running
