"""The test stage: stopped and gone on, it leaves what one start leaves."""

import hashlib
import signal
import types

import jax
import numpy as np
import PIL.Image
import pytest

from noah_jax.data import Source, Split
from noah_jax.runtime import preemption, sharding
from noah_jax.runtime.writer import Writer
from noah_jax.training import outcome
from noah_jax.training.run import Run
from tests.helpers.models import TINY, make_network

PIXELS = np.random.default_rng(0).integers(0, 256, (35, 16, 16, 3)).astype(np.uint8)


def _run(folder):
    folder.mkdir(exist_ok=True)
    config = types.SimpleNamespace(eval_batch_size=10, image_size=16, center_crop=False)

    def split(number, classes=()):
        def read(index):
            return PIL.Image.fromarray(PIXELS[index]), index % TINY.num_classes

        return Split([f"image {i}" for i in range(number)], read, classes)

    source = Source({"test": split(35)}, TINY.num_classes, "png", {"other": split(12, (0, 1))})
    writer, mesh = Writer(folder), sharding.make_mesh()
    return Run(config, folder, source, None, None, None, mesh, writer, {})


def test_stopped_inside_the_test_it_goes_on(tmp_path, tiny_vit, random_genome, monkeypatch):
    network, genome = make_network(tiny_vit), random_genome(1)
    whole = outcome._test(_run(tmp_path / "whole"), network, network.params, genome)
    tests, answers = whole
    for name, images in (("test", 35), ("other", 12)):
        labels, predictions, confidences = map(np.array, answers[name])
        assert labels.tolist() == [i % TINY.num_classes for i in range(images)]
        assert tests[name]["accuracy"] == (labels == predictions).mean()
        # A prediction is at least as probable as each of the other classes that are shown.
        assert ((confidences >= (1 / 2 if name == "other" else 1 / 5)) & (confidences <= 1)).all()
    assert set(answers["other"][1]) <= {0, 1}
    model = jax.jit(tiny_vit)((PIXELS / 127.5 - 1).astype(np.float32), genome)
    shares = np.asarray(jax.nn.softmax(model).max(axis=1))
    np.testing.assert_allclose(answers["test"][2], shares, atol=1e-4)

    monkeypatch.setattr(preemption._signals, "first", signal.SIGTERM)
    for done in (10, 20, 30, 35):
        with pytest.raises(preemption.Preempted) as stopped:
            outcome._test(_run(tmp_path / "parts"), network, network.params, genome)
        assert stopped.value.saved == f"test is saved after {done} of 35 images"
    monkeypatch.setattr(preemption._signals, "first", None)
    assert outcome._test(_run(tmp_path / "parts"), network, network.params, genome) == whole


def test_what_an_earlier_version_left_is_begun_anew(tmp_path, tiny_vit, random_genome):
    network, genome, run = make_network(tiny_vit), random_genome(1), _run(tmp_path)
    digest = hashlib.sha256(genome.tobytes())  # as it was before confidences were kept
    for leaf in jax.tree.leaves(network.params):
        digest.update(np.asarray(leaf).tobytes())
    sets = {"test": [20, [20.0, 20.0, 0.0], [[0] * 20, [0] * 20]]}
    old = {"subnet": digest.hexdigest(), "sets": sets}
    outcome.workdir.write_json(tmp_path / "test.json", old)
    tests, answers = outcome._test(run, network, network.params, genome)
    assert tests["test"]["accuracy"] == np.equal(*answers["test"][:2]).mean() < 0.9
    assert [len(values) for values in answers["test"]] == [35, 35, 35]
    two = outcome._test(run, network, network.params, genome, temperature=2.0)[1]["test"]
    assert two[:2] == answers["test"][:2] and two[3] == answers["test"][2]  # not those saved at 1
    assert np.mean(two[2]) < np.mean(two[3])
