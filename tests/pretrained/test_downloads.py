"""Downloads from a server on this machine that breaks off, changes its files and lies."""

import base64
import hashlib
import http.server
import io
import re
import tarfile
import threading
import time

import numpy as np
import pytest

from noah_jax.errors import UserError
from noah_jax.pretrained import BACKBONES, checksums, downloads
from noah_jax.runtime import backend

BODY = np.random.default_rng(0).bytes(300_000)


class _Handler(http.server.BaseHTTPRequestHandler):
    """Serves `server.body` at every path, in the way that the other attributes say."""

    def do_GET(self):
        server = self.server
        if self.path in server.redirects:
            location, headers = server.redirects[self.path]
            self.send_response(302)
            self._headers({"Location": location, "Content-Length": "0", **headers})
            return
        asked = self.headers.get("Range")
        server.asked.append(asked)
        body, start, headers = server.body, 0, dict(server.headers)
        if asked and server.ranges and self.headers.get("If-Range") == headers.get("ETag"):
            start = int(re.fullmatch(r"bytes=(\d+)-", asked)[1])
            headers["Content-Range"] = f"bytes {start}-{len(body) - 1}/{server.size or len(body)}"
        self.send_response(206 if start else 200)
        if server.states_length:
            headers["Content-Length"] = str(len(body) - start)
        self._headers(headers)
        end = start + server.lengths.pop(0) if server.lengths else len(body)
        self.wfile.write(body[start:end])
        self.wfile.flush()
        if end < len(body):
            server.hold.wait(timeout=5)

    def _headers(self, headers):
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()

    def log_message(self, *_):
        pass


@pytest.fixture
def server(tmp_path, monkeypatch):
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server.address = f"http://127.0.0.1:{server.server_port}/weights.npz"
    server.body, server.headers, server.ranges = BODY, {"ETag": '"1"'}, True
    server.asked = []  # the Range of each request
    server.lengths = []  # after how many bytes each of the first answers breaks off
    server.states_length = True
    server.size = None  # in place of the true one, with the second part of a file
    server.redirects = {}
    server.hold = threading.Event()  # until when a broken answer stays open
    server.hold.set()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    monkeypatch.setenv("NOAH_JAX_CACHE", str(tmp_path))
    monkeypatch.setattr(downloads, "_SCHEMES", ("http",))
    yield server
    server.hold.set()
    server.shutdown()
    thread.join()
    server.server_close()


WITH_NOTE = ["weights.npz", "weights.npz.sha256"]


def _names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_file_is_downloaded_once(server, tmp_path):
    path = downloads.fetch(server.address)
    assert path == tmp_path / "weights.npz" and path.read_bytes() == BODY
    assert downloads.fetch(server.address) == path
    assert server.asked == [None] and _names(tmp_path) == WITH_NOTE
    assert checksums.note(path).read_text().split() == [hashlib.sha256(BODY).hexdigest(), path.name]


@pytest.mark.parametrize("damage", ["file", "note", "both"])
@pytest.mark.parametrize("pinned", [False, True])
def test_a_copy_that_got_damaged_is_fetched_anew(server, tmp_path, damage, pinned):
    sha256 = hashlib.sha256(BODY).hexdigest() if pinned else ""
    path = downloads.fetch(server.address, sha256)
    for file in {"file": [path], "note": [checksums.note(path)]}.get(
        damage, [path, checksums.note(path)]
    ):
        data = bytearray(file.read_bytes())
        data[5] ^= 1
        file.unlink()  # so that it has another inode: the clock of the file system is coarse
        file.with_name("other").write_bytes(data)
        file.with_name("other").rename(file)
    assert downloads.fetch(server.address, sha256).read_bytes() == BODY
    assert server.asked == [None, None] and _names(tmp_path) == WITH_NOTE
    checksums.verify(path)
    server.body = b"other"
    assert downloads.fetch(server.address, sha256).read_bytes() == BODY


def test_a_copy_without_a_note_is_taken(server, tmp_path):
    """Of an earlier version, or put there by hand."""
    (tmp_path / "weights.npz").write_bytes(b"other")
    assert downloads.fetch(server.address).read_bytes() == b"other"
    assert server.asked == []


def test_a_truncated_answer_is_completed(server, tmp_path):
    server.lengths = [100_000, 50_000]
    assert downloads.fetch(server.address).read_bytes() == BODY
    assert server.asked == [None, "bytes=99999-", "bytes=149998-"]
    assert _names(tmp_path) == WITH_NOTE


def test_an_interrupted_download_goes_on_in_the_next_start(server, tmp_path):
    server.lengths = [100_000, 1, 1]
    with pytest.raises(UserError) as error:
        downloads.fetch(server.address)
    assert "broke off: 100000 of 300000 bytes" in str(error.value)
    assert f"put the file at {tmp_path / 'weights.npz'}" in str(error.value)
    assert not (tmp_path / "weights.npz").exists()
    assert downloads.fetch(server.address).read_bytes() == BODY
    assert server.asked[-1] == "bytes=99999-"


def test_a_killed_download_that_was_complete_needs_one_byte(server, tmp_path):
    (tmp_path / "weights.npz.part").write_bytes(BODY)
    (tmp_path / "weights.npz.etag").write_text('"1"')
    assert downloads.fetch(server.address).read_bytes() == BODY
    assert server.asked == ["bytes=299999-"]


@pytest.mark.parametrize("headers", [{"ETag": '"1"'}, {}, {"ETag": 'W/"1"'}])
def test_a_server_that_sends_no_parts(server, headers):
    server.lengths, server.ranges, server.headers = [100_000], False, headers
    assert downloads.fetch(server.address).read_bytes() == BODY
    assert len(server.asked) == 2


def test_a_server_that_states_nothing_is_not_believed(server, tmp_path):
    """The connection's end could be the file's, or not."""
    server.states_length = False
    with pytest.raises(UserError, match="states neither its length nor a checksum"):
        downloads.fetch(server.address)
    assert _names(tmp_path) == []
    path = downloads.fetch(server.address, hashlib.sha256(BODY).hexdigest())
    assert path.read_bytes() == BODY


def test_a_changed_file_is_not_appended_to_the_old(server):
    server.lengths = [100_000, 1, 1]
    with pytest.raises(UserError):
        downloads.fetch(server.address)
    server.body, server.headers = BODY[::-1], {"ETag": '"2"'}
    assert downloads.fetch(server.address).read_bytes() == BODY[::-1]
    assert server.asked[-1] == "bytes=99999-"


def test_a_silent_server_is_left_and_asked_again(server, monkeypatch):
    monkeypatch.setattr(downloads, "_TIMEOUT", 0.3)
    server.hold.clear()
    server.lengths = [100_000]
    assert downloads.fetch(server.address).read_bytes() == BODY
    assert server.asked == [None, "bytes=99999-"]


def _google(body):
    md5 = base64.b64encode(hashlib.md5(body, usedforsecurity=False).digest()).decode()
    return {"X-Goog-Hash": f"crc32c=AAAAAA==,md5={md5}"}


def test_a_damaged_part_is_fetched_anew(server, tmp_path):
    server.headers |= _google(BODY)
    (tmp_path / "weights.npz.part").write_bytes(bytes(100_000))
    (tmp_path / "weights.npz.etag").write_text('"1"')
    assert downloads.fetch(server.address).read_bytes() == BODY
    assert server.asked == ["bytes=99999-", None]


@pytest.mark.parametrize("stated", ["google", "hub", "pinned"])
def test_wrong_content_is_refused_after_a_second_try(server, tmp_path, stated):
    sha256, address = hashlib.sha256(BODY).hexdigest(), server.address
    if stated == "google":
        server.headers |= _google(BODY)
    if stated == "hub":
        address = address.replace("weights.npz", "timm/vit/resolve/main/model.safetensors")
        linked = {"X-Linked-ETag": f'"{sha256}"'}
        server.redirects["/timm/vit/resolve/main/model.safetensors"] = ("/blob", linked)
    pinned = sha256 if stated == "pinned" else ""
    server.body = b"\0" + BODY[1:]
    with pytest.raises(UserError, match="its (md5|sha256) is .*, expected "):
        downloads.fetch(address, pinned)
    assert server.asked == [None, None] and _names(tmp_path) == []
    server.body = BODY
    assert downloads.fetch(address, pinned).read_bytes() == BODY
    name = "vit.safetensors" if stated == "hub" else "weights.npz"
    assert _names(tmp_path) == [name, f"{name}.sha256"]


def test_a_cached_file_that_is_not_the_pinned_one_is_replaced(server, tmp_path):
    (tmp_path / "weights.npz").write_bytes(b"other")
    path = downloads.fetch(server.address, hashlib.sha256(BODY).hexdigest())
    assert path.read_bytes() == BODY


def test_a_server_without_end_is_left(server, tmp_path, monkeypatch):
    """Whatever it states; what it sent does not stay on the disk."""
    server.lengths, server.size = [100_000], 200_000
    with pytest.raises(UserError, match="the server sends more than 200000 bytes"):
        downloads.fetch(server.address)
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) < 100
    monkeypatch.setattr(downloads, "_LARGEST", 250_000)
    with pytest.raises(UserError, match="said to have 300000 bytes; 250000 are allowed"):
        downloads.fetch(server.address)
    server.states_length = False
    with pytest.raises(UserError, match="the server sends more than 250000 bytes"):
        downloads.fetch(server.address, hashlib.sha256(BODY).hexdigest())
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) < 100


def test_a_server_chooses_no_names(server, tmp_path):
    inner = tmp_path / "inner"
    inner.mkdir()
    server.headers["Content-Disposition"] = 'attachment; filename="../evil.npz"'
    server.redirects["/weights.npz"] = ("/..%2F..%2Fevil.npz?name=../evil.npz", {})
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NOAH_JAX_CACHE", str(inner))
        assert downloads.fetch(server.address) == inner / "weights.npz"
    assert _names(tmp_path) == ["inner"] and _names(inner) == WITH_NOTE


@pytest.mark.parametrize(
    "headers",
    [
        {"X-Goog-Hash": "md5=A"},
        {"Location": "https://[bad/"},
        {"Location": "/weights.npz"},
        {"Content-Length": "many"},
        {"Content-Range": "bytes 0-0/" + "9" * 5000},
    ],
)
def test_odd_answers_are_errors_with_a_message(server, headers):
    if "Location" in headers:
        server.redirects["/weights.npz"] = (headers["Location"], {})
    server.lengths = [100_000, 1, 1]
    server.states_length = "Content-Length" not in headers
    server.headers |= headers
    with pytest.raises(UserError, match="cannot fetch the weights weights.npz"):
        downloads.fetch(server.address)


def test_an_etag_that_is_no_header_is_not_sent(server, tmp_path):
    (tmp_path / "weights.npz.part").write_bytes(BODY[:100])
    (tmp_path / "weights.npz.etag").write_bytes(b'"1"\r\nHost: other\xff')
    assert downloads.fetch(server.address).read_bytes() == BODY
    assert server.asked == [None]


def test_no_source_package_is_run(tmp_path, monkeypatch):
    """pip would run its setup.py only to learn its name."""
    code = f"open({str(tmp_path / 'ran')!r}, 'w'); import setuptools; setuptools.setup(name='evil')"
    with tarfile.open(tmp_path / "evil-1.0.tar.gz", "w:gz") as archive:
        member = tarfile.TarInfo("evil-1.0/setup.py")
        member.size = len(code)
        archive.addfile(member, io.BytesIO(code.encode()))
    for name, value in {"NO_INDEX": "1", "FIND_LINKS": str(tmp_path)}.items():
        monkeypatch.setenv(f"PIP_{name}", value)
    monkeypatch.setenv("NOAH_JAX_CACHE", str(tmp_path / "cache"))
    with pytest.raises(UserError, match="No matching distribution found for evil==1.0"):
        downloads.fetch("pip:evil==1.0")
    assert not (tmp_path / "ran").exists()


def test_several_at_once_download_once(server):
    results = []
    threads = [
        threading.Thread(target=lambda: results.append(downloads.fetch(server.address)))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 4 and results[0].read_bytes() == BODY
    assert server.asked == [None]


def test_no_connection_fails_at_once_and_says_where_to_put_the_file(tmp_path, monkeypatch):
    monkeypatch.setenv("NOAH_JAX_CACHE", str(tmp_path))
    monkeypatch.setattr(downloads, "_SCHEMES", ("http",))
    start = time.perf_counter()
    with pytest.raises(UserError, match=re.escape(str(tmp_path / "ViT-B_16.npz"))):
        downloads.fetch("http://127.0.0.1:9/ViT-B_16.npz")
    assert time.perf_counter() - start < 5
    assert _names(tmp_path) == []


def test_only_https(server, monkeypatch):
    server.redirects["/weights.npz"] = ("ftp://127.0.0.1/weights.npz", {})
    with pytest.raises(UserError, match="ftp://127.0.0.1/weights.npz is not an https address"):
        downloads.fetch(server.address)
    monkeypatch.undo()
    with pytest.raises(UserError, match="http://.* is not an https address"):
        downloads.fetch("http://127.0.0.1:9/ViT-B_16.npz")


def test_every_backbone_has_a_file_of_its_own():
    sources = {backbone.source for backbone in BACKBONES.values()}
    paths = {downloads.local_path(source) for source in sources}
    assert len(paths) == len(BACKBONES)
    assert all(re.fullmatch(r"[\w-][\w.-]+", path.name, re.ASCII) for path in paths)
    assert {path.parent for path in paths} == {backend.cache_dir()}
    name = downloads.local_path(BACKBONES["clip_vit_b16"].source).name
    assert name == "vit_base_patch16_clip_224.openai.safetensors"
