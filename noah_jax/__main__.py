"""`noah-jax …` and `python -m noah_jax …` do what `python -m noah_jax.main …` does."""

import runpy


def cli() -> None:
    """Runs `noah_jax.main` as the main program, with its flags, help, signals and exit codes."""
    runpy.run_module("noah_jax.main", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    cli()
