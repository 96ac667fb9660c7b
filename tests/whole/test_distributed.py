"""Two real processes on one machine: the command of a user of a cluster, made tiny."""

import fcntl
import json
import os
import select
import socket
import subprocess
import sys
import time

import numpy as np
import pytest

from noah_jax.errors import UserError
from noah_jax.runtime import cluster as cluster_lib
from tests.helpers.commands import ROOT, main_command
from tests.helpers.processes import ALONE, start

FLAGS = [
    *("--config.search.generations=1", "--config.supernet.epochs=2", "--config.retrain.epochs=2"),
    "--config.eval_batch_size=8",  # two batches, the second with one image too few
]


def _finish(running, code=0):
    try:
        said = [process.communicate(timeout=120) for process in running]
    finally:
        for process in running:
            process.kill()
    assert [process.returncode for process in running] == [code] * len(running), said
    return said


def _two(home, workdirs, *flags):
    commands = (main_command(home, workdir, *FLAGS, *flags) for workdir in workdirs)
    return start(list(commands))


def _read(path):
    return json.loads(path.read_text())


def _losses(workdir):
    lines = map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())
    return {(line["stage"], line["epoch"]): line["loss"] for line in lines if "epoch" in line}


def test_killed_without_a_shared_file_system_it_finds_what_one_finds(home, tmp_path):
    """Supernet and search; each has a workdir of its own, and that of the second stays empty."""
    flag = "--config.stage=search"
    command = main_command(home, tmp_path / "one", *FLAGS, flag)
    subprocess.run(command, cwd=ROOT, env=ALONE, check=True, capture_output=True)
    workdirs = tmp_path / "first", tmp_path / "second"
    running = _two(home, workdirs, flag)
    while "search …" not in running[0].stdout.readline():
        assert running[0].poll() is None, running[0].stderr.read()
    for process in running:
        process.kill()
        process.communicate()
    assert (workdirs[0] / "supernet").is_dir() and not (workdirs[0] / "best.json").exists()

    (said, _), (silent, _) = _finish(_two(home, workdirs, flag))
    assert "supernet goes on after step 6 of 6" in said and "search took" in said
    assert not [line for line in silent.splitlines() if "[Gloo]" not in line]
    assert not workdirs[1].exists()
    one, two = (_read(folder / "best.json") for folder in (tmp_path / "one", workdirs[0]))
    for key in ("genome", "params", "val_accuracy", "evaluated"):
        assert one[key] == two[key], key
    np.testing.assert_allclose(one["val_loss"], two["val_loss"], rtol=1e-4)
    losses = [_losses(workdir) for workdir in (tmp_path / "one", workdirs[0])]
    assert losses[0].keys() == losses[1].keys() and len(losses[0]) == 2
    np.testing.assert_allclose(*(list(run.values()) for run in losses), rtol=1e-4)


def test_streamed_images_give_the_result_of_one(home, tmp_path):
    """Each process reads and augments its half of every batch; the weights are cut over both."""
    flags = "--config.method=linear", "--config.augmentation=randaugment"
    command = main_command(home, tmp_path / "one", *FLAGS, *flags)
    subprocess.run(command, cwd=ROOT, env=ALONE, check=True, capture_output=True)
    workdirs = tmp_path / "two", tmp_path / "elsewhere"
    _finish(_two(home, workdirs, *flags, "--config.weight_shards=2"))
    losses = [list(_losses(tmp_path / name).values()) for name in ("one", "two")]
    np.testing.assert_allclose(*losses, rtol=1e-4)
    one, two = (_read(tmp_path / name / "result.json") for name in ("one", "two"))
    assert one["test_accuracy"] == two["test_accuracy"]
    np.testing.assert_allclose(one["test_loss"], two["test_loss"], rtol=1e-4)
    assert len(two["devices"]) == 2
    kept = [_read(tmp_path / name / "predictions.json") for name in ("one", "two")]
    for values in kept:  # each process has the labels of its own images only
        assert values["tests"]["test"]["labels"] == 5 * [0, 1, 2]
        assert len(values["tests"]["test"]["predictions"]) == 15 and values["examples"]
    (again, _), _ = _finish(_two(home, workdirs, *flags))  # though only one sees that it is done
    assert "retrain" not in again and f"{100 * two['test_accuracy']:.2f} %" in again

    report = workdirs[0] / "report.html"
    report.unlink()
    os.mkfifo(pipe := report.with_name("report.html.part"))  # nobody empties it
    running = _two(home, workdirs, *flags)
    with open(os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)) as page:
        fcntl.fcntl(page, fcntl.F_SETPIPE_SZ, 4096)
        assert select.select([page], [], [], 60)[0]
        time.sleep(3)  # the other has nothing left to do
        running[0].terminate()
        for _, error in _finish(running, code=143):
            assert "stopped by SIGTERM" in error and "Traceback" not in error


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--config.weights=no_such.npz", "weights=no_such.npz: no such file"),
        ("--config.seed=1", "process 0, all need the same:\n  seed: 0 there, 1 here\n"),
    ],
)
def test_what_is_wrong_in_one_process_ends_both(home, tmp_path, flag, message):
    flags = [[], [flag]]
    commands = [main_command(home, tmp_path / "run", *FLAGS, *more) for more in flags]
    began = time.monotonic()
    for _, error in _finish(start(commands), code=2):
        assert message in error and "Traceback" not in error
    assert time.monotonic() - began < 60 and not (tmp_path / "run").exists()


def test_an_address_alone_is_not_enough():
    with pytest.raises(UserError, match="JAX_NUM_PROCESSES, JAX_PROCESS_ID not set"):
        cluster_lib.cluster({"JAX_COORDINATOR_ADDRESS": "10.0.0.1:8476"})


def test_a_process_that_does_not_come():
    program = "from noah_jax.runtime import processes as p; p._PATIENCE_SECONDS = 2; p.start(print)"
    with socket.socket() as taken:  # nobody listens there
        taken.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        variables = dict(zip(cluster_lib._EXPLICIT, (address, "2", "1"), strict=True))
        done = subprocess.run(
            [sys.executable, "-c", program],
            cwd=ROOT,
            env=ALONE | variables,
            capture_output=True,
            text=True,
            timeout=60,
        )
    assert done.returncode == 2 and "after 2 s not all processes are there" in done.stderr


SLURM = {
    "SLURM_JOB_ID": "1",
    "SLURM_STEP_NODELIST": "n[1-2]",
    "SLURM_NTASKS": "2",
    "SLURM_PROCID": "1",
    "SLURM_LOCALID": "0",
    "SLURM_STEP_NUM_TASKS": "2",
    "SLURM_STEP_NUM_NODES": "2",
}
EXPLICIT = dict(zip(cluster_lib._EXPLICIT, ("10.0.0.1:8476", "2", "1"), strict=True))


def test_where_there_are_several_processes():
    """And where a machine only looks as if there were."""
    cluster = cluster_lib.cluster
    assert cluster({}) is None
    assert cluster(EXPLICIT)["process_id"] == 1
    assert cluster(EXPLICIT | {"JAX_NUM_PROCESSES": "1", "JAX_PROCESS_ID": "0"}) is None
    with pytest.raises(UserError, match="JAX_COORDINATOR_ADDRESS, JAX_PROCESS_ID not set"):
        cluster({"JAX_NUM_PROCESSES": "2"})
    with pytest.raises(UserError, match="the second below the first"):
        cluster(EXPLICIT | {"JAX_PROCESS_ID": "2"})
    with pytest.raises(UserError, match="expected host:port"):
        cluster(EXPLICIT | {"JAX_COORDINATOR_ADDRESS": "10.0.0.1"})
    assert cluster(SLURM | {"SLURM_GPUS_ON_NODE": "4"}) == {"local_device_ids": [0, 1, 2, 3]}
    assert cluster(SLURM | {"SLURM_STEP_NUM_TASKS": "8"}) == {}  # one a GPU
    assert cluster(SLURM | {"SLURM_STEP_NUM_TASKS": "1"}) is None  # a shell in an allocation
    assert cluster({"SLURM_JOB_ID": "1", "SLURM_NTASKS": "8"}) is None  # a batch script
    assert cluster({"KUBERNETES_SERVICE_HOST": "10.0.0.1"}) is None
    mpi = {"OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_RANK": "1"}
    assert cluster(mpi | {"OMPI_MCA_orte_hnp_uri": "1.0;tcp://10.0.0.1:1"}) == {}
    assert cluster(mpi | {"JAX_COORDINATOR_ADDRESS": "n1:8476"})["process_id"] == 1
    with pytest.raises(UserError, match="JAX_COORDINATOR_ADDRESS not set"):
        cluster(mpi)


GKE = {  # what its device plugin and its webhook set in the second pod of a slice
    "TPU_ACCELERATOR_TYPE": "v5litepod-16",
    "TPU_SKIP_MDS_QUERY": "true",
    "TPU_TOPOLOGY": "4x4",
    "TPU_WORKER_HOSTNAMES": ",".join(f"noah-slice-job-0-{n}.noah" for n in range(4)),
    "TPU_WORKER_ID": "1",
}
NO_CHIPS = {"TPU_SKIP_MDS_QUERY": "1"}  # JAX sets it to this, and then does not name the TPU


@pytest.mark.parametrize(
    ("environment", "said", "hosts"),
    [
        ({}, {}, 1),  # no metadata, e.g. in a notebook
        ({}, {"worker-network-endpoints": "a:b:10.0.0.1"}, 1),
        ({}, {"worker-network-endpoints": "a:b:10.0.0.1,c:d:10.0.0.2"}, 2),
        ({}, {"tpu-env": "A: 'b'\nMEGASCALE_NUM_SLICES: '2'\n"}, 2),
        (GKE, {}, 4),
        (GKE | {"MEGASCALE_NUM_SLICES": "2"}, {}, 8),
        (GKE | {"TPU_WORKER_HOSTNAMES": "localhost"}, {}, 1),
        (GKE | NO_CHIPS, {}, 1),
        (NO_CHIPS, {"worker-network-endpoints": "a,b"}, 1),
    ],
)
def test_hosts_of_a_tpu_pod(environment, said, hosts, monkeypatch):
    monkeypatch.setattr(cluster_lib.importlib.util, "find_spec", lambda name: name)
    monkeypatch.setattr(cluster_lib, "_metadata", lambda key: said.get(key, ""))
    platforms = None if NO_CHIPS.items() <= environment.items() else "tpu,cpu"
    monkeypatch.setattr(cluster_lib, "_platforms", lambda: platforms)
    assert (cluster_lib.cluster(environment) == {}) == (hosts > 1)
    assert cluster_lib._tpu_hosts(environment) == hosts
