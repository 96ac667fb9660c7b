"""`python -m noah_jax.main --config=configs/vtab.py:cifar100 [--workdir=DIR] [--config.KEY=VALUE]`

`--status=DIR` alone says which stage each run in DIR has reached.

Exit codes: 0 = everything is done; 2 = an error that the user can put right; 143 or 130 = stopped
by SIGTERM or Ctrl-C. After a stop the progress is saved, and the same command goes on.
"""

import signal

if __name__ == "__main__" and signal.getsignal(signal.SIGINT) == signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # no traceback while the modules below are loaded

import logging as python_logging
import pathlib
import sys
import traceback
from typing import NoReturn

from absl import app, flags, logging
from ml_collections import config_flags

from noah_jax import config as config_lib
from noah_jax.config import installed
from noah_jax.errors import UserError, asked, nearest
from noah_jax.report import status
from noah_jax.runtime import preemption, processes

_CONFIG = config_flags.DEFINE_config_file("config", None, "A file, e.g. configs/vtab.py:cifar100.")
_WORKDIR = flags.DEFINE_string(
    "workdir",
    None,
    "Default: runs/<config>-<task>-<method>-s<seed>; with several runs, a folder that holds "
    "one workdir each.",
)
_FRESH = flags.DEFINE_bool(
    "fresh", False, "If the workdir is there already, start anew beside it, in <workdir>-2, …."
)
_STATUS = flags.DEFINE_string(
    "status", None, "Only say which stage the run in this folder, or each run in it, has reached."
)
_DEBUG = flags.DEFINE_bool("debug", False, "Show the traceback of an error in the input.")


def main(_) -> None:
    """Prints the status, or runs the runs of the config."""
    if _STATUS.value is not None:
        print("\n".join(status.status(pathlib.Path(_STATUS.value).expanduser())))
        return
    from noah_jax import sweep  # and JAX with it, for which nothing before this waits
    from noah_jax.runtime import backend

    backend.keep_compiled_programs()
    file = config_flags.get_config_filename(flags.FLAGS["config"])
    given = _given()
    configs, name = config_lib.expand(_CONFIG.value, given), _name(file)
    if (unread := config_lib.unread(configs, given)) and processes.is_main():
        print(f"warning: {unread}", file=sys.stderr)
    workdirs, common = sweep.places(configs, name, _WORKDIR.value, _FRESH.value)
    advice = preemption.SAME_COMMAND
    if _FRESH.value:
        advice = f"--workdir={common} in the place of --fresh goes on"
    with preemption.advising(advice):
        sweep.run(configs, workdirs, common, ["python", "-m", "noah_jax.main", *sys.argv[1:]])


def _name(config_file: str) -> str:
    """The name without suffix of a file that is given as `FILE` or `FILE:ARGUMENT`."""
    return pathlib.Path(config_file.split(":", 1)[0]).stem


def _parse(argv: list[str]) -> list[str]:
    """Reads the flags, and joins the other processes; one message says what is wrong."""
    if not {"--help", "-help", "-h"}.isdisjoint(argv[1:]):
        ours = flags.FLAGS.module_help(sys.modules[__name__]).partition(":")[2]
        print(f"{__doc__}\nThe flags.{ours}\n\n{config_lib.explained()}")
        sys.exit()
    logging.set_verbosity(logging.FATAL)  # Orbax and TFDS log every step, and errors twice
    python_logging.getLogger("asyncio").setLevel(python_logging.CRITICAL)  # so does Orbax's loop
    try:
        preemption.install()
        with preemption.deferred():  # no process may leave between joining and telling the others
            processes.start(preemption.forward)
        rest = _flags(argv)
        if rest[1:]:
            raise UserError(f"unexpected arguments {rest[1:]}: flags are written --name=value")
        if _STATUS.value is not None:
            return rest
        if _CONFIG.value is None:
            raise UserError("--config is missing, e.g. --config=configs/demo.py")
        config_lib.expand(_CONFIG.value, _given())
        return rest
    except preemption.Preempted as stopped:
        preemption.leave(stopped)
    except Exception as error:  # the config file is the user's code, it can raise anything
        _fail(error, "--debug" in argv)


def _given() -> list[str]:
    """The keys that the command sets, by flags or in the config string."""
    flag = flags.FLAGS["config"]
    text = config_flags.get_config_filename(flag).partition(":")[2]
    return list(dict.fromkeys([*config_flags.get_override_values(flag), *config_lib.named(text)]))


def _flags(argv: list[str]) -> list[str]:
    argv = installed.find(argv)
    installed.require(argv)
    try:
        return flags.FLAGS(argv)
    except flags.UnrecognizedFlagError as error:
        name, ours = error.flagname, (_CONFIG, _WORKDIR, _FRESH, _STATUS, _DEBUG)
        settings = [f"--config.{key}" for key in config_lib.nearest_keys(name)]
        near = nearest(f"--{name}", [f"--{flag.name}" for flag in ours]) or asked(settings)
        raise UserError(f"there is no flag --{name}{near}; --help lists all") from error
    except (AttributeError, KeyError) as error:  # ml_collections raises these for --config.KEY
        names = [word.lstrip("-").partition("=")[0] for word in argv]
        keys = [name.removeprefix("config.") for name in names if name.startswith("config.")]
        wrong = [key for key in keys if key not in config_lib.KEYS]
        told = [key + asked(config_lib.nearest_keys(key)) for key in wrong or error.args[:1]]
        raise UserError(f"there is no setting {', '.join(told)}; --help lists all") from error
    except (TypeError, ValueError) as error:
        raise UserError(f"a flag cannot be read: {error}") from error


def _run(argv: list[str]) -> None:
    try:
        main(argv)
        processes.end()
    except (UserError, OSError) as error:
        _fail(error, _DEBUG.value)
    except preemption.Preempted as stopped:
        preemption.leave(stopped)
    except Exception as error:
        if not processes.several():
            raise
        _fail(error, debug=True, code=1)


def _fail(error: Exception, debug: bool, code: int = 2) -> NoReturn:
    trace = "".join(traceback.format_exception(error)) if debug else ""
    processes.leave(code, f"error: {error}", trace)


def cli() -> None:
    """Runs the command; it exits with the codes above."""
    app.run(_run, flags_parser=_parse)


if __name__ == "__main__":
    cli()
