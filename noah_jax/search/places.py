"""The flags that say where a run's inputs are now, if they have moved."""

import argparse

PLACES = ("data_dir", "task", "lists", "weights")


def add_places(parser: argparse.ArgumentParser) -> None:
    """Adds the flags for `ranking.open_run` to a command."""
    for key in PLACES:
        parser.add_argument(f"--{key}", help="as in the settings, for inputs that have moved")
