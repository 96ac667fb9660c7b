"""The last stage: the test of the retrained subnet, and `result.json`."""

import contextlib
import hashlib
import math
import platform
import time
from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

import jax
import numpy as np
from flax import nnx

import noah_jax
from noah_jax import pretrained
from noah_jax.interop import subnet
from noah_jax.runtime import preemption, sharding, workdir
from noah_jax.runtime.memory import watch
from noah_jax.space.genomes import by_module, count_noah, count_params
from noah_jax.training import evaluation, predictions
from noah_jax.training.result import ComputedBy, Result
from noah_jax.training.run import Run
from noah_jax.vit.network import Network

_UNFINISHED, _SECONDS_BETWEEN_SAVES = "test.json", 1.0
_MOST_OF_THE_TIME = 0.05  # for saving, which writes all predictions of a large test set


def test_subnet(
    run: Run,
    network: Network,
    params: nnx.State,
    genome: np.ndarray,
    best: Mapping[str, Any] | None,
) -> None:
    """Tests a trained subnet and writes predictions, subnet and `result.json`.

    Args:
      best: the contents of `best.json`; None if the method finds no genome.

    Raises:
      UserError: an image cannot be read, or a file cannot be written.
      Preempted: a signal came; the predictions so far are saved.
    """
    with run.writer.stage("test"):
        tests, predicted = _test(run, network, params, genome)
    predictions.keep(run.workdir, run.source, predicted)
    result = _result(run, params, genome, best, tests)
    subnet.write(_subnet_facts(run, result), subnet.by_name(params, by_module(genome)), run.workdir)
    workdir.write_json(run.workdir / "result.json", result)
    workdir.discard(run.workdir / _UNFINISHED)


def _test(run: Run, network: Network, params, genome) -> tuple[dict[str, Any], dict[str, Any]]:
    """Tests a subnet on all test sets, from where an earlier start stopped.

    Returns:
      The scores of each set: accuracy among the classes that it shows, and among all. Then two
      lists for each, labels and predictions.
    """
    evaluate = watch(evaluation.make_evaluator(network, run.mesh))
    path, results = run.workdir / _UNFINISHED, {}
    digest = _digest(params, genome)
    saved = workdir.read_json(path, run.writer.say) or {}
    known = saved.get("sets", {}) if saved.get("subnet") == digest else {}
    for name, split in {"test": run.source.splits["test"], **run.source.more_tests}.items():
        done, totals, predicted = known.setdefault(name, (0, [0.0, 0.0, 0.0], [[], []]))
        batch, next_save = run.eval_batch(split), time.monotonic() + _SECONDS_BETWEEN_SAVES
        batches = run.batches(split, sharding.local_rows(run.mesh, batch), done)
        rest = evaluation.Remaining(
            batches, batch, total=len(split), classes=split.classes, done=done, sums=totals
        )
        inputs = network, params, genome, rest, evaluate, run.mesh
        with (
            run.writer.progress(name, len(split), done, "images") as progress,
            contextlib.closing(batches),
            preemption.deferred(),
        ):
            for now_done, sums, new in evaluation.score_stream(*inputs):
                progress.update(now_done - done)
                done, totals = now_done, sums.tolist()
                for values, more in zip(predicted, new.tolist(), strict=True):
                    values += more
                start = time.monotonic()
                if start > next_save or done == len(split) or preemption.requested():
                    known[name] = done, totals, predicted
                    workdir.write_json(path, {"subnet": digest, "sets": known})
                    seconds = (time.monotonic() - start) / _MOST_OF_THE_TIME
                    next_save = time.monotonic() + max(_SECONDS_BETWEEN_SAVES, seconds)
                    so_far = f"{name} is saved after {done} of {len(split)} images"
                    preemption.stop_if_requested(so_far)
        accuracy, among_all, loss = (np.array(totals) / len(split)).tolist()
        loss = loss if math.isfinite(loss) else None  # JSON has no other numbers
        results[name] = {"accuracy": accuracy, "loss": loss, "images": len(split)}
        if split.classes:
            results[name] |= {"classes": len(split.classes), "accuracy_among_all": among_all}
        run.writer.log(stage="test", test_set=name, **results[name])
    return results, {name: predicted for name, (*_, predicted) in known.items()}


def _digest(params, genome: np.ndarray) -> str:
    """A trained subnet's fingerprint."""
    digest = hashlib.sha256(genome.tobytes())
    for leaf in jax.tree.leaves(params):
        digest.update(np.asarray(leaf).tobytes())
    return digest.hexdigest()


def _result(run: Run, params, genome, best, tests) -> Result:
    """The contents of `result.json`."""
    config, width = run.config, run.space.width
    trained = sum(leaf.size for leaf in jax.tree.leaves(params))
    head = sum(leaf.size for leaf in jax.tree.leaves(params["head"]))
    full = config.method == "full"
    return {
        "task": config.task,
        "method": config.method,
        "seed": config.seed,
        "shots": config.shots,
        "test_accuracy": tests["test"]["accuracy"],
        "test_loss": tests["test"]["loss"],
        "more_tests": {name: value for name, value in tests.items() if name != "test"},
        "val_accuracy": best.get("val_accuracy") if best else None,
        "genome": genome.tolist(),
        "params": trained - head if full else int(count_params(genome, width)),
        "params_noah_count": trained - head if full else int(count_noah(genome, width)),
        "head_params": head,
        "stages": run.writer.stage_seconds(),
        "memory": run.writer.memory(),
        "images": {name: len(split) for name, split in run.source.splits.items()},
        "class_names": list(run.source.class_names),
        "image_size": config.image_size,
        "normalisation": run.normalisation,
        "encoding": run.source.encoding,
        "warnings": [*run.source.warnings, *run.notes],
        "inputs": run.inputs,
        "backbone": config.backbone,
        "heads": run.vit.heads,
        "dtype": run.vit.dtype,
        "fused_attention": run.vit.execution.fused_attention,
        **computed_by(),
    }


def _subnet_facts(run: Run, result: Mapping[str, Any]) -> dict[str, Any]:
    """The contents of `subnet.json`: the facts needed to use the subnet, and its origin."""
    mean, std = pretrained.NORMALISATIONS[run.normalisation]
    copied = "genome class_names task method seed shots test_accuracy images params head_params"
    copied += " stages devices versions"
    return {
        "vit": {name: getattr(run.vit, name) for name in subnet.SHAPE},
        "mean": mean,
        "std": std,
        "center_crop": run.config.center_crop,
        "backbone": run.config.weights or run.config.backbone,
        "weights": run.inputs["weights"],
        **{name: result[name] for name in copied.split()},
    }


def computed_by() -> ComputedBy:
    """The versions and devices that compute a result here."""
    versions = {"noah_jax": noah_jax.__version__, "python": platform.python_version()}
    packages = ("jax", "flax", "optax", "orbax-checkpoint")
    return {
        "versions": versions | {name: version(name) for name in packages},
        "devices": [device.device_kind for device in jax.devices()],
    }
