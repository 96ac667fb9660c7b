"""Notes of a file's sha256 beside it, as `sha256sum` writes and reads them."""

import hashlib
import re
import shutil
import subprocess

import pytest

from noah_jax import pretrained
from noah_jax.errors import UserError
from noah_jax.pretrained import checksums, loading


def test_a_note_is_that_of_sha256sum(tmp_path):
    path = tmp_path / "w.npz"
    path.write_bytes(b"weights")
    checksums.write_note(path)
    assert checksums.sha256(path) == hashlib.sha256(b"weights").hexdigest()
    assert checksums.note(path).read_text() == f"{checksums.sha256(path)}  w.npz\n"
    if shutil.which("sha256sum"):
        subprocess.run(["sha256sum", "--check", "w.npz.sha256"], cwd=tmp_path, check=True)


@pytest.mark.parametrize("text", ["{}\n", "{}", "{} *w.npz\r\n", "SHA256 (w.npz) = {}\n"])
def test_notes_as_others_write_them(text, tmp_path):
    path = tmp_path / "w.npz"
    path.write_bytes(b"weights")
    for digest in (checksums.sha256(path), checksums.sha256(path).upper()):
        checksums.note(path).write_text(text.format(digest))
        checksums.verify(path)
    path.write_bytes(b"Weights")
    with pytest.raises(UserError, match="w.npz is damaged"):
        checksums.verify(path)


@pytest.mark.parametrize("note", [b"", b"\xff" * 99, b"a" * 63, b"a" * 64 + b" " + b"b" * 64])
def test_a_note_without_a_checksum_is_told(note, tmp_path):
    path = tmp_path / "w.npz"
    path.write_bytes(b"weights")
    checksums.note(path).write_bytes(note)
    with pytest.raises(UserError, match="w.npz.sha256 .* the note says none"):
        checksums.verify(path)


def test_a_file_of_the_users_own_is_checked(ti16, tmp_path):
    """With --config.weights; the file is read once for it and for the run's fingerprint."""
    path = tmp_path / "w.safetensors"
    data = ti16.read_bytes()
    path.write_bytes(data)
    checksums.write_note(path)
    digest = hashlib.sha256(data).hexdigest()
    checksums._sha256.cache_clear()
    for _ in range(2):
        loading.read(str(path))
        assert pretrained.fingerprint(str(path)) == digest
    assert checksums._sha256.cache_info().misses == 1
    flipped = bytearray(data)
    flipped[-1] ^= 1
    path.with_name("other").write_bytes(flipped)
    path.with_name("other").replace(path)
    other = hashlib.sha256(flipped).hexdigest()
    assert pretrained.fingerprint(path) == other
    message = f"{path} is damaged.*{other}.*the note says {digest}.*Delete both"
    with pytest.raises(UserError, match=message.replace(str(path), re.escape(str(path)))):
        loading.read(str(path))


def test_no_fingerprint_without_a_file(tmp_path):
    with pytest.raises(UserError, match="no weights at .*no_such.npz"):
        pretrained.fingerprint(str(tmp_path / "no_such.npz"))
