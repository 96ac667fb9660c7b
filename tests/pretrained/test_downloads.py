"""Downloads from a server on this machine that breaks off, changes its files and lies."""

import base64
import errno
import fcntl
import hashlib
import http.server
import io
import os
import pathlib
import re
import shlex
import shutil
import subprocess
import sys
import tarfile
import threading
import time
import types

import numpy as np
import pooch
import pytest
from huggingface_hub import constants, file_download

from noah_jax.errors import UserError
from noah_jax.pretrained import BACKBONES, checksums, downloads
from noah_jax.pretrained.backbones import HubFile, WebFile, Wheel
from noah_jax.runtime import backend

BODY = np.random.default_rng(0).bytes(300_000)
SHA256 = hashlib.sha256(BODY).hexdigest()
COMMIT = "0123456789" * 4
VIT = HubFile("timm/vit", revision="main")
NAMES = ["weights.npz", "weights.npz.lock", "weights.npz.sha256"]


class _Handler(http.server.BaseHTTPRequestHandler):
    """Serves `server.body` at every path, in the way that the other attributes say.

    What is under /…/resolve/ redirects to it as the Hugging Face hub does.
    """

    def do_HEAD(self):
        self.server.heads.append(self.path)
        if not self._elsewhere():
            self.send_response(200)
            self._headers(self.server.headers | self._length(len(self.server.body)))

    def do_GET(self):
        server = self.server
        if self._elsewhere():
            return
        asked = self.headers.get("Range")
        server.asked.append(asked)
        body, start, headers = server.body, 0, dict(server.headers)
        if part := asked and server.ranges:
            start = int(re.fullmatch(r"bytes=(\d+)-", asked)[1])
            headers = {"Content-Range": f"bytes {start}-{len(body) - 1}/{len(body)}"} | headers
        self.send_response(416 if start >= len(body) else 206 if part else 200)
        body = body[start:]
        self._headers(headers | self._length(len(body)))
        end = server.lengths.pop(0) if server.lengths else len(body)
        self.wfile.write(body[:end])
        self.wfile.flush()
        if end < len(body):
            server.hold.wait(timeout=5)

    def _elsewhere(self) -> bool:
        """Sends an error or a redirect, if the answer is one, and tells whether it was."""
        server = self.server
        if self.path in server.redirects:
            self.send_response(302)
            self._headers({"Location": server.redirects[self.path], "Content-Length": "0"})
        elif self.path.startswith("/api/"):  # huggingface_hub asks what agents there are
            self.send_response(404)
            self._headers({"Content-Length": "0"})
        elif "/resolve/" not in self.path:
            return False
        elif server.token and self.headers.get("Authorization") != f"Bearer {server.token}":
            self.send_response(401)
            self._headers({"X-Error-Code": "GatedRepo", "Content-Length": "0"})
        else:
            server.waiting.wait(timeout=5)
            self.send_response(302)
            self._headers(
                {
                    "Location": f"http://localhost:{server.server_port}/blob",  # another host
                    "X-Repo-Commit": COMMIT,
                    "X-Linked-ETag": f'"{server.linked}"',
                    "X-Linked-Size": str(len(server.body)),
                    "Content-Length": "0",
                }
            )
        return True

    def _length(self, size):
        return {"Content-Length": str(size)} if self.server.states_length else {}

    def _headers(self, headers):
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()

    def log_message(self, *_):
        pass


def _google(body):
    """Google's storage states a checksum that requests joins from two headers."""
    md5 = base64.b64encode(hashlib.md5(body, usedforsecurity=False).digest()).decode()
    return {"X-Goog-Hash": f"crc32c=AAAAAA==,md5={md5}"}


@pytest.fixture
def server(tmp_path, monkeypatch):
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server.address = f"http://127.0.0.1:{server.server_port}"
    server.file = WebFile(f"{server.address}/weights.npz")
    server.body, server.headers, server.ranges = BODY, _google(BODY), True
    server.heads, server.asked = [], []  # paths, and the Range of each download
    server.lengths = []  # after how many bytes each of the first answers breaks off
    server.states_length, server.redirects = True, {}
    server.linked, server.token = SHA256, ""  # what the hub says of its file, and asks for
    server.hold, server.waiting = threading.Event(), threading.Event()
    server.hold.set(), server.waiting.set()  # until when a broken answer and the hub stay silent
    monkeypatch.setenv("NOAH_JAX_CACHE", str(tmp_path))
    _use_hub(monkeypatch, server.address, tmp_path)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.hold.set(), server.waiting.set()
    server.shutdown()
    thread.join()
    server.server_close()


def _use_hub(monkeypatch, address, folder):
    """Acts like HF_ENDPOINT and HF_HOME, which are read at import; takes out the pauses."""
    template = address + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "ENDPOINT", address)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(folder / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 1 << 16)  # the rest of one is lost
    monkeypatch.setenv("HF_TOKEN", "")
    pause = types.SimpleNamespace(sleep=lambda _: None, time=time.time)
    monkeypatch.setattr(pooch.core, "time", pause)
    monkeypatch.setattr(file_download, "time", pause)


def _names(folder):
    return sorted(path.name for path in folder.iterdir())


def _flip(path):
    data = bytearray(path.read_bytes())
    data[5] ^= 1
    path.unlink()  # so that it has another inode: the clock of the file system is coarse
    path.with_name("other").write_bytes(data)
    path.with_name("other").rename(path)


@pytest.mark.parametrize("source", ["web", "hub"])
def test_a_file_is_downloaded_once(server, tmp_path, source, capfd):
    """Afterwards nobody is asked, whatever there is by now."""
    file = server.file if source == "web" else VIT
    path = downloads.fetch(file)
    assert path.read_bytes() == BODY and len(server.asked) == 1
    assert capfd.readouterr().out.startswith(f"fetching {file.filename} ")
    heads, server.body = len(server.heads), b"other"
    assert downloads.fetch(file) == path and path.read_bytes() == BODY
    assert len(server.asked) == 1 and len(server.heads) == heads
    assert capfd.readouterr() == ("", "")
    if source == "web":
        assert path == tmp_path / "weights.npz" and _names(tmp_path) == NAMES
        assert checksums.note(path).read_text().split() == [SHA256, path.name]
    else:
        assert path.is_relative_to(tmp_path / "hub/models--timm--vit/snapshots" / COMMIT)
        assert set(server.heads) == {"/timm/vit/resolve/main/model.safetensors"}


@pytest.mark.parametrize("source", ["web", "hub"])
def test_a_bar_on_a_terminal(server, source, monkeypatch, capfd):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    downloads.fetch(server.file if source == "web" else VIT)
    assert re.search(r"100%.*300k/300k", capfd.readouterr().err)


@pytest.mark.parametrize("damage", ["file", "note", "both"])
@pytest.mark.parametrize("pinned", [False, True])
def test_a_copy_that_got_damaged_is_fetched_anew(server, tmp_path, damage, pinned):
    file = WebFile(server.file.address, SHA256 if pinned else "")
    path = downloads.fetch(file)
    if damage != "note":
        _flip(path)
    if damage != "file":
        _flip(checksums.note(path))
    assert downloads.fetch(file).read_bytes() == BODY
    assert len(server.asked) == 2 and _names(tmp_path) == NAMES
    checksums.verify(path)


def test_a_copy_in_the_hubs_cache_that_got_damaged_is_fetched_anew(server, capfd):
    path = downloads.fetch(VIT)
    _flip(path.resolve())
    assert downloads.fetch(VIT) == path and path.read_bytes() == BODY
    assert len(server.asked) == 2
    assert "again: what is there is not that file" in capfd.readouterr().out


@pytest.mark.parametrize("source", ["web", "hub"])
def test_a_download_that_breaks_off_goes_on(server, source):
    server.lengths = [200_000, 70_000]
    assert downloads.fetch(server.file if source == "web" else VIT).read_bytes() == BODY
    starts = [int(asked[6:-1]) if asked else 0 for asked in server.asked]
    assert len(starts) == 3 and starts[0] == 0 < starts[1] < starts[2]


def test_an_interrupted_download_goes_on_in_the_next_start(server, tmp_path):
    server.lengths = [200_000, 1, 1]
    with pytest.raises(UserError) as error:
        downloads.fetch(server.file)
    assert f"Fetch them elsewhere ({server.file.address})" in str(error.value)
    assert f"put the file at {tmp_path / 'weights.npz'}" in str(error.value)
    assert not (tmp_path / "weights.npz").exists()
    assert downloads.fetch(server.file).read_bytes() == BODY
    assert int(server.asked[-1][6:-1]) > 100_000


def test_a_killed_download_that_was_complete_needs_one_byte(server, tmp_path):
    (tmp_path / "weights.npz.part").write_bytes(BODY)
    assert downloads.fetch(server.file).read_bytes() == BODY
    assert server.asked == ["bytes=299999-"]


def test_a_server_that_sends_no_parts(server, tmp_path):
    server.ranges = False
    (tmp_path / "weights.npz.part").write_bytes(BODY[:100_000])
    assert downloads.fetch(server.file).read_bytes() == BODY
    assert len(server.asked) == 1


def test_a_file_without_a_checksum_must_have_its_length(server, tmp_path):
    """The connection's end could be the file's, or not; and an older part is not gone on with."""
    server.headers = {}
    (tmp_path / "weights.npz.part").write_bytes(BODY[::-1][:100_000])
    server.lengths = [200_000]
    assert downloads.fetch(server.file).read_bytes() == BODY
    assert server.asked[0] == "bytes=0-" and len(server.asked) == 2
    (tmp_path / "weights.npz").unlink()
    server.states_length = False
    with pytest.raises(UserError, match="states neither its length nor a checksum"):
        downloads.fetch(server.file)
    path = downloads.fetch(WebFile(server.file.address, SHA256))
    assert path.read_bytes() == BODY


@pytest.mark.parametrize("length", [100_000, 400_000])
def test_a_part_of_another_version_is_not_kept(server, tmp_path, length):
    (tmp_path / "weights.npz.part").write_bytes(bytes(length))
    assert downloads.fetch(server.file).read_bytes() == BODY
    assert server.asked == [f"bytes={length - 1}-", "bytes=0-"] and _names(tmp_path) == NAMES


@pytest.mark.parametrize("source", ["web", "hub"])
def test_a_silent_server_is_left_and_asked_again(server, monkeypatch, source):
    monkeypatch.setattr(downloads, "_TIMEOUT", 0.3)
    monkeypatch.setattr(constants, "HF_HUB_DOWNLOAD_TIMEOUT", 0.3)
    server.hold.clear()
    server.lengths = [200_000]
    assert downloads.fetch(server.file if source == "web" else VIT).read_bytes() == BODY
    assert len(server.asked) == 2


@pytest.mark.parametrize("pinned", [False, True])
def test_wrong_content_is_refused_after_more_tries(server, tmp_path, pinned):
    file = WebFile(server.file.address, SHA256 if pinned else "")
    server.body = b"\0" + BODY[1:]
    with pytest.raises(UserError, match="hash of downloaded file .* expected .* but got"):
        downloads.fetch(file)
    assert server.asked == ["bytes=0-"] * 3 and _names(tmp_path) == ["weights.npz.lock"]
    server.body = BODY
    assert downloads.fetch(file).read_bytes() == BODY and _names(tmp_path) == NAMES


def test_wrong_content_from_the_hub_is_refused_after_a_second_try(server, tmp_path):
    """Nothing of it stays where other programs would take it."""
    server.body = b"\0" + BODY[1:]
    with pytest.raises(UserError, match=f"its sha256 is .*, expected {SHA256}"):
        downloads.fetch(VIT)
    assert server.asked == [None, None]
    left = [path for path in (tmp_path / "hub").rglob("*") if path.is_file() or path.is_symlink()]
    assert all(path.stat().st_size < 1000 for path in left)
    server.body = BODY
    assert downloads.fetch(VIT).read_bytes() == BODY


def test_a_cached_file_that_is_not_the_pinned_one_is_replaced(server, tmp_path):
    (tmp_path / "weights.npz").write_bytes(b"other")
    path = downloads.fetch(WebFile(server.file.address, SHA256))
    assert path.read_bytes() == BODY


def test_a_server_chooses_no_names(server, tmp_path):
    inner = tmp_path / "inner"
    inner.mkdir()
    server.headers["Content-Disposition"] = 'attachment; filename="../evil.npz"'
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NOAH_JAX_CACHE", str(inner))
        assert downloads.fetch(server.file) == inner / "weights.npz"
    assert _names(tmp_path) == ["inner"] and _names(inner) == NAMES


@pytest.mark.parametrize("location", ["http://127.0.0.1:9/a", "ftp://127.0.0.1/a", "/weights.npz"])
def test_nobody_else_is_asked(server, location):
    """The address is one of https; no redirect leads away from it."""
    server.redirects["/weights.npz"] = location
    with pytest.raises(UserError, match="weights.npz: the server answers 302"):
        downloads.fetch(server.file)
    assert server.asked == []


@pytest.mark.parametrize(
    "headers",
    [
        {"X-Goog-Hash": "md5=A"},
        {"Content-Length": "many"},
        {"Content-Range": "bytes 5-0/" + "9" * 5000},
    ],
)
def test_odd_answers_are_errors_with_a_message(server, tmp_path, headers):
    server.states_length = "Content-Length" not in headers
    server.headers |= headers
    with pytest.raises(UserError, match="cannot fetch the weights weights.npz"):
        downloads.fetch(server.file)
    assert not (tmp_path / "weights.npz").exists()


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
    with pytest.raises(UserError, match="No matching distribution found for evil==1.0") as error:
        downloads.fetch(Wheel("evil==1.0", SHA256))
    assert "(pip download --no-deps evil==1.0) and put the file at" in str(error.value)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("source", ["web", "hub"])
def test_several_at_once_download_once(server, source):
    results, file = [], server.file if source == "web" else VIT
    threads = [
        threading.Thread(target=lambda: results.append(downloads.fetch(file))) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 4 and results[0].read_bytes() == BODY
    assert len(server.asked) == 1


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_file_system_without_locks(server, tmp_path, monkeypatch, capsys, number):
    """It downloads all the same, and says what to see to; again if a copy is damaged."""

    def none(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", none)
    path = downloads.fetch(server.file)
    assert path.read_bytes() == BODY
    said = f"{tmp_path} cannot be locked ({os.strerror(number)}): see to it that no other process "
    assert capsys.readouterr().out.startswith(f"{said}downloads weights.npz\nfetching")
    assert downloads.fetch(server.file) == path and capsys.readouterr().out == ""
    path.write_bytes(b"damaged")
    assert downloads.fetch(server.file).read_bytes() == BODY


def test_no_connection_fails_at_once_and_says_where_to_put_the_file(tmp_path, monkeypatch):
    monkeypatch.setenv("NOAH_JAX_CACHE", str(tmp_path))
    start = time.perf_counter()
    with pytest.raises(UserError, match=re.escape(str(tmp_path / "ViT-B_16.npz"))):
        downloads.fetch(WebFile("http://127.0.0.1:9/ViT-B_16.npz"))
    assert time.perf_counter() - start < 5
    assert _names(tmp_path) == ["ViT-B_16.npz.lock"]


@pytest.mark.parametrize("kind", ["unreachable", "silent", "offline"])
def test_no_hub_fails_at_once_and_says_what_to_do(server, tmp_path, monkeypatch, kind, capfd):
    """And a file that is in the cache is used without it."""
    kept = HubFile("timm/kept")
    path = downloads.fetch(kept)
    capfd.readouterr()
    if kind == "unreachable":
        _use_hub(monkeypatch, "http://127.0.0.1:9", tmp_path)
    if kind == "silent":
        monkeypatch.setattr(downloads, "_TIMEOUT", 0.3)
        server.waiting.clear()
    if kind == "offline":
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    start = time.perf_counter()
    with pytest.raises(UserError) as error:
        downloads.fetch(VIT)
    assert time.perf_counter() - start < 5
    assert "cannot fetch the weights model.safetensors: " in str(error.value)
    assert f"({VIT.by_hand}) and point --config.weights at it" in str(error.value)
    assert ("HF_HUB_OFFLINE" in str(error.value)) == (kind == "offline")
    assert downloads.fetch(kept) == path
    assert capfd.readouterr() == ("", "")


def test_a_repository_that_asks_for_a_token(server, monkeypatch):
    server.token = "hf_secret"
    with pytest.raises(UserError, match="(?s)401.*gated repo"):
        downloads.fetch(VIT)
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    assert downloads.fetch(VIT).read_bytes() == BODY


def test_a_pinned_commit(server):
    path = downloads.fetch(HubFile("timm/vit", revision=COMMIT))
    assert path.read_bytes() == BODY
    assert set(server.heads) == {f"/timm/vit/resolve/{COMMIT}/model.safetensors"}
    assert downloads.fetch(HubFile("timm/vit")) == path  # of the same commit: no second download
    assert len(server.asked) == 1


def test_a_process_of_its_own(server, tmp_path):
    """The environment says which hub and cache; only we write; nothing is imported before."""
    code = f"""
import sys
import noah_jax, noah_jax.vit, noah_jax.pretrained.downloads as downloads
assert not {{"huggingface_hub", "pooch", "requests"}} & sys.modules.keys()
for file in (downloads.HubFile("timm/vit"), downloads.WebFile({server.file.address!r})):
    print(downloads.fetch(file))
"""
    server.lengths = [200_000, 250_000, 200_000]
    environment = os.environ | {"HF_ENDPOINT": server.address, "HF_HOME": str(tmp_path / "home")}
    run = {"env": environment, "capture_output": True, "text": True, "timeout": 120}
    done = subprocess.run([sys.executable, "-c", code], **run)
    assert (done.returncode, done.stderr) == (0, "")
    hub = tmp_path / "home/hub"
    path = hub / "models--timm--vit/snapshots" / COMMIT / "model.safetensors"
    assert done.stdout.splitlines() == [
        f"fetching model.safetensors of timm/vit into {hub}",
        str(path),
        f"fetching weights.npz into {tmp_path}",
        str(tmp_path / "weights.npz"),
    ]
    assert path.read_bytes() == (tmp_path / "weights.npz").read_bytes() == BODY
    shutil.rmtree(hub)
    command, *arguments = shlex.split(VIT.by_hand)  # the advice that the message gives
    done = subprocess.run([pathlib.Path(sys.executable).with_name(command), *arguments], **run)
    assert done.returncode == 0 and path.read_bytes() == BODY


def test_every_backbone_has_a_file_of_its_own():
    sources = [backbone.source for backbone in BACKBONES.values()]
    assert len(set(sources)) == len(BACKBONES)
    kept = [source for source in sources if not isinstance(source, HubFile)]
    paths = {downloads.local_path(source) for source in kept}
    assert len(paths) == len(kept)
    assert all(re.fullmatch(r"[\w-][\w.-]+", path.name, re.ASCII) for path in paths)
    assert {path.parent for path in paths} == {backend.cache_dir()}
    web = [source for source in kept if isinstance(source, WebFile)]
    assert all(source.address.startswith("https://storage.googleapis.com/") for source in web)
    clip = BACKBONES["clip_vit_b16"].source
    assert clip.repo_id == "timm/vit_base_patch16_clip_224.openai"
    assert clip.filename == "open_clip_model.safetensors"
