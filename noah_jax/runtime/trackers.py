"""TensorBoard and Weights & Biases, which show the contents of `metrics.jsonl` during a run.

`--config.trackers=tensorboard+wandb`. Their packages are loaded only when asked for.
"""

import hashlib
import importlib.util
import pathlib
from collections.abc import Mapping
from typing import Any

from noah_jax.errors import UserError

_PACKAGES = {"tensorboard": ("tensorboard", "tensorflow"), "wandb": ("wandb",)}
TRACKERS = (*_PACKAGES,)
_PLACE = ("stage", "test_set")
_COUNTS = ("step", "generation", "epoch")  # the first of these keys in a line is its time axis


def require_packages(names: str) -> None:
    """Raises UserError if the package of one of `names`, joined by +, is not installed."""
    for name in filter(None, names.split("+")):
        if not all(map(importlib.util.find_spec, _PACKAGES[name])):
            raise UserError(f"trackers={name} needs: pip install {' '.join(_PACKAGES[name])}")


def open_trackers(names: str, workdir: pathlib.Path, config: Mapping[str, Any]) -> list:
    """Opens those of `names`, joined by +; each has `log(values)` and `close()`."""
    kinds = {"tensorboard": _TensorBoard, "wandb": _WandB}
    return [kinds[name](workdir, config) for name in filter(None, names.split("+"))]


def _scalars(values: Mapping[str, Any]) -> tuple[int, dict[str, float]]:
    """The step that the values belong to, and the numbers among them, as `<stage>/<name>`.

    A further test set stands between the two; that of the task is called `test`, as the stage is.
    """
    when = next((values[name] for name in _COUNTS if name in values), 0)
    stage = "/".join(dict.fromkeys(str(values[key]) for key in _PLACE if key in values))
    return when, {
        f"{stage}/{name}": value
        for name, value in values.items()
        if isinstance(value, int | float) and name not in ("time", *_COUNTS)
    }


class _TensorBoard:
    def __init__(self, workdir: pathlib.Path, config: Mapping[str, Any]):
        from clu import metric_writers  # which loads TensorFlow

        self._writer = metric_writers.SummaryWriter(str(workdir / "tensorboard"))

    def log(self, values: Mapping[str, Any]) -> None:
        self._writer.write_scalars(*_scalars(values))
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()


class _WandB:
    """A run in the project noah_jax, or $WANDB_PROJECT; one that goes on is the same there.

    A sweep's agent chooses the project and the run's id.
    """

    def __init__(self, workdir: pathlib.Path, config: Mapping[str, Any]):
        import wandb

        asked = wandb.setup().settings  # by the environment, among others
        own_id = hashlib.sha256(str(workdir.resolve()).encode()).hexdigest()[:16]
        self._run = wandb.init(
            project=None if asked.project else "noah_jax",
            name=workdir.name,
            id=None if asked.run_id else own_id,
            resume="allow",
            dir=workdir,
            config=dict(config),
        )

    def log(self, values: Mapping[str, Any]) -> None:
        when, scalars = _scalars(values)
        self._run.log(scalars | {f"{values['stage']}/step": when})

    def close(self) -> None:
        self._run.finish()
