"""Weight files cut short and damaged at random, in every format: `pytest -rP` shows the counts.

npz and wheels hold checksums of their own: what is read of a damaged one is what was saved. In
safetensors and ONNX a changed number can only show by a note of the file's sha256 beside it.
"""

import functools
import itertools

import numpy as np
import pytest

from noah_jax.errors import UserError
from noah_jax.pretrained import checksums
from tests.helpers import damage, fuzzing

_abstract = functools.cache(damage.abstract_backbone)


def _read_all(kind, pieces, folder, noted):
    """Reads every one of `pieces` as the file that the rest of it once was in."""
    suffix = damage.FORMATS[kind][0]
    whole = folder / f"whole{suffix}"
    damage.write(kind, damage.tensors(kind), whole)
    data, expected = whole.read_bytes(), damage.backbone(_abstract(), whole)
    checksums.write_note(whole)
    exact = noted or kind in damage.HAVE_CHECKSUMS
    numbers = itertools.count()

    def read(piece):
        path = folder / f"{next(numbers)}{suffix}"
        path.write_bytes(piece)
        if noted:
            checksums.note(path).write_bytes(checksums.note(whole).read_bytes())
        try:
            found = damage.backbone(_abstract(), path)
        except UserError as error:
            assert str(path) in str(error)
            raise
        finally:
            path.unlink()
        assert found.keys() == expected.keys()
        for name, array in found.items():
            assert array.shape == expected[name].shape and array.dtype == np.float32
            assert np.isfinite(array).all()
            if exact:
                np.testing.assert_array_equal(array, expected[name])
        if noted:
            assert piece == data  # as where two equal blocks were exchanged

    return fuzzing.try_all(pieces(data), read)


def _report(what, kind, noted, counts):
    note = ", checksum noted" if noted else ""
    print(f"{what}, {kind}{note}: {counts['refused']} refused, {counts['read']} read")


@pytest.mark.parametrize("noted", [False, True])
@pytest.mark.parametrize("kind", damage.FORMATS)
def test_truncated(kind, noted, tmp_path):
    """Cuts at every byte, or at every 50th with a note, which agrees only with the whole file."""
    lengths = []

    def pieces(data):
        lengths.extend(range(0, len(data), 50 if noted else 1))
        return (data[:length] for length in lengths)

    counts = _read_all(kind, pieces, tmp_path, noted)
    _report("truncated", kind, noted, counts)
    assert counts == {"refused": len(lengths)}


@pytest.mark.parametrize("noted", [False, True])
@pytest.mark.parametrize("kind", damage.FORMATS)
def test_corrupted(kind, noted, tmp_path):
    def pieces(data):
        rng = np.random.default_rng(1)
        return (fuzzing.corrupt(data, rng) for _ in range(200))

    counts = _read_all(kind, pieces, tmp_path, noted)
    _report("corrupted", kind, noted, counts)
    assert counts["refused"] > (150 if noted else 40)
