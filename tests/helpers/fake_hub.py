"""A small Hugging Face hub on this machine, as far as huggingface_hub asks for it here.

It keeps the repositories in memory; every commit is of small files, in one request.
"""

import base64
import contextlib
import hashlib
import http.server
import json
import re
import threading
import urllib.parse
from collections.abc import Iterator

TOKEN = "hf_of_the_tests"


class Hub(http.server.ThreadingHTTPServer):
    """The server. `repos` has the files of each repository by name, `commits` counts them."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.repos: dict[str, dict[str, bytes]] = {}
        self.commits = 0

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    @property
    def commit(self) -> str:
        return f"{self.commits:040x}"


@contextlib.contextmanager
def running() -> Iterator[Hub]:
    hub = Hub()
    thread = threading.Thread(target=hub.serve_forever)
    thread.start()
    try:
        yield hub
    finally:
        hub.shutdown()
        hub.server_close()
        thread.join()


class _Handler(http.server.BaseHTTPRequestHandler):
    server: Hub

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if TOKEN not in self.headers.get("Authorization", ""):
            return self._answer(401, {"error": "no login"})
        if self.path == "/api/repos/create":
            asked = json.loads(body)
            name = f"{asked['organization']}/{asked['name']}"
            if asked["organization"] != "me":
                return self._answer(403, {"error": "not yours"})
            if name in self.server.repos:
                return self._answer(409, {"url": f"{self.server.address}/{name}"})
            self.server.repos[name] = {".gitattributes": b""}
            return self._answer(200, {"url": f"{self.server.address}/{name}", "name": name})
        if self.path == "/api/validate-yaml":
            return self._answer(200, {"warnings": [], "errors": []})
        _, name, action = self._parts()
        if action.startswith("preupload"):
            how = {"uploadMode": "regular", "shouldIgnore": False}
            files = [{"path": file["path"], **how} for file in json.loads(body)["files"]]
            return self._answer(200, {"files": files})
        for line in map(json.loads, body.splitlines()):
            path = line["value"].get("path")
            if line["key"] == "file":
                self.server.repos[name][path] = base64.b64decode(line["value"]["content"])
            elif line["key"] == "deletedFile":
                del self.server.repos[name][path]
        self.server.commits += 1
        address = f"{self.server.address}/{name}/commit/{self.server.commit}"
        return self._answer(200, {"commitUrl": address, "commitOid": self.server.commit})

    def do_GET(self):
        _, name, action = self._parts()
        if (files := self.server.repos.get(name)) is None:
            missing = {"X-Error-Code": "RepoNotFound"}
            return self._answer(401, {"error": "Repository not found"}, missing)
        kind, _, rest = action.partition("/")
        if kind in ("revision", "tree") and rest.split("/")[0] not in ("main", self.server.commit):
            return self._answer(404, {"error": "no"}, {"X-Error-Code": "RevisionNotFound"})
        if kind == "tree":
            tree = [
                {"type": "file", "path": path, "size": len(x), "oid": _digest(x)}
                for path, x in files.items()
            ]
            return self._answer(200, tree)
        if kind == "resolve":
            content = files[rest.partition("/")[2]]
            etag = {"ETag": f'"{_digest(content)}"', "X-Repo-Commit": self.server.commit}
            return self._answer(200, content, etag)
        return self._answer(200, {"id": name, "sha": self.server.commit, "siblings": []})

    do_HEAD = do_GET

    def _parts(self):
        path = urllib.parse.unquote(self.path.partition("?")[0])
        return re.fullmatch(r"(?:/api/models)?()/([^/]+/[^/]+)(?:/(.*))?", path).groups("")

    def _answer(self, status, content, headers=None):
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for key, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *_):
        pass


def _digest(content: bytes) -> str:
    return hashlib.sha1(content).hexdigest()
