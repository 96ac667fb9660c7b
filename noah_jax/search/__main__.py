"""The command `python -m noah_jax.search rank WORKDIR`; see `ranking.py`."""

import argparse
import pathlib
import sys

from noah_jax.errors import UserError
from noah_jax.runtime import backend, preemption
from noah_jax.search import ranking


def main(argv: list[str]) -> None:
    """Runs the command; exits with code 2 for an error that the user can put right."""
    parser = argparse.ArgumentParser(prog="python -m noah_jax.search", description=ranking.__doc__)
    parser.add_argument("command", choices=["rank"])
    parser.add_argument("workdir", type=pathlib.Path)
    parser.add_argument("--genomes", type=int, default=12)
    parser.add_argument("--retrained", type=pathlib.Path)
    ranking.add_places(parser)
    arguments = parser.parse_args(argv)
    if arguments.genomes < 3:
        parser.error("--genomes: expected at least 3")
    backend.keep_compiled_programs()
    preemption.install()
    try:
        run = ranking.open_run(arguments.workdir, vars(arguments))
        found = ranking.rank(run, arguments.genomes, arguments.retrained)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except preemption.Preempted as stopped:
        preemption.leave(stopped)
    for name, what in (("tau", "validation accuracy"), ("tau_loss", "validation loss")):
        print(
            f"Kendall's tau of retrained test accuracy and inherited {what}, "
            f"{len(found['points'])} genomes: {ranking.told(found[name])}"
        )


if __name__ == "__main__":
    main(sys.argv[1:])
