"""A long run leaves nothing behind in its process: no memory, no open files, no threads."""

import gc
import os
import resource
import threading

import pytest

from noah_jax import search
from noah_jax.config import defaults
from noah_jax.config.settings import Schedule, Search
from noah_jax.runtime import sharding
from noah_jax.runtime.checkpoint import Checkpoints
from noah_jax.runtime.writer import Writer
from noah_jax.training import evaluation, loop
from tests.helpers.models import SPACE, genomes

_FLAT_MB = 40  # where a leak of a kilobyte a step or genome adds 5 and 2


def _now() -> tuple[float, int, int]:
    """Resident memory in MB, open files, threads."""
    gc.collect()
    with open("/proc/self/statm") as file:
        pages = int(file.read().split()[1])
    megabytes = pages * resource.getpagesize() / 1e6
    return megabytes, len(os.listdir("/proc/self/fd")), threading.active_count()


@pytest.mark.long
@pytest.mark.parametrize("kind", ["data", "augmented"])
def test_5000_steps(network, kind, tmp_path, request):
    """The second half against the first."""
    data, mesh, measured = request.getfixturevalue(kind), sharding.make_mesh(), []
    for number in range(3):  # the first compiles, and fills what JAX keeps
        folder = tmp_path / f"{number}"
        folder.mkdir()
        writer = Writer(folder)
        schedule = Schedule(
            epochs=50 if number == 0 else 1250,
            batch_size=8,
            learning_rate=1e-3,
            weight_decay=1e-4,
            warmup_epochs=1,
        )  # 2 steps an epoch
        checkpoints = Checkpoints(folder / "supernet", writer.say)
        recipe = loop.Recipe("supernet", schedule, genomes, seed=0, checkpoint_seconds=1.0)
        loop.fit(recipe, network, data, checkpoints, mesh, writer)
        measured.append(_now())
    print(f"2,500 and 5,000 steps of {kind}: MB, files, threads", measured[1:])
    assert measured[2][0] < measured[1][0] + _FLAT_MB
    assert measured[2][1:] == measured[1][1:] == measured[0][1:]


@pytest.mark.long
def test_2000_genomes(network, data, tmp_path):
    mesh, measured = sharding.make_mesh(), []
    for number in range(3):
        folder = tmp_path / f"{number}"
        folder.mkdir()
        size = {"population": 100, "generations": 1 if number == 0 else 9, "mutations": 50}
        settings = Search(**defaults().search.to_dict() | size | {"budget_millions": 1.0})
        images, labels = data
        chunks = [(images[i : i + 10], labels[i : i + 10]) for i in (0, 10)]
        evaluate = evaluation.population_evaluator(network, network.params, chunks, settings, mesh)
        ranked = search.evolve(SPACE, settings, evaluate, number, folder / "search", Writer(folder))
        assert len(ranked) == 100 * (settings.generations + 1)
        measured.append(_now())
    print("1,000 and 2,000 genomes: MB, files, threads", measured[1:])
    assert measured[2][0] < measured[1][0] + _FLAT_MB
    assert measured[2][1:] == measured[1][1:] == measured[0][1:]
