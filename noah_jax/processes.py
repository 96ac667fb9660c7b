"""Several processes, one a host of a TPU pod or a task of a cluster: one start, voice and end.

All run the same program on the same input. Process 0, the main one, alone writes and speaks; what
is in the workdir it reads for all, so that no file system need be shared. An error in one process
ends them all.
"""

import atexit
import contextlib
import importlib.util
import json
import os
import re
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

import jax
from jax._src import distributed  # its key-value store has no public name
from jax.experimental import multihost_utils

from noah_jax.errors import UserError

_PATIENCE_SECONDS = 300  # with processes that do not come
_SECONDS_UNTIL_SAID = 15
_TO_SAY_GOODBYE_SECONDS = 3
_SECONDS_BETWEEN_LOOKS = 0.5
_FOR_EVER_SECONDS = 24 * 3600  # a process that fails ends the waiting, time does not
_METADATA_SECONDS = 3
_EXPLICIT = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")
_SLURM = ("SLURM_JOB_ID", "SLURM_STEP_NODELIST", "SLURM_NTASKS", "SLURM_PROCID", "SLURM_LOCALID")
_FAILED, _STOP, _END = "noah_jax/failed", "noah_jax/stop", "noah_jax/end"

_ending = threading.Lock()  # taken by whoever ends this process, never given back
_told = 0  # values that `from_main` gave
_joined = False


def start(stop: Callable[[int], None]) -> None:
    """Joins the other processes, where there are any; before anything else is done with JAX.

    Args:
      stop: is called in the main process with the signal that told another one to stop.

    Raises:
      UserError: what the environment says is incomplete, or the others do not come.
    """
    arguments = cluster(os.environ)
    if arguments is None:
        return
    what_to_do = "the same command must run on every host, and each must reach the first one"
    waiting = [
        threading.Timer(
            _SECONDS_UNTIL_SAID,
            lambda: print(f"waiting for the other processes: {what_to_do}", file=sys.stderr),
        ),
        threading.Timer(  # JAX itself aborts without a word of use
            _PATIENCE_SECONDS,
            lambda: _exit(
                2, f"error: after {_PATIENCE_SECONDS} s not all processes are there: {what_to_do}"
            ),
        ),
    ]
    jax.config.update("jax_enable_preemption_service", False)  # it would keep SIGTERM to itself
    for timer in waiting:
        timer.daemon = True
        timer.start()
    global _joined
    try:
        jax.distributed.initialize(**arguments, initialization_timeout=2 * _PATIENCE_SECONDS)
        _joined = True
    except Exception as error:  # of whatever kind: sockets, gRPC, values it does not like
        raise UserError(f"the processes cannot join: {error}") from error
    finally:
        for timer in waiting:
            timer.cancel()
    over = threading.Event()
    threading.Thread(target=_watch, args=[over, stop], daemon=True).start()
    atexit.register(over.set)


def is_main() -> bool:
    """Whether this process writes and speaks; a single one does."""
    return not distributed.global_state.process_id


def several() -> bool:
    return _joined  # before that, to ask for the others ends this process without a word


def from_main(read: Callable[[], Any]) -> Any:
    """What `read` returns in the main process, in all; JSON's types. All must call it in order."""
    global _told
    if not several():
        return read()
    client, key = distributed.global_state.client, f"noah_jax/told/{_told}"
    _told += 1
    if is_main():
        value = read()
        client.key_value_set(key, json.dumps(value))
        return value
    return json.loads(client.blocking_key_value_get(key, _FOR_EVER_SECONDS * 1000))


def arrays_from_main(tree: Any) -> Any:
    """The main process's arrays in all, as NumPy arrays; of the same shapes everywhere."""
    return multihost_utils.broadcast_one_to_all(tree) if several() else tree


def require_same(values: Mapping[str, Any]) -> None:
    """Raises UserError if the values, of JSON's types, are not the same in all processes.

    None goes on before all have come.
    """
    if not several():
        return
    here = json.loads(json.dumps(values))
    main = from_main(lambda: here)
    if different := [
        f"{key}: {main[key]!r} there, {value!r} here"
        for key, value in here.items()
        if main[key] != value
    ]:
        raise UserError(
            f"process {distributed.global_state.process_id} has other settings or data than "
            f"process 0, all need the same:\n  " + "\n  ".join(different)
        )
    all_come(f"same/{_told}", _FOR_EVER_SECONDS)


def all_come(name: str, seconds: int = 60) -> bool:
    """Whether all processes come to the point of that name within so many seconds."""
    if not several():
        return True
    try:
        distributed.global_state.client.wait_at_barrier(f"noah_jax/{name}", seconds * 1000)
    except jax.errors.JaxRuntimeError:
        return False
    return True


def end() -> None:
    """Waits for all at the end of the program: one that had left would not hear of the others."""
    all_come("done", _FOR_EVER_SECONDS)


def tell_main_to_stop(number: int) -> bool:
    """That this process has got that signal; False before the processes have joined."""
    if several() and not is_main():
        with contextlib.suppress(jax.errors.JaxRuntimeError):  # it is told already, or gone
            distributed.global_state.client.key_value_set(_STOP, str(number))
    return several()


def leave(code: int, message: str, trace: str = "", at_once: bool = False) -> NoReturn:
    """Prints the message and ends this process; where there are several, all of them.

    Args:
      trace: printed before, here alone, unless this process is ending already: then it is of no
        use, as what is called fails when others have left.
      at_once: without waiting for what still runs on the devices.
    """
    if not several():
        if at_once:
            _exit(code, trace + message)
        print(trace + message, file=sys.stderr)
        sys.exit(code)
    _ending.acquire()
    try:
        failed = json.dumps([code, distributed.global_state.process_id, message])
        with contextlib.suppress(jax.errors.JaxRuntimeError):  # the main process is gone already
            distributed.global_state.client.key_value_set(_FAILED, failed, allow_overwrite=True)
    finally:  # a signal may come at any time
        _exit(code, trace + message)


def _watch(over: threading.Event, stop: Callable[[int], None]) -> None:
    """Ends this process when another has ended: it may wait for that one in a collective."""
    while not over.wait(_SECONDS_BETWEEN_LOOKS):
        if failed := _told_by(_FAILED):
            code, process, message = json.loads(failed)
            if _ending.acquire(blocking=False):
                _exit(code, f"process {process}: {message}")
            return
        if is_main() and (number := _told_by(_STOP)):
            stop(int(number))


def _told_by(key: str) -> str | None:
    try:
        return distributed.global_state.client.key_value_try_get(key)
    except jax.errors.JaxRuntimeError:  # no such key
        return None


def _exit(code: int, message: str) -> NoReturn:
    """Without Python's and JAX's clean-up, which would wait for the other processes."""
    try:
        with contextlib.suppress(OSError):  # nobody reads it any more
            print(message, file=sys.stderr, flush=True)
            sys.stdout.flush()
        if several():
            with contextlib.suppress(jax.errors.JaxRuntimeError):
                client = distributed.global_state.client
                client.wait_at_barrier(_END, _TO_SAY_GOODBYE_SECONDS * 1000)
            if is_main():
                time.sleep(_SECONDS_BETWEEN_LOOKS)  # without the store here the others abort
    finally:  # a signal may come at any time
        os._exit(code)


def cluster(environment: Mapping[str, str]) -> dict[str, Any] | None:
    """What to tell `jax.distributed.initialize`; None if this process is alone.

    It finds the processes of a TPU pod, of Slurm and of Open MPI 4 by itself; but it must not be
    asked where there is only one, since it fails or waits where a machine merely looks like these.

    Raises:
      UserError: not all is said, or not in numbers.
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
    """As `cluster`, from what Slurm and TPU pods say of themselves."""
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
    """Hosts of the TPU pod that this is one of; 1 if it is none."""
    no_chips = "TPU_SKIP_MDS_QUERY" in environment  # set by JAX when it is imported
    other_platform = "tpu" not in (_platforms() or "tpu")
    if no_chips or other_platform or not importlib.util.find_spec("libtpu"):
        return 1
    for name in ("TPU_PROCESS_ADDRESSES", "TPU_WORKER_HOSTNAMES"):
        if name in environment:  # Kubernetes
            hosts = environment[name].split(",")
            return len(hosts) * int(environment.get("MEGASCALE_NUM_SLICES") or 1)
    slices = re.search(r"MEGASCALE_NUM_SLICES: *'?(\d+)", _metadata("tpu-env"))
    endpoints = _metadata("worker-network-endpoints").split(",")
    return len(endpoints) * (int(slices[1]) if slices else 1)


def _platforms() -> str | None:
    return jax.config.jax_platforms


def _metadata(key: str) -> str:
    """What Google's cloud says of this machine; empty if nothing does."""
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
