"""`python -m noah_jax.data prepare TASK …`: downloads from TFDS and writes what training reads.

Tasks: their names, or vtab, fewshot, domain.
"""

import argparse
import sys

from noah_jax.data import tasks
from noah_jax.data.tfds import prepare
from noah_jax.errors import UserError, nearest

_BENCHMARKS = {
    "vtab": tasks.VTAB,
    "fewshot": {name: task for name, task in tasks.FEW_SHOT.items() if task.tfds},
    "domain": tasks.IMAGENET | tasks.DOMAINS,
}


def _prepare(names: list[str], data_dir: str) -> None:
    """Prepares tasks and whole benchmarks; UserError also for names that are not known."""
    known = {name: {name: task} for name, task in (tasks.TASKS | tasks.DOMAINS).items()}
    known |= _BENCHMARKS
    if unknown := [name + nearest(name, known) for name in names if name not in known]:
        raise UserError(f"unknown: {', '.join(unknown)}; known are {', '.join(known)}")
    prepare(list(dict.fromkeys(task for name in names for task in known[name])), data_dir)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m noah_jax.data", description=__doc__)
    parser.add_argument("command", choices=["prepare"])
    parser.add_argument("tasks", nargs="+", metavar="TASK")
    parser.add_argument("--data_dir", default="", help="TFDS's data folder")
    arguments = parser.parse_args()
    try:
        _prepare(arguments.tasks, arguments.data_dir)
    except (UserError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("\ninterrupted: the same command goes on", file=sys.stderr)
        sys.exit(130)
