"""The program's commands: in this process where one is enough, as a user's elsewhere.

A start of Python and the imports take seconds, so that a command which no signal stops, which does
not crash and which needs no other process runs here: the module as `__main__`, or noah_jax.main by
its `cli`, with its own words in `sys.argv`, its own flags and its own output.
"""

import contextlib
import dataclasses
import io
import logging
import pathlib
import runpy
import signal
import sys
import warnings
from unittest import mock

from absl import app, flags
from absl.testing import flagsaver

from noah_jax import main
from noah_jax.report import page
from noah_jax.runtime import preemption

ROOT = pathlib.Path(__file__).parents[2]
TINY_FLAGS = [
    "--config.backbone=vit_ti16",
    "--config.normalisation=half",
    "--config.image_size=32",
    "--config.supernet.epochs=3",
    "--config.supernet.warmup_epochs=1",
    "--config.supernet.batch_size=8",
    "--config.supernet.genomes_per_step=2",
    "--config.retrain.epochs=3",
    "--config.retrain.warmup_epochs=1",
    "--config.retrain.batch_size=8",
    "--config.retrain.learning_rate=0.005",
    "--config.baseline.vpt=3",
    "--config.baseline.lora=8",
    "--config.baseline.adapter=8",
    "--config.space.vpt=(1,3)",
    "--config.space.lora=(1,3)",
    "--config.space.adapter=(2,)",
    "--config.search.population=6",
    "--config.search.generations=2",
    "--config.search.mutations=2",
    "--config.search.crossovers=2",
    "--config.search.budget_millions=0.05",
]


@dataclasses.dataclass(frozen=True)
class Done:
    """A command that has ended, and what it printed."""

    code: int
    stdout: str
    stderr: str


def main_flags(
    home: pathlib.Path, workdir: pathlib.Path, *more: str, config: str | None = None
) -> list[str]:
    """The flags of a tiny run on the colours in `home`, or with another config."""
    config = config or f"configs/folder.py:{home / 'colours'}"
    paths = [f"--workdir={workdir}", f"--config.weights={home / 'ti16.safetensors'}"]
    return [f"--config={config}", *paths, *TINY_FLAGS, *more]


def main_command(*arguments, **config) -> list[str]:
    """The command with `main_flags`, for a process of its own."""
    return [sys.executable, "-m", "noah_jax.main", *main_flags(*arguments, **config)]


def run_main(*arguments, code: int = 0, render: bool = False, **config) -> Done:
    """Runs that command here, with `main_flags`."""
    flags = main_flags(*arguments, **config)
    return run_module("noah_jax.main", *flags, code=code, render=render)


def run_module(
    module: str,
    *arguments: str | pathlib.Path,
    code: int = 0,
    render: bool = False,
    folder: pathlib.Path = ROOT,
) -> Done:
    """Runs `python -m module arguments` here, in that folder; it must end with that exit code.

    Args:
      render: whether the figures of reports become images. They are drawn all the same, but the
        files take a second and a half a run, and few tests look at them.
    """
    out, error, ended = io.StringIO(), io.StringIO(), 0
    words = [module, *map(str, arguments)]
    with contextlib.ExitStack() as around:
        around.enter_context(_as_at_start())
        if not render:
            around.enter_context(mock.patch.object(page, "_saved", lambda *_: b"<svg></svg>"))
        around.enter_context(contextlib.chdir(folder))
        around.enter_context(mock.patch.object(sys, "argv", words))
        around.enter_context(contextlib.redirect_stdout(out))
        around.enter_context(contextlib.redirect_stderr(error))
        try:
            if module == main.__name__:
                main.cli()
            else:
                runpy.run_module(module, run_name="__main__", alter_sys=True)
        except SystemExit as leaving:
            ended = leaving.code or 0
    done = Done(ended, out.getvalue(), error.getvalue())
    assert done.code == code, done.stdout[-2000:] + done.stderr[-3000:]
    return done


@contextlib.contextmanager
def _as_at_start():
    """Flags, signals, warnings and logs as in a new process; afterwards as they were."""
    app.define_help_flags()  # absl does this once in a process
    saved, root = flagsaver.save_flag_values(), logging.getLogger()
    handlers, level = list(root.handlers), root.level
    sigint = signal.getsignal(signal.SIGINT)
    try:
        with warnings.catch_warnings(), mock.patch.object(preemption, "install"):
            warnings.resetwarnings()
            for kind in (DeprecationWarning, PendingDeprecationWarning, ImportWarning):
                warnings.simplefilter("ignore", kind)
            warnings.simplefilter("ignore", ResourceWarning)
            warnings.filterwarnings("ignore", module="runpy")  # of a module that a test has loaded
            yield
    finally:
        signal.signal(signal.SIGINT, sigint)
        root.handlers[:] = handlers
        root.setLevel(level)
        loaded = flagsaver.save_flag_values()  # some by modules that stay, as Grain
        kept = {name: loaded[name] for name in loaded if not name.startswith("config.")}
        flagsaver.restore_flag_values(kept | saved)
        flags.FLAGS.unparse_flags()
