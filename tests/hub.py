"""A small hub on loopback that the real client talks to, and the fixture `hub` that points everything at it.

    from hub import Hub

    def test_it(hub: Hub) -> None:
        first = hub.add("someone/tiny", {"model_index.json": "{}"})      # a folder's path or a dict; the new commit
        assert DiffusionPipeline.from_pretrained("someone/tiny", revision=first)
        assert hub.downloads() == ["someone/tiny: model_index.json"]

Environment variables are set too, so that other processes ask the same hub and the same empty cache.
"""

import base64
import hashlib
import json
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import pytest

Files = dict[str, bytes]
LARGE = 4096
"""Files of at least so many bytes, and all weights, are kept apart, as LFS does."""
TOKEN = "hf_test"


def large(path: str, data: bytes) -> bool:
    return bool(data) and (len(data) >= LARGE or path.endswith((".safetensors", ".bin")))


@dataclass
class Repo:
    """Commits in order, and which one each branch or tag is."""

    commits: dict[str, Files] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)
    gated: bool = False

    def commit(self, files: Files, branch: str) -> str:
        listed = json.dumps([len(self.commits), sorted((p, hashlib.sha1(d).hexdigest()) for p, d in files.items())])
        sha = hashlib.sha1(listed.encode()).hexdigest()
        self.commits[sha] = files
        self.refs[branch] = sha
        return sha

    def find(self, revision: str) -> str | None:
        return self.refs.get(revision, revision if revision in self.commits else None)


@dataclass(frozen=True)
class Request:
    """What a client asked for."""

    method: str
    path: str
    range: str | None = None
    authorization: str | None = None

    def __str__(self) -> str:
        return f"{self.method} {self.path}"


class Hub:
    """The server, and what a test does to it."""

    def __init__(self) -> None:
        self.repos: dict[str, Repo] = {}
        self.moved: dict[str, str] = {}
        self.blobs: dict[str, bytes] = {}
        self.requests: list[Request] = []
        self.served: list[tuple[str, str]] = []
        self.cuts: list[tuple[str, int]] = []
        self.stalls: list[tuple[str, int]] = []
        self.failing: int | None = None
        self.on_request: Any = None
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler_of(self))
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)
        self._thread.start()
        self._up = True

    @property
    def port(self) -> int:
        return int(self._server.server_address[1])

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def add(self, name: str, files: Any, *, branch: str = "main", gated: bool = False) -> str:
        """Commit a folder, or a dict of path to content, as the whole content of `branch`. Returns the commit."""
        repo = self.repos.setdefault(name, Repo())
        repo.gated = gated
        return repo.commit(read_files(files), branch)

    def files(self, name: str, revision: str = "main") -> Files:
        """What a repository has."""
        repo = self.repos[name]
        sha = repo.find(revision)
        assert sha is not None, f"{name} has no {revision}"
        return repo.commits[sha]

    def move(self, old: str, new: str) -> None:
        """Rename a repository; the old name leads to the new one."""
        self.repos[new] = self.repos.pop(old)
        self.moved[old] = new

    def remove(self, name: str) -> None:
        """Delete a repository."""
        del self.repos[name]

    def cut(self, path: str, after: int, times: int = 1) -> None:
        """Close the connection after so many bytes of the file `path`, in its next `times` transfers."""
        self.cuts += [(path, after)] * times

    def stall(self, path: str, after: int) -> None:
        """Send so many bytes of the file `path` in its next transfer, and then nothing until the client is gone."""
        self.stalls.append((path, after))

    def downloads(self) -> list[str]:
        """The files whose content was sent, as `"owner/name: path"`, in order of their names."""
        return sorted({f"{name}: {path}" for name, path in self.served})

    def forget(self) -> None:
        """Empty the logs."""
        self.requests.clear()
        self.served.clear()

    def stop(self) -> None:
        """Take the server off the network: connections are refused from here on."""
        if self._up:
            self._up = False
            self._server.shutdown()
            self._server.server_close()
            self._thread.join()


def read_files(files: str | Path | Mapping[str, bytes | str]) -> Files:
    if isinstance(files, Mapping):
        return {path: data.encode() if isinstance(data, str) else data for path, data in files.items()}
    root = Path(files)
    return {p.relative_to(root).as_posix(): p.read_bytes() for p in sorted(root.rglob("*")) if p.is_file()}


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub of the test's own, with an empty cache in `tmp_path / "hub-cache"` and nobody logged in."""
    import huggingface_hub
    from huggingface_hub import constants

    server = Hub()
    settings = {
        "HF_ENDPOINT": server.endpoint,
        "HF_HUB_CACHE": str(tmp_path / "hub-cache"),
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_TOKEN_PATH": str(tmp_path / "no-token"),
        "NO_PROXY": "127.0.0.1,localhost",
        "no_proxy": "127.0.0.1,localhost",
    }
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", settings["HF_TOKEN_PATH"])
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 100_000)  # 10 MB, which no file here has
    no_waiting = SimpleNamespace(**{**vars(time), "sleep": lambda seconds: None})
    for waiting in ("file_download", "utils._http"):  # between two tries of a transfer, or of a request
        monkeypatch.setattr(f"huggingface_hub.{waiting}.time", no_waiting)
    huggingface_hub.close_session()
    yield server
    huggingface_hub.close_session()
    server.stop()


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.0"  # one connection a request, so that a stopped server is a refused connection

    def log_message(self, *args: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self._handle()

    def do_GET(self) -> None:
        self._handle()

    def do_POST(self) -> None:
        self._handle()

    # -- routes --------------------------------------------------------------------------------------------------------

    def _handle(self) -> None:
        self.body = self._read_body()
        address = urlsplit(self.path)
        self.query = parse_qs(address.query)
        raw = address.path
        request = Request(self.command, unquote(raw), self.headers.get("Range"), self.headers.get("Authorization"))
        self.hub.requests.append(request)
        if self.hub.on_request is not None:
            self.hub.on_request(request)
        if self.hub.failing:
            return self._json(self.hub.failing, {"error": "out of order"})
        parts = [unquote(part) for part in raw.strip("/").split("/")]
        if parts[0] == "lfs":
            return self._blob(parts[1])
        if parts[0] == "api":
            return self._api(parts[1:], raw)
        if len(parts) > 4 and parts[2] == "resolve":
            return self._resolve("/".join(parts[:2]), parts[3], "/".join(parts[4:]), raw)
        return self._json(404, {"error": "not found"})

    def _read_body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        chunks = []
        while size := int(self.rfile.readline(), 16):
            chunks.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(chunks)

    def _api(self, parts: list[str], raw: str) -> None:
        if parts == ["repos", "create"]:
            return self._create()
        if parts == ["validate-yaml"]:
            return self._json(200, {"errors": [], "warnings": []})
        if parts == ["whoami-v2"]:
            ok = self.headers.get("Authorization") == f"Bearer {TOKEN}"
            body = {"name": "someone", "type": "user", "orgs": []} if ok else {"error": "Invalid credentials"}
            return self._json(200 if ok else 401, body)
        if parts[0] != "models" or len(parts) < 3:
            return self._json(404, {"error": "not found"})
        name, action = "/".join(parts[1:3]), parts[3] if len(parts) > 3 else "info"
        repo = self._repo(name, raw)
        if repo is None:
            return None
        revision = parts[4] if len(parts) > 4 else "main"
        if action == "commit":
            return self._commit(name, repo, revision)
        if action == "preupload":
            return self._preupload()
        sha = repo.find(revision)
        if sha is None:
            return self._error(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        if action in ("info", "revision"):
            return self._info(name, repo, sha)
        if action == "tree":
            under = "/".join(parts[5:])
            return self._tree(repo.commits[sha], under)
        if action == "paths-info":
            asked = json.loads(self.body)["paths"]
            files = repo.commits[sha]
            return self._json(200, [entry(path, files[path]) for path in asked if path in files])
        return self._json(404, {"error": f"no action {action}"})

    def _repo(self, name: str, raw: str) -> Repo | None:
        hub = self.hub
        if name in hub.moved:
            self._send(307, b"", {"Location": hub.endpoint + raw.replace(name, hub.moved[name], 1)})
            return None
        if name not in hub.repos:  # what the real one answers to somebody who is not logged in
            self._error(401, "RepoNotFound", "Invalid username or password.")
            return None
        return hub.repos[name]

    def _info(self, name: str, repo: Repo, sha: str) -> None:
        siblings = []
        for path, data in sorted(repo.commits[sha].items()):
            sibling: dict[str, Any] = {"rfilename": path}
            if "blobs" in self.query:
                sibling |= {"blobId": git_id(data), "size": len(data)}
                if large(path, data):
                    sibling["lfs"] = {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 130}
            siblings.append(sibling)
        gated = "auto" if repo.gated else False
        body = {"_id": "0", "id": name, "modelId": name, "sha": sha, "private": False, "gated": gated}
        self._json(200, {**body, "disabled": False, "tags": [], "siblings": siblings})

    def _tree(self, files: Files, under: str) -> None:
        listed = [
            entry(path, data) for path, data in sorted(files.items()) if not under or path.startswith(under + "/")
        ]
        self._json(200, listed)

    def _resolve(self, name: str, revision: str, path: str, raw: str) -> None:
        repo = self._repo(name, raw)
        if repo is None:
            return None
        sha = repo.find(revision)
        if sha is None:
            return self._error(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        if repo.gated and self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return self._error(401, "GatedRepo", "Access to this repository is restricted")
        files = repo.commits[sha]
        if path not in files:
            return self._error(404, "EntryNotFound", "Entry not found", {"X-Repo-Commit": sha})
        data = files[path]
        headers = {"X-Repo-Commit": sha, "Accept-Ranges": "bytes"}
        if not large(path, data):
            return self._content(name, path, data, {**headers, "ETag": f'"{git_id(data)}"'})
        digest = hashlib.sha256(data).hexdigest()
        self.hub.blobs[digest] = data
        self.hub.served.append((name, path)) if self.command == "GET" else None
        headers |= {"X-Linked-ETag": f'"{digest}"', "X-Linked-Size": str(len(data)), "ETag": f'"{digest}"'}
        # another host, as large files have: the token must not go there, and the client goes on by itself
        address = f"http://localhost:{self.hub.port}/lfs/{digest}?of={name}&path={path}"
        return self._send(302, b"", {**headers, "Location": address})

    def _blob(self, digest: str) -> None:
        if self.headers.get("Authorization"):
            return self._json(400, {"error": "a token was sent to another host"})
        name, path = self.query["of"][0], self.query["path"][0]
        return self._content(name, path, self.hub.blobs[digest], {"ETag": f'"{digest}"'})

    # -- uploads -------------------------------------------------------------------------------------------------------

    def _create(self) -> None:
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return self._json(401, {"error": "Invalid username or password."})
        asked = json.loads(self.body)
        name = f"{asked.get('organization') or 'someone'}/{asked['name']}"
        body = {"url": f"{self.hub.endpoint}/{name}", "name": name}
        if name in self.hub.repos:
            return self._json(409, {"error": "You already created this model repo", **body})
        self.hub.repos[name] = Repo()
        self.hub.add(name, {".gitattributes": "*.safetensors filter=lfs\n"})
        return self._json(200, body)

    def _preupload(self) -> None:
        asked = json.loads(self.body)["files"]
        self._json(200, {"files": [{"path": f["path"], "shouldIgnore": False, "uploadMode": "regular"} for f in asked]})

    def _commit(self, name: str, repo: Repo, branch: str) -> None:
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return self._error(403, "Forbidden", "no right to write")
        lines = [json.loads(line) for line in self.body.splitlines() if line.strip()]
        parent = lines[0]["value"].get("parentCommit")
        if parent is not None and parent != repo.refs.get(branch):
            return self._json(412, {"error": "A commit has happened since. Please refresh and try again."})
        files = dict(repo.commits.get(repo.refs.get(branch, ""), {}))
        for line in lines[1:]:
            value, path = line["value"], line["value"]["path"]
            if line["key"] == "file":
                files[path] = base64.b64decode(value["content"])
            elif line["key"] == "deletedFile":
                files.pop(path, None)
            elif line["key"] == "deletedFolder":
                files = {p: d for p, d in files.items() if not p.startswith(path.rstrip("/") + "/")}
        sha = repo.commit(files, branch)
        address = f"{self.hub.endpoint}/{name}/commit/{sha}"
        return self._json(200, {"success": True, "commitOid": sha, "commitUrl": address, "hookOutput": ""})

    # -- answers -------------------------------------------------------------------------------------------------------

    def _content(self, name: str, path: str, data: bytes, headers: dict[str, str]) -> None:
        start, status = 0, 200
        asked = self.headers.get("Range")
        if asked:
            start, status = int(asked.removeprefix("bytes=").split("-")[0]), 206
            headers = {**headers, "Content-Range": f"bytes {start}-{len(data) - 1}/{len(data)}"}
        body = data[start:]
        if self.command == "GET":
            self.hub.served.append((name, path))
        for ends in (self.hub.cuts, self.hub.stalls) if self.command == "GET" else ():
            if end := next((end for end in ends if end[0] == path), None):
                ends.remove(end)
                self._head(status, len(body), headers)
                self.wfile.write(body[: end[1]])
                self.wfile.flush()
                if ends is self.hub.stalls:
                    self.connection.settimeout(20)
                    self.rfile.read(1)  # returns when the client closes
                return None
        return self._send(status, body, headers)

    def _error(self, status: int, code: str, message: str, headers: Mapping[str, str] | None = None) -> None:
        named = {"X-Error-Code": code, "X-Error-Message": message, **(headers or {})}
        self._json(status, {"error": message}, named)

    def _json(self, status: int, body: Any, headers: Mapping[str, str] | None = None) -> None:
        self._send(status, json.dumps(body).encode(), {"Content-Type": "application/json", **(headers or {})})

    def _send(self, status: int, body: bytes, headers: Mapping[str, str]) -> None:
        self._head(status, len(body), headers)
        if self.command != "HEAD":
            self.wfile.write(body)

    def _head(self, status: int, length: int, headers: Mapping[str, str]) -> None:
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(length))
        self.end_headers()


def _handler_of(server: Hub) -> type[_Handler]:
    return type("Handler", (_Handler,), {"hub": server})


def git_id(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def entry(path: str, data: bytes) -> dict[str, Any]:
    found: dict[str, Any] = {"type": "file", "path": path, "size": len(data), "oid": git_id(data)}
    if large(path, data):
        found["lfs"] = {"oid": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 130}
    return found
