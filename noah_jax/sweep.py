"""Several runs in one process: their workdirs, one look at all inputs, each in turn, one table."""

import pathlib
import sys
from collections.abc import Iterable, Sequence
from typing import Any

import jax

from noah_jax import data, pipeline
from noah_jax.config import Config
from noah_jax.errors import UserError
from noah_jax.report import comparison, tables
from noah_jax.runtime import processes
from noah_jax.runtime.workdir import fresh


def places(
    configs: Sequence[Config], name: str, folder: str | None = None, anew: bool = False
) -> tuple[list[pathlib.Path], pathlib.Path]:
    """A workdir for each run, and the folder for what they have in common.

    Args:
      name: what the workdirs in runs/ are called by where no folder is given.
      folder: the workdir of a single run; of several, the folder that theirs are in.
      anew: takes a folder beside it where it is there already.

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
    """Looks at the inputs of all runs, and writes nothing; see `pipeline.check`.

    Raises:
      UserError: all that is wrong.
    """
    problems = []
    for config, workdir in runs:
        try:
            pipeline.check(config, workdir)
        except UserError as error:
            if processes.several():  # the others have gone on to the next look at a workdir
                raise
            problems.append(str(error))
    if problems:
        raise UserError("\n".join(dict.fromkeys(problems)))


def run(
    configs: Sequence[Config],
    workdirs: Sequence[pathlib.Path],
    common: pathlib.Path,
    command: Sequence[str] = (),
) -> list[dict[str, Any]]:
    """Checks all runs, then runs each in turn, and prints their table; one that fails stops none.

    Args:
      common: the folder for the page that compares several.
      command: the words that the runs were started with, for their reports.

    Returns:
      What `result.json` of each finished run holds.

    Raises:
      UserError: something is wrong with the input of one, before the first starts; or, at the end,
        that some failed.
      Preempted: a signal came; what could be saved is.
    """
    finished, failed = {}, []
    with data.opened_once():
        check(zip(configs, workdirs, strict=True))
        for number, (config, workdir) in enumerate(zip(configs, workdirs, strict=True)):
            try:
                result = pipeline.run(config, workdir, command=command)
            except (UserError, OSError, jax.errors.JaxRuntimeError) as error:  # too little memory
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
    finished: dict[pathlib.Path, dict[str, Any]],
    failed: list[str],
    common: pathlib.Path,
) -> None:
    """Prints the table of the finished runs, and writes a page that compares them."""
    if len(configs) > 1:
        try:
            print(f"side by side: {comparison.write(common, [*finished], failed)}")
        except (UserError, OSError) as error:  # the results are there, and told below
            print(f"warning: no comparison.html: {error}", file=sys.stderr)
    results = [*finished.values()]
    alike = len({(config.task, config.shots, config.seed) for config in configs}) == 1
    one_number = alike and not any(result["more_tests"] for result in results)
    print(tables.runs(results) if one_number else tables.benchmark(results), flush=True)
