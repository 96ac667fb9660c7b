"""The predictions that a test keeps, compared with counting by hand."""

import base64
import io

import numpy as np
import PIL.Image
import pytest

from noah_jax.data import Source, Split
from noah_jax.errors import UserError
from noah_jax.training import predictions

N, CLASSES = 200, 7
RNG = np.random.default_rng(0)
LABELS = RNG.integers(0, CLASSES - 1, N)  # the last class is never shown
PREDICTIONS = np.where(RNG.random(N) < 0.6, LABELS, RNG.integers(0, CLASSES, N))
RIGHT = int((LABELS == PREDICTIONS).sum())
RESULT = {"test_accuracy": RIGHT / N, "images": {"test": N}}


def _kept(folder, names=("a", "b", "c")):
    """Images twice as wide as high, each of a grey that tells which it is."""

    def read(index):
        return PIL.Image.new("L", (40, 20), int(index)), int(LABELS[index])

    split = Split([f"image {i}" for i in range(N)], read)
    source = Source({"test": split}, CLASSES, "png", class_names=names)
    predictions.keep(folder, source, {"test": [LABELS.tolist(), PREDICTIONS.tolist()]})


def test_what_was_answered_comes_back(tmp_path):
    _kept(tmp_path)
    found = predictions.read(tmp_path, RESULT)
    assert found.labels.tolist() == LABELS.tolist()
    assert found.predicted.tolist() == PREDICTIONS.tolist()
    assert (found.name(1), found.name(5)) == ("b", "class 5")
    for label, images, right in found.by_class():
        assert images == sum(1 for x in LABELS if x == label) > 0
        assert right == sum(1 for x, y in zip(LABELS, PREDICTIONS, strict=True) if x == y == label)
    assert [row[0] for row in found.by_class()] == list(range(CLASSES - 1))
    pairs = found.confusions()
    assert sum(times for *_, times in pairs) == N - RIGHT
    assert [times for *_, times in pairs] == sorted((n for *_, n in pairs), reverse=True)
    label, other, times = pairs[0]
    assert label != other and times == ((LABELS == label) & (PREDICTIONS == other)).sum()


def test_examples_are_right_ones_and_wrong_ones_as_they_look(tmp_path):
    _kept(tmp_path)
    examples = predictions.read(tmp_path, RESULT).examples
    rows = [example["index"] for example in examples]
    right = [row for row in rows if LABELS[row] == PREDICTIONS[row]]
    assert len(right) == 8 and len(set(rows)) == 16
    assert min(right) == np.flatnonzero(LABELS == PREDICTIONS)[0]
    assert max(right) == np.flatnonzero(LABELS == PREDICTIONS)[-1]
    for row, example in zip(rows, examples, strict=True):
        assert example["name"] == f"image {row}"
        with PIL.Image.open(io.BytesIO(base64.b64decode(example["jpeg"]))) as image:
            assert image.size == (144, 72) and abs(np.asarray(image).mean() - row) < 2


def test_what_cannot_be_shown_is_told(tmp_path):
    with pytest.raises(UserError, match="not there, as in workdirs of earlier versions: delete"):
        predictions.read(tmp_path, RESULT)
    _kept(tmp_path)
    with pytest.raises(UserError, match="of another result: delete"):
        predictions.read(tmp_path, RESULT | {"test_accuracy": (RIGHT - 1) / N})
    path = tmp_path / predictions.NAME
    path.write_text(path.read_text().replace("image 1", "image 2", 1))
    with pytest.raises(UserError, match="does not have its checksum: delete"):
        predictions.read(tmp_path, RESULT)
