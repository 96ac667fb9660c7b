"""Runs one or several runs in one process: checks all their inputs, runs each, compares them."""

import pathlib
import sys
from collections.abc import Iterable, Sequence

import jax

from noah_jax import data, pipeline
from noah_jax.config import Config
from noah_jax.errors import UserError
from noah_jax.report import comparison, tables
from noah_jax.runtime import processes
from noah_jax.runtime.workdir import fresh
from noah_jax.training.result import Result


def places(
    configs: Sequence[Config], name: str, folder: str | None = None, anew: bool = False
) -> tuple[list[pathlib.Path], pathlib.Path]:
    """Chooses a workdir for each run, and the folder for the files that they have in common.

    Args:
      name: the first part of the workdirs' names in runs/, where no folder is given.
      folder: the workdir of a single run; for several runs, the folder of their workdirs.
      anew: takes a new folder beside one that is there already.

    Raises:
      UserError: several runs are to start anew, but no folder is given.
    """
    if len(configs) > 1 and not folder:
        if anew:
            raise UserError(
                "--fresh starts several runs anew in one folder: name it by --workdir=DIR"
            )
        common = f"{name}-{Config.common_name(configs)}"
        names = [f"{name}-{config.name}" for config in configs]
        return [pathlib.Path("runs", each) for each in names], pathlib.Path("runs", common)
    common = pathlib.Path(folder or f"runs/{name}-{configs[0].name}").expanduser()
    common = fresh(common) if anew else common
    return [common / config.name for config in configs] if len(configs) > 1 else [common], common


def check(runs: Iterable[tuple[Config, pathlib.Path]]) -> None:
    """Checks the inputs of all runs, and writes nothing; see `pipeline.check`.

    Raises:
      UserError: something is wrong; the message lists it for all runs.
    """
    problems = []
    for config, workdir in runs:
        try:
            pipeline.check(config, workdir)
        except UserError as error:
            if processes.several():  # the other processes check the next workdir already
                raise
            problems.append(str(error))
    if problems:
        raise UserError("\n".join(dict.fromkeys(problems)))


def run(
    configs: Sequence[Config],
    workdirs: Sequence[pathlib.Path],
    common: pathlib.Path,
    command: Sequence[str] = (),
) -> list[Result]:
    """Checks all runs, then runs each in turn, and prints their table.

    A run that fails does not stop the others.

    Args:
      common: the folder for the page that compares several runs.
      command: the words of the command that started the runs, for their reports.

    Returns:
      The contents of `result.json` of each finished run.

    Raises:
      UserError: an input of a run is wrong, which is found before the first run starts; or some
        runs failed, which is raised at the end.
      Preempted: a signal came; what could be saved is saved.
    """
    finished: dict[pathlib.Path, Result] = {}
    failed = []
    with data.opened_once():
        check(zip(configs, workdirs, strict=True))
        for number, (config, workdir) in enumerate(zip(configs, workdirs, strict=True)):
            try:
                result = pipeline.run(config, workdir, command=command)
            except (UserError, OSError, jax.errors.JaxRuntimeError) as error:  # e.g. out of memory
                if len(configs) == 1 or not processes.all_come(f"failed/{number}"):
                    raise
                if processes.is_main():
                    print(f"error in {workdir}: {error}", file=sys.stderr)
                failed.append(str(workdir))
                continue
            if result is not None:
                finished[workdir] = result
                if processes.is_main():
                    accuracy = 100 * result["test_accuracy"]
                    print(f"{workdir}/result.json: test accuracy {accuracy:.2f} %")
    if finished and processes.is_main():
        _tell(configs, finished, failed, common)
    if failed:
        raise UserError(f"{len(failed)} of {len(configs)} runs failed: {', '.join(failed)}")
    return [*finished.values()]


def _tell(
    configs: Sequence[Config],
    finished: dict[pathlib.Path, Result],
    failed: list[str],
    common: pathlib.Path,
) -> None:
    """Prints the table of the finished runs, and writes a page that compares them."""
    if len(configs) > 1:
        try:
            print(f"side by side: {comparison.write(common, [*finished], failed)}")
        except (UserError, OSError) as error:  # the results are printed below in any case
            print(f"warning: no comparison.html: {error}", file=sys.stderr)
    alike = len({(config.task, config.shots, config.seed) for config in configs}) == 1
    one_number = alike and not any(result["more_tests"] for result in finished.values())
    print(tables.runs(finished) if one_number else tables.benchmark(finished))
    print(f"\n{tables.words(finished)}", flush=True)
