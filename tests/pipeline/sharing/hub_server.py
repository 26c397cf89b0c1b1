"""A stand-in for the Hugging Face hub on the loopback: what huggingface_hub calls when a system is pushed and fetched.

It keeps repositories in memory, asks for a token, takes weights by Git LFS and all else in the commit, and gives every file the
ETag that the client checks. It answers in the words of the hub where the client reads them (X-Error-Code).
"""

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from fnmatch import fnmatch
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

TOKEN = "hf_of_the_stand_in"
LFS = ("*.safetensors", "*.pt2", "*.onnx")


@dataclass
class Repository:
    """Files by name, of the newest commit alone."""

    visibility: str | None
    files: dict[str, bytes] = field(default_factory=dict)
    commits: list[str] = field(default_factory=lambda: [hashlib.sha1(b"begun").hexdigest()])

    @property
    def sha(self) -> str:
        return self.commits[-1]


@dataclass
class Hub:
    """What the server keeps, and every request that it answered, as ``METHOD path``."""

    address: str = ""
    repositories: dict[str, Repository] = field(default_factory=dict)
    objects: dict[str, bytes] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)


class _Handler(BaseHTTPRequestHandler):
    hub: Hub

    def log_message(self, *_: object) -> None:
        """Nothing on stderr."""

    def do_POST(self) -> None:
        path, body = self._read()
        routes = {
            r"/api/repos/create": self._create,
            r"/api/validate-yaml": lambda _: self._json({"errors": [], "warnings": []}),
            r"/api/models/(?P<name>[^/]+/[^/]+)/preupload/.+": self._preupload,
            r"/api/models/(?P<name>[^/]+/[^/]+)/commit/.+": self._commit,
            r"/(?P<name>[^/]+/[^/]+)\.git/info/lfs/objects/batch": self._batch,
        }
        self._route(routes, path, body)

    def do_PUT(self) -> None:
        path, body = self._read()
        oid = path.rsplit("/", 1)[-1]
        assert hashlib.sha256(body).hexdigest() == oid
        self.hub.objects[oid] = body
        self._json({})

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path, _ = self._read()
        routes = {
            r"/api/models/(?P<name>[^/]+/[^/]+)(/revision/(?P<revision>.+))?": self._info,
            r"/api/models/(?P<name>[^/]+/[^/]+)/tree/(?P<revision>.+)": self._tree,
            r"/(?P<name>[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<file>.+)": self._resolve,
        }
        self._route(routes, path, b"")

    def _read(self) -> tuple[str, bytes]:
        path = unquote(urlsplit(self.path).path)
        self.hub.requests.append(f"{self.command} {path}")
        return path, self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def _route(self, routes: dict[str, Any], path: str, body: bytes) -> None:
        for pattern, answer in routes.items():
            if (found := re.fullmatch(pattern, path)) is None:
                continue
            named = {key: value for key, value in found.groupdict().items() if value is not None}
            if self.command in ("GET", "HEAD"):
                repository = self.hub.repositories.get(named["name"])
                if repository is None or (repository.visibility == "private" and not self._is_known()):
                    return self._refuse(401, "RepoNotFound", "Invalid username or password.")
                if named.get("revision", "main") not in ("main", *repository.commits):
                    return self._refuse(404, "RevisionNotFound", f"Invalid rev id: {named['revision']}")
            elif not self._is_known():
                return self._refuse(401, "", "Invalid username or password.")
            return answer(body, **named) if self.command == "POST" and named else answer(body or named)
        return self._refuse(404, "EntryNotFound", f"no such endpoint: {path}")

    def _is_known(self) -> bool:
        return self.headers.get("Authorization") == f"Bearer {TOKEN}"

    def _create(self, body: bytes) -> None:
        asked = json.loads(body)
        name = f"{asked['organization']}/{asked['name']}"
        place = {"url": f"{self.hub.address}/{name}"}
        if name in self.hub.repositories:
            return self._json({"error": "You already created this model repo", **place}, status=409)
        self.hub.repositories[name] = Repository(asked.get("visibility"))
        return self._json(place)

    def _preupload(self, body: bytes, *, name: str) -> None:
        assert name in self.hub.repositories
        files = [one["path"] for one in json.loads(body)["files"]]
        modes = ["lfs" if any(fnmatch(path, pattern) for pattern in LFS) else "regular" for path in files]
        told = [{"path": path, "uploadMode": mode, "shouldIgnore": False} for path, mode in zip(files, modes, strict=True)]
        self._json({"files": told})

    def _batch(self, body: bytes, *, name: str) -> None:
        assert name in self.hub.repositories
        asked = json.loads(body)
        actions = {"upload": {"href": f"{self.hub.address}/lfs/"}}
        objects = [{**one, "actions": {"upload": {"href": actions["upload"]["href"] + one["oid"]}}} for one in asked["objects"]]
        self._json({"transfer": "basic", "objects": objects}, kind="application/vnd.git-lfs+json")

    def _commit(self, body: bytes, *, name: str) -> None:
        repository = self.hub.repositories[name]
        for line in body.splitlines():
            operation = json.loads(line)
            value = operation["value"]
            match operation["key"]:
                case "header":
                    assert value["summary"]
                case "file":
                    repository.files[value["path"]] = base64.b64decode(value["content"])
                case "lfsFile":
                    repository.files[value["path"]] = self.hub.objects[value["oid"]]
                case "deletedFile":
                    del repository.files[value["path"]]
                case other:
                    raise AssertionError(other)
        repository.commits.append(hashlib.sha1(f"{name} {len(repository.commits)}".encode()).hexdigest())
        self._json({"commitUrl": f"{self.hub.address}/{name}/commit/{repository.sha}", "commitOid": repository.sha})

    def _info(self, named: dict[str, str]) -> None:
        repository = self.hub.repositories[named["name"]]
        siblings = [{"rfilename": path} for path in repository.files]
        self._json({"_id": "0", "id": named["name"], "modelId": named["name"], "sha": repository.sha, "siblings": siblings})

    def _tree(self, named: dict[str, str]) -> None:
        files = self.hub.repositories[named["name"]].files
        self._json([{"type": "file", "path": path, "size": len(content), "oid": _etag(content)} for path, content in files.items()])

    def _resolve(self, named: dict[str, str]) -> None:
        repository = self.hub.repositories[named["name"]]
        content = repository.files.get(named["file"])
        if content is None:
            return self._refuse(404, "EntryNotFound", f"no {named['file']}")
        headers = {"ETag": f'"{_etag(content)}"', "X-Repo-Commit": repository.sha}
        return self._send(content, "application/octet-stream", headers=headers)

    def _refuse(self, status: int, code: str, message: str) -> None:
        self._json({"error": message}, status=status, headers={"X-Error-Code": code, "X-Error-Message": message})

    def _json(
        self, answer: Any, *, status: int = 200, kind: str = "application/json", headers: dict[str, str] | None = None
    ) -> None:
        self._send(json.dumps(answer).encode(), kind, status=status, headers=headers)

    def _send(self, content: bytes, kind: str, *, status: int = 200, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for key, value in {"Content-Type": kind, "Content-Length": str(len(content)), **(headers or {})}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)


def _etag(content: bytes) -> str:
    return hashlib.sha1(f"blob {len(content)}\0".encode() + content).hexdigest()


@contextmanager
def running() -> Iterator[Hub]:
    """A hub that answers as long as this lasts."""
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    hub.address = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
