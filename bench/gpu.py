"""Measures on one GPU, in one call, what README.md says of GPUs.

    python -m bench.gpu [--seconds=240] [--noah=DIR] [--out=bench/results] -- FLAGS

It runs these, each in a process of its own, and leaves what they measure in `--out`:

    throughput     bench.throughput, with the time of each kernel of a step
    against_torch  bench.against_torch with torch.compile and, with --noah, the original's model
    task           bench.timesplit: one run of noah_jax.main with FLAGS, from images to report

What has not ended after `--seconds` in all is stopped and named, and the exit code is 1. Whatever
ended before is kept. It needs what `bench.against_torch` needs on a GPU.
"""

import argparse
import os
import pathlib
import signal
import subprocess
import sys
import time
from collections.abc import Sequence

_PARTS = ("throughput", "against_torch", "task")
_AGAINST = ("--batch=64", "--dtype=bfloat16", "--steps=12", "--pairs=3", "--compile")


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=240, help="the most, for all together")
    parser.add_argument("--noah", help="a folder with the original's code")
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("bench/results"))
    parser.add_argument("flags", nargs="+", help="of noah_jax.main, after --")
    arguments = parser.parse_args(argv)
    end, missing = time.monotonic() + arguments.seconds, []
    for name, command in commands(arguments).items():
        start = time.monotonic()
        outcome = run([sys.executable, *command], end - start)
        print(f"{name}: {outcome} after {time.monotonic() - start:.0f} s", flush=True)
        missing += [name] if outcome != "done" else []
    if missing:
        raise SystemExit(f"missing: {', '.join(missing)}; more --seconds may help")


def commands(arguments: argparse.Namespace) -> dict[str, list[str]]:
    """The arguments of Python for each part."""
    out = {name: f"--out={arguments.out}/{name}_gpu.json" for name in _PARTS}
    noah = [f"--noah={arguments.noah}"] if arguments.noah else []
    profile = f"--profile={arguments.out}/profile_gpu"
    return {
        "throughput": ["-m", "bench.throughput", "--repeats=3", profile, out["throughput"]],
        "against_torch": ["-m", "bench.against_torch", *_AGAINST, *noah, out["against_torch"]],
        "task": ["-m", "bench.timesplit", "--once", out["task"], "--", *arguments.flags],
    }


def run(command: Sequence[str], seconds: float) -> str:
    """Runs a command for so many seconds at most; returns how it went: "done" or what happened."""
    if seconds <= 0:
        return "not started"
    process = subprocess.Popen(command, start_new_session=True)
    try:
        status = process.wait(seconds)
    except subprocess.TimeoutExpired:
        return "stopped"
    finally:
        if process.poll() is None:  # after Ctrl-C, too
            os.killpg(process.pid, signal.SIGKILL)  # with the processes that it has started
            process.wait()
    return "done" if status == 0 else f"failed with exit code {status}"


if __name__ == "__main__":
    main()
