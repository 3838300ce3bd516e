"""A model hub on loopback: serves folders as repositories as far as huggingface_hub asks, and breaks on request.

Like the real one it answers the API itself and sends large files from another host, to which it redirects with the
file's digest and size. It knows nothing of models: any folder of files is a repository.

    with HubStub() as hub:
        commit = hub.add("owner/name", folder)
        run(..., env={**os.environ, **hub.environment(tmp_path / "cache")})
        assert hub.requests_for("model.safetensors")[-1].range == "bytes=1000-"
"""

import contextlib
import hashlib
import json
import re
import socket
import struct
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Literal, NamedTuple, Self
from urllib.parse import unquote, urlsplit

import pytest
from huggingface_hub import constants, file_download

__all__ = ["HubStub", "Request"]

LARGE_SUFFIXES = (".safetensors", ".bin", ".pt")
"""What the redirecting host is for."""

_API = re.compile(r"/api/models/(?P<repository>[^/]+/[^/]+)(/(?P<kind>revision|tree)/(?P<revision>.+))?")
_RESOLVE = re.compile(r"/(?P<repository>[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<name>.+)")
_RANGE = re.compile(r"bytes=(\d+)-")
_CHUNK_BYTES = 1 << 16
_PAUSE_SECONDS_MAX = 100
_LINGER_NONE = struct.pack("ii", 1, 0)


How = Literal["end", "reset", "outage", "pause"]
"""How a download breaks: the connection ends, is reset, ends for good (503 from then on), or nothing more comes."""


class Request(NamedTuple):
    """One request as the server saw it."""

    host: Literal["hub", "files"]
    method: str
    path: str
    range: str | None
    authorization: str | None


@dataclass
class _File:
    path: Path
    size_bytes: int
    sha256: str


@dataclass
class _Repository:
    commits: dict[str, dict[str, _File]] = field(default_factory=dict)
    revisions: dict[str, str] = field(default_factory=dict)
    token: str | None = None
    gated: bool = False


@dataclass
class _Break:
    after_bytes: int
    how: How
    times: int


class HubStub:
    """The server; a context manager that stops it."""

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self.outage_status: int | None = None
        """If set, every request is answered with it."""
        self.ignore_ranges = False
        self.release = threading.Event()
        """Ends the pauses of downloads."""
        self.garble: str | None = None
        """The name of a file of which every byte is sent inverted."""
        self._repositories: dict[str, _Repository] = {}
        self._breaks: dict[str, _Break] = {}
        self._lock = threading.Lock()
        self._servers = {host: _Server(self, host) for host in ("hub", "files")}

    def __enter__(self) -> Self:
        for server in self._servers.values():
            threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Stop answering; connections are refused from then on."""
        self.release.set()
        for server in self._servers.values():
            server.shutdown()
            server.server_close()
            server.close_connections()

    @property
    def endpoint(self) -> str:
        """The value of `HF_ENDPOINT`."""
        return self.address("hub")

    def address(self, host: str) -> str:
        """The address of one of the two hosts."""
        return f"http://127.0.0.1:{self._servers[host].server_port}"

    def environment(self, cache: Path) -> dict[str, str]:
        """Return what leads huggingface_hub here, away from the user's cache and token."""
        return {
            "HF_ENDPOINT": self.endpoint,
            "HF_HOME": str(cache),
            "HF_HUB_CACHE": str(cache / "hub"),
            "HF_TOKEN": "",
            "HF_TOKEN_PATH": str(cache / "token"),
            "HF_HUB_OFFLINE": "0",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_DISABLE_UPDATE_CHECK": "1",
        }

    def lead_here(self, monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
        """Lead huggingface_hub in this process here, as `environment` does for another."""
        values = {
            "ENDPOINT": self.endpoint,
            "HUGGINGFACE_CO_URL_TEMPLATE": f"{self.endpoint}/{{repo_id}}/resolve/{{revision}}/{{filename}}",
            "HF_HUB_CACHE": str(cache / "hub"),
            "HF_TOKEN_PATH": str(cache / "token"),
            "HF_HUB_OFFLINE": False,
            "HF_HUB_DISABLE_TELEMETRY": True,
        }
        for name, value in values.items():
            monkeypatch.setattr(constants, name, value)
        # Before version 1 the library copied this one.
        name = "HUGGINGFACE_CO_URL_TEMPLATE"
        monkeypatch.setattr(file_download, name, values[name], raising=False)
        monkeypatch.setenv("HF_TOKEN", "")

    def add(
        self,
        repository: str,
        folder: Path,
        *,
        revisions: tuple[str, ...] = ("main",),
        token: str | None = None,
        gated: bool = False,
    ) -> str:
        """Serve the files of `folder` as a commit of `repository`, and return the commit.

        Args:
            repository: `owner/name`.
            folder: its files; they must not change.
            revisions: branches and tags that point to the commit from now on.
            token: the only token that may read the repository.
            gated: whether everyone may read about it, but files only with the token.
        """
        files = {
            path.relative_to(folder).as_posix(): _File(path, path.stat().st_size, _sha256(path))
            for path in sorted(folder.rglob("*"))
            if path.is_file()
        }
        listing = json.dumps({name: file.sha256 for name, file in files.items()})
        commit = hashlib.sha1(listing.encode()).hexdigest()
        entry = self._repositories.setdefault(repository, _Repository())
        entry.commits[commit] = files
        entry.revisions.update(dict.fromkeys(revisions, commit))
        entry.token, entry.gated = token, gated
        return commit

    def break_connection(self, name: str, *, after_bytes: int, how: How = "end", times: int = 1) -> None:
        """Let the next downloads of `name` end after so many bytes."""
        self._breaks[name] = _Break(after_bytes, how, times)

    def requests_for(self, name: str, method: str = "GET", host: str = "files") -> list[Request]:
        """Return the requests for one file, in order."""
        return [
            request
            for request in self.requests
            if request.path.endswith(f"/{name}") and request.method == method and request.host == host
        ]

    def downloaded(self) -> set[str]:
        """Return the names of the files whose content was asked for."""
        found = (_RESOLVE.fullmatch(request.path) for request in self.requests if request.method == "GET")
        return {match["name"] for match in found if match}

    def take_break(self, name: str) -> _Break | None:
        """Return how this download of `name` is to end early, if it is."""
        with self._lock:
            planned = self._breaks.get(name)
            if planned is None or planned.times == 0:
                return None
            planned.times -= 1
            return planned

    def find(self, repository: str) -> _Repository | None:
        """Return a repository by its id."""
        return self._repositories.get(repository)


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, stub: HubStub, host: str) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.stub = stub
        self.host = host
        self.connections: list[socket.socket] = []

    def process_request(self, request: Any, client_address: Any) -> None:
        """Handle a connection in a thread, and remember it."""
        self.connections.append(request)
        super().process_request(request, client_address)

    def close_connections(self) -> None:
        """End the connections that clients keep for their next request."""
        for connection in self.connections:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing: clients that go away are part of the tests."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def log_message(self, *_arguments: object) -> None:
        """Say nothing: requests are kept in `HubStub.requests`."""

    def do_HEAD(self) -> None:
        """Answer without content."""
        self._answer()

    def do_GET(self) -> None:
        """Answer with content."""
        self._answer()

    def _answer(self) -> None:
        stub, path = self.server.stub, unquote(urlsplit(self.path).path)
        authorization = self.headers.get("Authorization")
        stub.requests.append(
            Request(self.server.host, self.command, path, self.headers.get("Range"), authorization)  # type: ignore[arg-type]
        )
        if stub.outage_status is not None:
            self._send(stub.outage_status)
        elif api := _API.fullmatch(path):
            sized = "blobs=" in urlsplit(self.path).query
            self._answer_api(api["repository"], api["revision"] or "main", tree=api["kind"] == "tree", sized=sized)
        elif resolve := _RESOLVE.fullmatch(path):
            self._answer_file(resolve["repository"], resolve["revision"], resolve["name"])
        else:
            self._send(404)

    def _answer_api(self, name: str, revision: str, *, tree: bool, sized: bool) -> None:
        found = self._open(name, revision, file_wanted=False)
        if found is None:
            return
        commit, files = found
        if tree:
            self._send_json([_describe(path, file) for path, file in files.items()])
        else:
            sizes = {path: {"size": file.size_bytes} if sized else {} for path, file in files.items()}
            siblings = [{"rfilename": path, **size} for path, size in sizes.items()]
            self._send_json({"_id": "0", "id": name, "modelId": name, "sha": commit, "siblings": siblings, "tags": []})

    def _answer_file(self, repository: str, revision: str, name: str) -> None:
        # The second host stands for signed addresses: whoever has one may read.
        signed = self.server.host == "files"
        found = self._open(repository, revision, file_wanted=True, signed=signed)
        if found is None:
            return
        commit, files = found
        if name not in files:
            self._send(404, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": commit})
        elif name.endswith(LARGE_SUFFIXES) and not signed:
            headers = {
                "X-Repo-Commit": commit,
                "X-Linked-ETag": f'"{files[name].sha256}"',
                "X-Linked-Size": str(files[name].size_bytes),
                "Location": f"{self.server.stub.address('files')}/{repository}/resolve/{commit}/{name}",
            }
            self._send(302, headers)
        else:
            self._send_file(name, files[name], {"X-Repo-Commit": commit, "ETag": f'"{files[name].sha256}"'})

    def _open(
        self, name: str, revision: str, *, file_wanted: bool, signed: bool = False
    ) -> tuple[str, dict[str, _File]] | None:
        """Return the commit and its files, or answer why they are not shown."""
        repository = self.server.stub.find(name)
        given = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
        if given and (repository is None or repository.token != given):
            self._send(401, {"X-Error-Message": "Invalid credentials in Authorization header"})
        elif repository is None or (repository.token not in {None, given} and not repository.gated and not signed):
            self._send(401, {"X-Error-Code": "RepoNotFound"})
        elif repository.gated and file_wanted and repository.token != given and not signed:
            self._send(401, {"X-Error-Code": "GatedRepo"})
        else:
            commit = repository.revisions.get(revision, revision)
            if commit in repository.commits:
                return commit, repository.commits[commit]
            self._send(404, {"X-Error-Code": "RevisionNotFound"})
        return None

    def _send(self, status: int, headers: Mapping[str, str] | None = None, content: bytes = b"") -> None:
        self.send_response(status)
        for key, value in {"Content-Length": str(len(content)), **(headers or {})}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def _send_json(self, value: object) -> None:
        self._send(200, {"Content-Type": "application/json"}, json.dumps(value).encode())

    def _send_file(self, name: str, file: _File, headers: Mapping[str, str]) -> None:
        wanted = _RANGE.fullmatch(self.headers.get("Range") or "")
        start = int(wanted[1]) if wanted and not self.server.stub.ignore_ranges else 0
        self.send_response(206 if start else 200)
        length = {"Content-Length": str(file.size_bytes - start)}
        if start:
            length["Content-Range"] = f"bytes {start}-{file.size_bytes - 1}/{file.size_bytes}"
        for key, value in {**headers, **length, "Accept-Ranges": "bytes"}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self._send_content(name, file, start)

    def _send_content(self, name: str, file: _File, start: int) -> None:
        planned = self.server.stub.take_break(name)
        left = file.size_bytes - start if planned is None else min(planned.after_bytes, file.size_bytes - start)
        with file.path.open("rb") as content:
            content.seek(start)
            while left > 0:
                chunk = content.read(min(left, _CHUNK_BYTES))
                left -= len(chunk)
                self.wfile.write(bytes(255 - byte for byte in chunk) if name == self.server.stub.garble else chunk)
        if planned is not None:
            self.close_connection = True
            if planned.how == "outage":
                self.server.stub.outage_status = 503
            elif planned.how == "pause":
                self.server.stub.release.wait(_PAUSE_SECONDS_MAX)
            elif planned.how == "reset":
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_NONE)
                # Closed here and not shut down first, as the server would, so that the other side sees a reset.
                self.connection.close()


def _describe(path: str, file: _File) -> dict[str, object]:
    entry: dict[str, object] = {"type": "file", "path": path, "size": file.size_bytes, "oid": file.sha256[:40]}
    if path.endswith(LARGE_SUFFIXES):
        entry["lfs"] = {"oid": file.sha256, "size": file.size_bytes, "pointerSize": 134}
    return entry


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
