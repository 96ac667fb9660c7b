"""Opens a run: checks its inputs, and compares them with those of its workdir."""

import dataclasses
import functools
import pathlib
from typing import Any

import jax
from flax import nnx

from noah_jax import data, pretrained
from noah_jax.config import derived
from noah_jax.config.differences import PATHS, differences, supernet_differences
from noah_jax.config.settings import TUNED, Config
from noah_jax.data import loader
from noah_jax.data.shots import Shots
from noah_jax.data.tasks import TASKS
from noah_jax.errors import UserError, listed
from noah_jax.runtime import processes, sharding, trackers
from noah_jax.runtime.workdir import read_json
from noah_jax.runtime.writer import Writer
from noah_jax.space import files
from noah_jax.training import step as step_lib
from noah_jax.training.run import Run
from noah_jax.vit import ViTConfig, execution
from noah_jax.vit.attention import can_fuse

# The outputs of the stages in a workdir.
_OUTPUTS = (
    *("supernet", "tuning", "search", "best.json", "retrain"),
    *("calibration", "calibration.json", "test.json", "predictions.json"),
    *("subnet.json", "subnet.safetensors", "result.json"),
)


@functools.lru_cache(maxsize=1)
def _backbone(vit: ViTConfig, weights: str, fingerprint: str) -> tuple[nnx.State, tuple[str, ...]]:
    """Reads the frozen weights, which the runs of a process share while their file is unchanged."""
    return pretrained.backbone_and_notes(vit, weights)


def open_run(config: Config, workdir: pathlib.Path, source: loader.Source | None = None) -> Run:
    """Checks all inputs of a run, and writes nothing.

    Args:
      source: the images; None = those of `config.task`.

    Raises:
      UserError: an input is wrong, or the workdir belongs to a run with other settings or inputs.
    """
    space = derived.search_space(config)
    chosen: dict[str, str] = {}
    if config.genome:
        chosen["genome"] = files.read_genome(config.genome, space.blocks).tobytes().hex()
    if source is None:
        shots = None
        if config.shots:
            shots = Shots(config.shots, config.seed, config.lists, config.whole_val)
        source = data.open_source(
            *(config.task, config.data_dir, config.split_seed, shots, config.label_column)
        )
    config, counts = _resolve(config), {name: len(split) for name, split in source.splits.items()}
    if config.has_supernet:
        step_lib.steps_per_epoch("supernet", *derived.schedule(config, counts, "supernet"))
    others = [*["tuning"] * (config.method in TUNED), *["calibration"] * config.calibrate]
    for stage in ("retrain", *others):
        step_lib.steps_per_epoch(stage, *derived.schedule(config, counts, stage))
    vit = derived.vit(config, source.num_classes, config.dtype)
    weights = config.weights or config.backbone
    inputs = {"images": source.fingerprint, "weights": pretrained.fingerprint(weights)} | chosen
    notes: tuple[str, ...] = ()
    if config.weights:
        vit, notes, beside = _believed(vit, config)
        inputs |= beside
    one = dataclasses.replace(vit, num_classes=1)  # so that runs of several tasks share it
    backbone, more = _backbone(one, weights, inputs["weights"])
    trackers.require_packages(config.trackers)
    mesh, writer = sharding.make_mesh(config.weight_shards), Writer(workdir)
    how = execution.on(jax.default_backend())
    if config.attention == "auto" and mesh.size == 1:  # not yet seen to run on several
        fused = can_fuse(vit.heads, vit.width // vit.heads, vit.dtype)
        how = dataclasses.replace(how, fused_attention=fused)
    vit = dataclasses.replace(vit, execution=how)
    if config.supernet_from:
        _require_supernet(config, inputs)
    processes.require_same(dataclasses.asdict(config) | {"counts": counts} | inputs)
    refuse_other_config(config, workdir, inputs)
    notes = (*notes, *more)
    return Run(config, workdir, source, space, vit, backbone, mesh, writer, inputs, notes)


def _believed(vit: ViTConfig, config: Config) -> tuple[ViTConfig, tuple[str, ...], dict[str, str]]:
    """Adapts a ViT to the config beside its weights.

    Returns:
      The ViT, notes for the user, and what has changed as an entry for the run's inputs.
    """
    new, notes = pretrained.believed(vit, config.weights, config.backbone, config.heads)
    changed = [f"{key}={x}" for key, x in vars(new).items() if x != getattr(vit, key)]
    return new, notes, {"shape": ", ".join(changed)} if changed else {}


def _resolve(config: Config) -> Config:
    """Replaces the dtype "auto" by what it means here, so that no run goes on in another."""
    auto = "float32" if jax.default_backend() == "cpu" else "bfloat16"
    return dataclasses.replace(config, dtype=auto) if config.dtype == "auto" else config


def _require_supernet(config: Config, inputs: dict[str, str]) -> None:
    """Raises UserError unless the supernet of `supernet_from` is the one this run would train."""
    folder = pathlib.Path(config.supernet_from).expanduser()
    saved = read_json(folder / "config.json")
    if saved is None or not processes.from_main((folder / "supernet").is_dir):
        raise UserError(f"supernet_from={folder}: it is no workdir with a supernet")
    old = saved.pop("inputs", {})
    _forget_name(saved, config)
    if different := supernet_differences(saved, config) + _changed(old, inputs):
        raise UserError(
            f"supernet_from={folder}: its supernet is not the one of this run:{listed(different)}"
        )


# --- A workdir belongs to one run ----------------------------------------------------------------


def refuse_other_config(
    config: Config, workdir: pathlib.Path, inputs: dict[str, str] | None = None
) -> None:
    """Raises UserError if the workdir belongs to a run with other settings, or other `inputs`."""
    saved = _saved(workdir)
    if saved is None:
        return
    old = saved.pop("inputs", {})
    _forget_name(saved, config)
    if different := differences(saved, _resolve(config)) + _changed(old, inputs or {}):
        raise UserError(
            f"{workdir} belongs to a run with other settings:{listed(different)}\n"
            "Start anew beside it with --fresh, or choose another with --workdir=DIR"
        )


def moved(config: Config, workdir: pathlib.Path) -> bool:
    """Tells whether an input has another path than at the last start of the workdir's run."""
    saved = _saved(workdir)
    paths = ("task", *PATHS)
    return saved is not None and any(saved.get(key) != getattr(config, key) for key in paths)


def _forget_name(saved: dict[str, Any], config: Config) -> None:
    """Makes the tasks equal if both are names of one's own folders, which may be renamed."""
    if not {saved.get("task"), config.task} & {*TASKS, "digits"}:
        saved["task"] = config.task


def _changed(old: dict[str, str], inputs: dict[str, str]) -> list[str]:
    """A line for each input whose contents differ from those that the workdir's run had."""
    what = {"images": "the images", "weights": "the file of weights", "genome": "the genome"}
    what["shape"] = "the config beside the weights"
    return [
        f"{text}: not the same as there"
        for key, text in what.items()
        if inputs and old.get(key) != inputs.get(key)
    ]


def _saved(workdir: pathlib.Path) -> dict[str, Any] | None:
    """The settings of the run that the workdir belongs to; None if there is none."""
    try:
        saved = read_json(workdir / "config.json")
        outputs = (workdir / name for name in _OUTPUTS)
        if saved is None and processes.from_main(lambda: any(path.exists() for path in outputs)):
            raise UserError(f"{workdir / 'config.json'} is missing")
    except UserError as error:
        raise UserError(
            f"{error}, so it cannot be known which run {workdir} belongs to: start anew beside it "
            "with --fresh"
        ) from error
    return saved
