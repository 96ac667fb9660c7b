"""Whether this machine has an accelerator that JAX does not use."""

import os
import pathlib
import shutil

import jax

_TPUS = ("/dev/accel0", "/dev/vfio/0")


def unused() -> str | None:
    """What is there and how it is used; None if there is nothing, or the CPU is asked for."""
    if jax.default_backend() != "cpu" or "cpu" in os.environ.get("JAX_PLATFORMS", ""):
        return None
    found = {
        ("GPU", "cuda"): bool(shutil.which("nvidia-smi")),
        ("TPU", "tpu"): any(pathlib.Path(path).exists() for path in _TPUS),
    }
    for (name, kind), there in found.items():
        if there:
            return (
                f"computing on the CPU, though this machine seems to have a {name}: "
                f"pip install -r launch/requirements-{kind}.txt, or set JAX_PLATFORMS=cpu"
            )
    return None
