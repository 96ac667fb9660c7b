"""The machine: an accelerator that nothing uses, and where things are cached."""

import contextlib
import os
import pathlib
import shutil

import filelock
import jax

_MAX_BYTES = 4 * 10**9
_PATIENCE_SECONDS = 10
_TPUS = ("/dev/accel0", "/dev/vfio/0")


def keep_compiled_programs() -> None:
    """Lets JAX keep what it compiles in `cache_dir()`, the least recently used up to 4 GB.

    A process that is killed while JAX writes leaves a program that may be cut off, without the
    note of its last use. JAX would then keep no others, so such programs are deleted.
    """
    folder = cache_dir() / "compiled"
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_compilation_cache_max_size", _MAX_BYTES)
    # By default what takes less than a second is not kept, and most does.
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    with contextlib.suppress(OSError, filelock.Timeout):  # without it, JAX compiles anew
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / ".lockfile"  # JAX's own
        with filelock.FileLock(path, timeout=_PATIENCE_SECONDS, fallback_to_soft=False):
            for program in folder.glob("*-cache"):
                if not program.with_name(program.name.removesuffix("cache") + "atime").is_file():
                    program.unlink()


def cache_dir() -> pathlib.Path:
    """The folder of downloads: `$NOAH_JAX_CACHE` if not empty, else in the user's cache."""
    default = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "noah_jax"
    return pathlib.Path(os.environ.get("NOAH_JAX_CACHE") or default).expanduser()


def unused_accelerator() -> str | None:
    """Names an accelerator that JAX does not use, and what to do; None if there is none."""
    if jax.default_backend() != "cpu" or "cpu" in os.environ.get("JAX_PLATFORMS", ""):
        return None
    if shutil.which("nvidia-smi"):
        name, kind = "GPU", "cuda"
    elif any(map(os.path.exists, _TPUS)):
        name, kind = "TPU", "tpu"
    else:
        return None
    return (
        f"computing on the CPU, though this machine seems to have a {name}: "
        f"pip install -r launch/requirements-{kind}.txt in a clone, pip install "
        f"'noah-jax[{kind}]' elsewhere, or set JAX_PLATFORMS=cpu"
    )
