"""Compiled programs, kept from one start to the next."""

import contextlib

import filelock
import jax

from noah_jax.downloads import cache_dir

_MAX_BYTES = 4 * 10**9
_PATIENCE_SECONDS = 10


def use() -> None:
    """Lets JAX keep what it compiles in `cache_dir()`, the least recently used up to 4 GB.

    A process that is killed while JAX writes leaves a program that may be cut off, without the
    note of its last use; JAX would then keep no others. Such are deleted.
    """
    folder = cache_dir() / "compiled"
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_compilation_cache_max_size", _MAX_BYTES)
    # By default what takes less than a second is not kept, and most does.
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    with contextlib.suppress(OSError, filelock.Timeout):  # without it, JAX compiles anew
        folder.mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(folder / ".lockfile", timeout=_PATIENCE_SECONDS):  # JAX's own
            for program in folder.glob("*-cache"):
                if not program.with_name(program.name.removesuffix("cache") + "atime").is_file():
                    program.unlink()
