"""The supernet (NOAH, section 3.2): which genomes train it, and how it evaluates others.

The original trains one random genome a step. Here several can share a batch, in equal parts.
Sampling "random" is the paper's: each size is as likely as the others. A subnet of one kind of
module then hardly ever trains, and is ranked too low. Sampling "broad" draws as the first
generation of the search does, so that the search evaluates genomes of the kind that was trained.

`search.folds` cuts the training and validation images into parts. Each part has a supernet that is
trained on the other parts, so that together they evaluate a genome on all images. A subnet that
inherits begins with the mean of their weights, which started alike (as in model soups, arXiv
2203.05482).
"""

import pathlib
from collections.abc import Callable

import jax
import numpy as np
from flax import nnx

from noah_jax.config.settings import SupernetSchedule
from noah_jax.data import loader
from noah_jax.errors import UserError
from noah_jax.runtime import workdir
from noah_jax.search import evolution
from noah_jax.space import SearchSpace
from noah_jax.training import evaluation
from noah_jax.training.run import Run


def genomes_of_step(
    space: SearchSpace, settings: SupernetSchedule, seed: int
) -> Callable[[int], np.ndarray]:
    """Maps a step to the genomes that share its batch.

    Returns:
      A pure function: step → int32 `[genomes_per_step, blocks, columns]`.
    """
    sample = space.sample_broad if settings.sampling == "broad" else space.sample

    def genomes(step: int) -> np.ndarray:
        return sample(np.random.default_rng([seed, step]), settings.genomes_per_step)

    return genomes


def train(run: Run) -> list[tuple]:
    """Trains the supernet of each fold, or reads it if it was trained before.

    Returns:
      For each fold the network and its params.

    Raises:
      UserError: the training diverges.
      Preempted: a signal came; a checkpoint is saved.
    """
    config, trained = run.config, []
    network = run.network(run.space.max_sizes, "supernet init")
    home, folds = run.workdir / "supernet", _folds(run)
    if config.supernet_from:
        workdir.copy_folder(pathlib.Path(config.supernet_from).expanduser() / "supernet", home)
    if len(folds) > 1:
        workdir.make_folder(home)
    for fold, (train_split, _) in enumerate(folds):
        if len(folds) > 1:
            run.writer.say(f"  supernet: fold {fold + 1} of {len(folds)}")
        params = run.fit(
            "supernet",
            network,
            genomes_of_step(run.space, config.supernet, run.seed("genomes", fold)),
            train_split,
            run.checkpoints(home / f"fold_{fold}" if len(folds) > 1 else home),
            part=fold,
        )
        trained.append((network, params))
    return trained


def evaluator(
    run: Run, trained: list[tuple], split: loader.Split | None = None
) -> evolution.Evaluate:
    """Makes the function that evaluates genomes with the supernets' weights.

    Args:
      trained: networks and params, from `train`.
      split: the images; None = for each supernet those that it was not trained on.

    Returns:
      Genomes `[n, blocks, columns]` → accuracy and mean loss over all folds, of the first few, of
      the next few, ….
    """
    splits = [held_out if split is None else split for _, held_out in _folds(run)]
    images = np.array([len(split) for split in splits])
    evaluators = [
        evaluation.population_evaluator(
            network, params, run.batches(split), run.config.search, run.mesh
        )
        for (network, params), split in zip(trained, splits, strict=True)
    ]

    def evaluate(genomes):
        for results in zip(*(each(genomes) for each in evaluators), strict=True):
            values = np.array(results)  # [folds, 2, n]
            yield tuple((images[:, None, None] * values).sum(axis=0) / images.sum())

    return evaluate


def average(trained: list[tuple]) -> nnx.State:
    """Averages the supernets' params over all folds."""
    return jax.tree.map(lambda *x: sum(x) / len(x), *(params for _, params in trained))


def _folds(run: Run) -> list[tuple[loader.Split, loader.Split]]:
    """For each fold the images that train its supernet, and those that it evaluates genomes on."""
    folds, splits = run.config.search.folds, run.source.splits
    if folds == 1:
        return [(splits["train"], splits["val"])]
    everything = splits["trainval"]
    if len(everything) < folds:
        raise UserError(f"search.folds={folds}, but there are only {len(everything)} images")
    order = np.random.default_rng(run.seed("folds")).permutation(len(everything))
    parts = [np.sort(part) for part in np.array_split(order, folds)]
    return [
        (
            loader.subset(everything, np.setdiff1d(order, part)),
            loader.subset(everything, part),
        )
        for part in parts
    ]
