"""Compares searched mixes with choices by hand: tasks × methods × seeds, and their table.

    python -m bench.study --out=FILE.json --config=configs/study.py:DIR/cifar10+digits
    python -m bench.study --out=FILE.json --table [--markdown]    # only tables, nothing is run

After each run `FILE.json` is written anew. The same command goes on with the runs that are missing
in it, also on another machine. A run is known by its task, method, seed and a digest of the
settings that its method reads; the places of files are not among them. Runs with other settings
stay in the file, but out of the tables. One seed is done after the other, so that a study that is
stopped early has complete seeds.

`random` takes the supernet of `noah` if that is still there, which changes only the time. `tuned`
stands for `tuned_vpt+tuned_lora+tuned_adapter`, and is computed from them; see `study_tables`.
"""

import argparse
import collections
import dataclasses
import datetime
import functools
import hashlib
import json
import logging as python_logging
import pathlib
import subprocess
import sys
from collections.abc import Iterable, Sequence
from typing import Any

import jax
import numpy as np
from absl import flags, logging
from ml_collections import config_flags

from bench import machine, study_tables
from noah_jax import config as config_lib
from noah_jax import data, pipeline, pretrained, sweep
from noah_jax.config import Config, differences
from noah_jax.errors import UserError
from noah_jax.runtime import backend, preemption
from noah_jax.runtime.workdir import read_json, write_text

_KEPT = "test_accuracy test_loss val_accuracy genome params stages images image_size backbone dtype"
_KEPT = (*_KEPT.split(), "inputs", "versions", "devices")
_TUNED = "+".join(study_tables.TUNED)

Study = dict[str, Any]  # what the file holds
Entry = dict[str, Any]  # one of its `runs`


def main(argv: list[str] | None = None) -> None:
    """Runs the command; raises UserError for bad input, and at the end if a run failed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--out", type=pathlib.Path, required=True, help="a JSON file to go on with")
    parser.add_argument("--workdir", type=pathlib.Path, default=pathlib.Path("runs/study"))
    parser.add_argument("--table", action="store_true", help="print what is there, run nothing")
    parser.add_argument("--markdown", action="store_true", help="print the tables in Markdown")
    arguments, rest = parser.parse_known_args(argv)
    study, failed = _read(arguments.out), []
    if arguments.table:
        if rest:
            parser.error(f"--table takes no {' '.join(rest)}")
        if not study["runs"]:
            raise UserError(f"there are no results in {arguments.out}")
    else:
        configs = _configs(rest)
        backend.keep_compiled_programs()
        head = machine.describe("bench.study", argv) | _head(configs, study["runs"])
        study = head | {"runs": study["runs"]}
        with data.opened_once():
            failed = _run(study, configs, arguments.workdir, arguments.out)
    print(study_tables.tables(study, arguments.markdown), flush=True)
    if failed:
        raise UserError(f"{len(failed)} runs failed: {', '.join(failed)}")


# --- Which runs ----------------------------------------------------------------------------------


def _configs(argv: Sequence[str]) -> list[Config]:
    """The runs that `--config=FILE[:…] [--config.KEY=VALUE …]` stands for, in order.

    Raises:
      UserError: the flags or the settings cannot be read, or are not those of a study.
    """
    values = flags.FlagValues()
    argv = ["bench.study", *argv]
    config_flags.DEFINE_config_file("config", None, flag_values=values, sys_argv=argv)
    try:
        unexpected = values(argv)[1:]
    except (flags.Error, AttributeError, KeyError, TypeError, ValueError, OSError) as error:
        raise UserError(f"a flag cannot be read, or there is no such key: {error}") from error
    if unexpected or values.config is None:
        raise UserError(
            f"expected --config=configs/study.py:TASKS and --config.KEY=VALUE, not {unexpected}"
        )
    methods = values.config.method.split("+")
    values.config.method = "+".join(_TUNED if name == "tuned" else name for name in methods)
    configs = config_lib.expand(values.config)
    if configs[0].stage != "all" or len({config.shots for config in configs}) > 1:
        raise UserError("a study has all stages (stage=all), and one number of shots")
    tasks = list(dict.fromkeys(config.task for config in configs))

    def order(config: Config):
        return config.seed, tasks.index(config.task), config.method == "random"  # after noah

    return sorted(configs, key=order)


def _run_settings(config: Config) -> Config:
    """The settings without the run's name and the places of files; weights by their contents."""
    weights = pretrained.fingerprint(config.weights) if config.weights else ""
    paths = {"data_dir": "", "supernet_from": "", "weights": weights}
    return dataclasses.replace(config, task="", seed=0, **paths)


@functools.cache
def _digest(config: Config) -> str:
    """A digest of the settings that the run's method reads, in which another run could differ."""
    settings = _run_settings(config)
    read = [*differences.differences({}, settings), settings.weights]
    return hashlib.sha256("\n".join(read).encode()).hexdigest()[:16]


def _identity(config: Config) -> tuple:
    return config.task, config.method, config.seed, _digest(config)


def _identities(runs: Iterable[Entry]) -> set[tuple]:
    return {(run["task"], run["method"], run["seed"], run["digest"]) for run in runs}


def _workdir(config: Config, parent: pathlib.Path) -> pathlib.Path:
    return parent / f"{config.name}-{_digest(config)[:8]}"


def _sharing(config: Config, parent: pathlib.Path) -> Config:
    """Adds the supernet of the NOAH run with the same task and seed, if `config` can take it."""
    noah = _workdir(dataclasses.replace(config, method="noah"), parent)
    finished = (noah / "result.json").is_file() and any((noah / "supernet").glob("*"))
    if config.method != "random" or config.supernet_from or not finished:
        return config
    return dataclasses.replace(config, supernet_from=str(noah))


# --- Running them --------------------------------------------------------------------------------


def _run(
    study: Study, configs: list[Config], workdirs: pathlib.Path, out: pathlib.Path
) -> list[str]:
    """Runs what is not in the study yet, and returns the names of the runs that failed.

    Raises:
      UserError: an input of any run is wrong, which is found before the first starts.
    """
    there = _identities(study["runs"])
    left = [config for config in configs if _identity(config) not in there]
    sweep.check((_sharing(config, workdirs), _workdir(config, workdirs)) for config in left)
    if done := len(configs) - len(left):
        print(f"{done} of {len(configs)} runs are in {out}")
    failed = []
    for number, config in enumerate(left):
        rest = _time_left(study, left[number:])
        print(f"run {number + 1} of {len(left)}: {config.name}; {rest}", flush=True)
        config, workdir = _sharing(config, workdirs), _workdir(config, workdirs)
        try:
            entry = _entry(config, workdir, pipeline.run(config, workdir))
        except (UserError, OSError, jax.errors.JaxRuntimeError) as error:  # the last: memory
            print(f"error in {workdir}: {error}", file=sys.stderr, flush=True)
            failed.append(config.name)
            continue
        study["runs"].append(entry)
        _write(out, study)
        print(f"{config.name}: test accuracy {100 * entry['test_accuracy']:.2f} %", flush=True)
    return failed


def _entry(config: Config, workdir: pathlib.Path, result: dict[str, Any]) -> Entry:
    """The entry that the study keeps for a finished run."""
    best = read_json(workdir / "best.json") or {}
    finished = (workdir / "result.json").stat().st_mtime
    date = datetime.datetime.fromtimestamp(finished, datetime.UTC)
    return {
        "task": config.task,
        "method": config.method,
        "seed": config.seed,
        "digest": _digest(config),
        **{name: result[name] for name in _KEPT},
        "val_loss": best.get("val_loss"),
        "shared_supernet": bool(config.supernet_from),
        "commit": _commit(),
        "date": date.isoformat(timespec="seconds"),
    }


def _time_left(study: Study, left: Sequence[Config]) -> str:
    """Estimates the time left from the mean time of each method's finished runs."""
    seconds = collections.defaultdict(list)
    for run in study_tables.current(study):
        seconds[run["method"]].append(sum(run["stages"].values()))
    known = [np.mean(seconds[config.method]) for config in left if config.method in seconds]
    minutes = round(sum(known) / 60)
    parts = [f"about {minutes // 60} h {minutes % 60} min"] if known else []
    if unknown := len(left) - len(known):
        parts.append(f"{unknown} of methods not timed yet")
    return f"left: {' and '.join(parts)}"


# --- The file ------------------------------------------------------------------------------------


def _head(configs: Sequence[Config], runs: Sequence[Entry]) -> dict[str, Any]:
    """The head of the file: code, settings, and the digest of each method under them."""
    shared = dataclasses.asdict(_run_settings(configs[0]))
    methods = dict.fromkeys([config.method for config in configs] + [run["method"] for run in runs])
    return {
        "commit": _commit(),
        "settings": {k: v for k, v in shared.items() if k not in ("task", "method", "seed")},
        "digests": {
            method: _digest(dataclasses.replace(configs[0], method=method)) for method in methods
        },
    }


def _commit() -> str | None:
    """The commit of the code, with -dirty if it was changed since; None outside a clone."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    folder = pathlib.Path(__file__).parent
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()


def _read(path: pathlib.Path) -> Study:
    if not path.exists():
        return {"digests": {}, "runs": []}
    try:
        study = json.loads(path.read_bytes())
        _identities(study["runs"]), study["digests"]
    except (ValueError, TypeError, KeyError, OSError) as error:
        raise UserError(f"{path} is no study's file, name another by --out: {error!r}") from error
    return study


def _write(path: pathlib.Path, study: Study) -> None:
    """Writes the file as a whole or not at all: a line for each key, and a line for each run."""
    runs = ",\n".join(f"    {json.dumps(run)}" for run in study["runs"])
    head = {key: value for key, value in study.items() if key != "runs"}
    lines = "".join(f"  {json.dumps(key)}: {json.dumps(value)},\n" for key, value in head.items())
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, f'{{\n{lines}  "runs": [\n{runs}\n  ]\n}}\n')


if __name__ == "__main__":
    logging.set_verbosity(logging.FATAL)  # as in noah_jax.main
    python_logging.getLogger("asyncio").setLevel(python_logging.CRITICAL)
    preemption.install()
    try:
        main()
    except (UserError, OSError) as problem:
        print(f"error: {problem}", file=sys.stderr)
        sys.exit(2)
    except preemption.Preempted as stopped:
        preemption.leave(stopped)
