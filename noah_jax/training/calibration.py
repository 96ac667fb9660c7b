"""Temperature scaling: one number by which logits are divided before they become probabilities.

See Guo et al., On Calibration of Modern Neural Networks, 2017 (arXiv 1706.04599), section 4.2. The
tested subnet has been trained on the validation images, of which it is surer than of others. The
found genome is therefore trained once more, with the same recipe on the training images alone, and
the temperature is fitted to what that subnet says about the validation images. A few-shot run's
subnet has been trained on these alone already.
"""

import contextlib
import math

import numpy as np
import scipy.optimize
import scipy.special
from flax import nnx

from noah_jax.runtime import sharding
from noah_jax.runtime.memory import watch
from noah_jax.runtime.workdir import read_json, write_json
from noah_jax.training import evaluation
from noah_jax.training.run import Run
from noah_jax.vit.network import Network

_LEAST, _MOST = 0.1, 10.0  # images that are all right would be fitted best by 0


def temperature(
    run: Run,
    network: Network,
    params: nnx.State,
    genome: np.ndarray,
    supernet: nnx.State | None,
) -> float:
    """Fits the temperature of a genome, or reads it if `calibration.json` is there already.

    Args:
      network, params: the tested subnet. That of a few-shot run has not seen the validation images,
        and needs no second training.
      supernet: the params that the tested subnet began with; None = fresh ones.

    Raises:
      UserError: the training diverges, or something cannot be read or written.
      Preempted: a signal came; a checkpoint is saved.
    """
    path, splits = run.workdir / "calibration.json", run.source.splits
    saved = read_json(path, run.writer.say)
    if saved and saved["genome"] == genome.tolist():
        return saved["temperature"]
    with run.writer.stage("calibration"):
        if splits["trainval"].names != splits["train"].names:
            folder = run.workdir / "calibration"
            params, network = run.fit_genome(
                "calibration", genome, splits["train"], folder, supernet
            )
        logits, labels = _validate(run, network, params, genome)
    found = fit(logits, labels)
    if not 1.01 * _LEAST < found < 0.99 * _MOST:
        run.writer.say(
            f"  warning: no temperature from {_LEAST} to {_MOST} is the best for {len(labels)} "
            "validation images, so it is 1"
        )
        found = 1.0
    before, after = (round(cross_entropy(logits, labels, by), 5) for by in (1.0, found))
    run.writer.say(
        f"  calibration: the temperature {found:.3f} turns a mean cross-entropy of {before:.3f} on "
        f"{len(labels)} validation images into {after:.3f}"
    )
    values = {"temperature": found, "images": len(labels), "loss": after, "loss_before": before}
    write_json(path, {"genome": genome.tolist()} | values)
    return found


def _validate(run: Run, network: Network, params, genome) -> tuple[np.ndarray, np.ndarray]:
    """Computes logits `[n, classes]` of the validation images, and reads their labels `[n]`."""
    split = run.source.splits["val"]
    batch = run.eval_batch(split)
    evaluate = watch(evaluation.make_evaluator(network, run.mesh, with_logits=True))
    with contextlib.closing(run.batches(split, sharding.local_rows(run.mesh, batch))) as batches:
        rest = evaluation.Remaining(batches, batch, len(split))
        inputs = network, params, genome, rest, evaluate, run.mesh
        parts = [(logits, pairs[0]) for *_, pairs, logits in evaluation.score_stream(*inputs)]
    logits, labels = map(np.concatenate, zip(*parts, strict=True))
    return logits, labels


def fit(logits: np.ndarray, labels: np.ndarray) -> float:
    """Finds the temperature with the least mean cross-entropy.

    Args:
      logits: float `[n, classes]`.
      labels: int `[n]`.
    """
    found = scipy.optimize.minimize_scalar(
        lambda exponent: cross_entropy(logits, labels, math.exp(exponent)),
        bounds=(math.log(_LEAST), math.log(_MOST)),
        method="bounded",
    )
    return math.exp(found.x)


def cross_entropy(logits: np.ndarray, labels: np.ndarray, temperature: float) -> float:
    """The mean over images, in nats, of logits divided by a temperature; arguments as in `fit`."""
    chances = scipy.special.log_softmax(logits.astype(np.float64) / temperature, axis=1)
    return -float(chances[np.arange(len(labels)), labels].mean())
