"""Reads from the environment which processes belong to a run."""

import importlib.util
import os
import re
import urllib.request
from collections.abc import Mapping
from typing import Any

from noah_jax.errors import UserError

_METADATA_SECONDS = 3
_EXPLICIT = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")
_SLURM = ("SLURM_JOB_ID", "SLURM_STEP_NODELIST", "SLURM_NTASKS", "SLURM_PROCID", "SLURM_LOCALID")


def cluster(environment: Mapping[str, str]) -> dict[str, Any] | None:
    """The arguments of `jax.distributed.initialize`; None if this process is alone.

    JAX finds the processes of a TPU pod, of Slurm and of Open MPI 4 by itself. But it must not look
    for them if there is only one, since it fails or waits where a machine merely looks like these.

    Raises:
      UserError: the environment says only a part, or says it wrongly.
    """
    explicit = {name: environment.get(name, "") for name in _EXPLICIT}
    if environment.get("OMPI_COMM_WORLD_SIZE", "1") != "1":
        if "OMPI_MCA_orte_hnp_uri" in environment and not any(explicit.values()):
            return {}
        explicit["JAX_NUM_PROCESSES"] = environment["OMPI_COMM_WORLD_SIZE"]
        explicit["JAX_PROCESS_ID"] = environment["OMPI_COMM_WORLD_RANK"]
    if explicit["JAX_NUM_PROCESSES"] or explicit["JAX_PROCESS_ID"]:
        return _explicit(explicit)
    found = _found(environment)
    if found is None and explicit["JAX_COORDINATOR_ADDRESS"]:
        return _explicit(explicit)  # which says what is missing
    return found


def _found(environment):
    """The same, from what Slurm and TPU pods say of themselves."""
    if all(name in environment for name in _SLURM):
        tasks, nodes, devices = (
            int(environment.get(name, "")) if environment.get(name, "").isdecimal() else 1
            for name in ("SLURM_STEP_NUM_TASKS", "SLURM_STEP_NUM_NODES", "SLURM_GPUS_ON_NODE")
        )
        if tasks > 1:
            one_a_node = tasks == nodes and "JAX_LOCAL_DEVICE_IDS" not in environment
            # JAX would give a task only one of its node's GPUs.
            return {"local_device_ids": list(range(devices))} if one_a_node else {}
    elif _tpu_hosts(environment) > 1:
        return {}
    return None


def _explicit(values: dict[str, str]) -> dict[str, Any] | None:
    if missing := [name for name, value in values.items() if not value]:
        raise UserError(
            f"{', '.join(missing)} not set: several processes need {', '.join(_EXPLICIT)}, "
            "e.g. 10.0.0.1:8476, 2 and, counted from 0, 1"
        )
    address, number, process = values.values()
    if not (number.isdecimal() and process.isdecimal() and int(process) < int(number)):
        raise UserError(
            f"JAX_NUM_PROCESSES={number}, JAX_PROCESS_ID={process}: expected two numbers, "
            "the second below the first"
        )
    if not re.fullmatch(r".+:\d+", address):
        raise UserError(f"JAX_COORDINATOR_ADDRESS={address}: expected host:port")
    if int(number) == 1:
        return None
    return {
        "coordinator_address": address,
        "num_processes": int(number),
        "process_id": int(process),
        "cluster_detection_method": "deactivate",
    }


def _tpu_hosts(environment: Mapping[str, str]) -> int:
    """The number of hosts of the TPU pod that this host belongs to; 1 if it belongs to none."""
    if not importlib.util.find_spec("libtpu"):
        return 1
    platforms = _platforms()  # names the TPU once JAX, when it is loaded, has seen its chips
    if "tpu" not in (platforms or "tpu"):
        return 1
    for name in ("TPU_PROCESS_ADDRESSES", "TPU_WORKER_HOSTNAMES"):
        if name in environment and platforms:  # Kubernetes
            hosts = environment[name].split(",")
            return len(hosts) * int(environment.get("MEGASCALE_NUM_SLICES") or 1)
    # JAX sets this where it sees no chips, and GKE in every pod with a TPU.
    if "TPU_SKIP_MDS_QUERY" in environment:
        return 1
    slices = re.search(r"MEGASCALE_NUM_SLICES: *'?(\d+)", _metadata("tpu-env"))
    endpoints = _metadata("worker-network-endpoints").split(",")
    return len(endpoints) * (int(slices[1]) if slices else 1)


def _platforms() -> str | None:
    import jax

    return jax.config.jax_platforms  # type: ignore[attr-defined]  # options lack hints


def _metadata(key: str) -> str:
    """Asks Google's cloud for an attribute of this machine; empty if nothing answers."""
    host = os.environ.get("GCE_METADATA_IP", "metadata.google.internal")
    request = urllib.request.Request(
        f"http://{host}/computeMetadata/v1/instance/attributes/{key}",
        headers={"Metadata-Flavor": "Google"},
    )
    try:
        with urllib.request.urlopen(request, timeout=_METADATA_SECONDS) as answer:
            return answer.read().decode()
    except OSError:
        return ""
