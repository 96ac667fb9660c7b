"""Measures how far a supernet can be trusted: `python -m noah_jax.search rank WORKDIR --genomes=N`

Genomes that are spread evenly over all numbers of parameters up to the budget are evaluated with
the weights that they inherit, as in the search. Then each is retrained with fresh weights and
tested. Kendall's tau says how alike the two orders are: 1 = the same, 0 = unrelated, -1 = opposite.

`WORKDIR` must hold a supernet. It gets `rank.json` and `rank.png`. Subnets that were retrained
before are not retrained again. `--retrained=OTHER` takes them from another workdir, which may have
another supernet but must have the same recipe for retraining. `--data_dir`, `--task`, `--lists` and
`--weights` say where the inputs are now, if they have moved.
"""

import argparse
import pathlib
import sys

from noah_jax.errors import UserError
from noah_jax.runtime import preemption
from noah_jax.search.places import add_places


def main(argv: list[str]) -> None:
    """Runs the command; exits with code 2 for an error that the user can put right."""
    parser = argparse.ArgumentParser(
        prog="python -m noah_jax.search",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("command", choices=["rank"])
    parser.add_argument("workdir", type=pathlib.Path, help="of a run that has trained its supernet")
    parser.add_argument("--genomes", type=int, default=12, help="how many; default: 12")
    parser.add_argument("--retrained", type=pathlib.Path, help="a workdir with a rank.json")
    add_places(parser)
    arguments = parser.parse_args(argv)
    if arguments.genomes < 3:
        parser.error("--genomes: expected at least 3")
    from noah_jax.runtime import backend  # and JAX, for which --help does not wait
    from noah_jax.search import ranking

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
