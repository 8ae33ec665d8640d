"""A server on this machine that speaks the hub's protocol, so that tests download as users do.

    with serve(folder) as hub:      # HF_ENDPOINT=hub.endpoint
        hub.faults.broken["owner/name/model.safetensors"] = 1000

A folder holds repositories as `models/OWNER/NAME`, `datasets/OWNER/NAME` and `spaces/OWNER/NAME`; each has
`commits/COMMIT/…` with its files and `refs/NAME` with the commit of each branch. `add_model` and the like write them. As
on the hub, large files live on a second server without authentication, to which the first one redirects; small ones are
served in place.
"""

import fnmatch
import hashlib
import json
import shutil
import socket
import struct
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cached_property
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, quote, unquote, urlsplit

Files = Mapping[str, bytes | str | Path] | Path

# What the hub's .gitattributes keep apart as large files, whatever their size.
LARGE = ("*.safetensors", "*.bin", "*.h5", "*.msgpack", "*.ot", "*.parquet", "*.model")


@dataclass
class Faults:
    """What the server does wrong; files are patterns over `OWNER/NAME/PATH`.

    Args:
        broken: After how many bytes of a file the connection is reset.
        truncated: How many bytes of a file are sent, though its whole length is announced.
        short: To how many bytes a file is cut as though it were whole; of a large file the hub announces the true length.
        damaged: Files with their last byte changed, of the right length.
        status: The HTTP status with which a repository (a pattern) answers to everything.
        gated: Repositories whose files need a token that has been granted access; no token here has.
        granted: The tokens that have.
        slow_seconds: How long each answer takes.
    """

    broken: dict[str, int] = field(default_factory=dict)
    truncated: dict[str, int] = field(default_factory=dict)
    short: dict[str, int] = field(default_factory=dict)
    damaged: set[str] = field(default_factory=set)
    status: dict[str, int] = field(default_factory=dict)
    gated: set[str] = field(default_factory=set)
    granted: set[str] = field(default_factory=set)
    slow_seconds: float = 0.0

    def clear(self) -> None:
        """Be a good server again."""
        self.__dict__.update(Faults().__dict__)


@dataclass
class Hub:
    """A running server.

    Args:
        endpoint: What HF_ENDPOINT is to be.
        faults: What it does wrong; may be changed while it runs.
        requests: What it was asked so far, as `METHOD PATH`; large files as `METHOD /large/OWNER/NAME/PATH`.
        tokens: The authorisation headers that came, by server: "hub" and "large".
    """

    endpoint: str
    faults: Faults = field(default_factory=Faults)
    requests: list[str] = field(default_factory=list)
    tokens: dict[str, set[str]] = field(default_factory=lambda: {"hub": set(), "large": set()})


def add_model(folder: Path, name: str, files: Files, *, branch: str = "main", also: str | None = None) -> str:
    """Commit *files* as a branch of a model; *also* is an old name that redirects, as "gpt2" does. Returns the commit."""
    return _commit(folder / "models", name, files, branch, also)


def add_dataset(folder: Path, name: str, files: Files, *, branch: str = "main", also: str | None = None) -> str:
    """Commit *files* as a branch of a data set; *also* is an old name that redirects. Returns the commit."""
    return _commit(folder / "datasets", name, files, branch, also)


def add_space(folder: Path, name: str, files: Files, *, branch: str = "main") -> str:
    """Commit *files* as a branch of a space, where metrics are. Returns the commit."""
    return _commit(folder / "spaces", name, files, branch, None)


@contextmanager
def serve(folder: Path) -> Iterator[Hub]:
    """Serve a folder of repositories on free ports of 127.0.0.1 until the context ends."""
    hub = Hub(endpoint="")
    servers = [ThreadingHTTPServer(("127.0.0.1", 0), handler) for handler in (_HubHandler, _LargeHandler)]
    addresses = [f"http://127.0.0.1:{server.server_address[1]}" for server in servers]
    hub.endpoint = addresses[0]
    for server in servers:
        server.daemon_threads = True
        server.block_on_close = False  # a client may keep its connection open
        server.hub, server.folder, server.large = hub, folder, addresses[1]
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    try:
        yield hub
    finally:
        for server in servers:
            server.shutdown()
            server.server_close()


def _commit(kind: Path, name: str, files: Files, branch: str, also: str | None) -> str:
    if isinstance(files, Path):
        files = {path.relative_to(files).as_posix(): path for path in files.rglob("*") if path.is_file()}
    contents = {path: _bytes(given) for path, given in files.items()}
    repository = kind / name
    reference = repository / "refs" / branch
    parent = reference.read_text() if reference.exists() else ""
    digest = hashlib.sha1(f"{name} {branch} {parent}".encode())
    for path, content in sorted(contents.items()):
        digest.update(path.encode() + hashlib.sha256(content).digest())
    commit = digest.hexdigest()
    for path, content in contents.items():
        target = repository / "commits" / commit / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)
    reference.parent.mkdir(parents=True, exist_ok=True)
    reference.write_text(commit)
    if also is not None:
        (kind / f"{also}.moved").parent.mkdir(parents=True, exist_ok=True)
        (kind / f"{also}.moved").write_text(name)
    return commit


def remove(folder: Path, kind: str, name: str) -> None:
    """Take a repository away: *kind* is "models" or "datasets"."""
    shutil.rmtree(folder / kind / name)


def _bytes(given: bytes | str | Path) -> bytes:
    return given if isinstance(given, bytes) else given.encode() if isinstance(given, str) else given.read_bytes()


@dataclass(frozen=True)
class _File:
    """A file of a commit as the hub describes it."""

    path: str
    content: bytes

    @property
    def large(self) -> bool:
        return any(fnmatch.fnmatch(self.path, pattern) for pattern in LARGE)

    @cached_property
    def sha256(self) -> str:
        return hashlib.sha256(self.content).hexdigest()

    @cached_property
    def git_id(self) -> str:
        return hashlib.sha1(b"blob %d\0" % len(self.content) + self.content).hexdigest()

    @property
    def etag(self) -> str:
        return self.sha256 if self.large else self.git_id

    def entry(self) -> dict[str, object]:
        """As in a listing of the repository."""
        entry: dict[str, object] = {
            "type": "file",
            "path": self.path,
            "size": len(self.content),
            "oid": self.git_id,
        }
        if self.large:
            entry["lfs"] = {"oid": self.sha256, "size": len(self.content), "pointerSize": 130}
        return entry


class _Refusal(Exception):
    """An answer that is an error, in the hub's words."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status, self.code, self.message = status, code, message


class _Handler(BaseHTTPRequestHandler):
    """What both servers share: sending bodies, with the faults that are switched on."""

    protocol_version = "HTTP/1.1"
    kind: str

    def log_message(self, format, *arguments):
        pass

    def handle(self):
        with suppress(ConnectionError):  # the client has gone, or a fault reset the connection
            super().handle()

    @property
    def hub(self) -> Hub:
        return self.server.hub

    def begin(self) -> None:
        time.sleep(self.hub.faults.slow_seconds)
        if token := self.headers.get("Authorization"):
            self.hub.tokens[self.kind].add(token)

    def send(self, status: int, body: bytes = b"", headers: Mapping[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def send_file(self, name: str, content: bytes, headers: Mapping[str, str]) -> None:
        """Send a file, or the part that is asked for."""
        faults = self.hub.faults
        if any(fnmatch.fnmatch(name, pattern) for pattern in faults.damaged):
            content = content[:-1] + bytes([content[-1] ^ 1])
        if (length := _fault(faults.short, name)) is not None:
            content = content[:length]
        start, status, whole = 0, 200, len(content)
        extra = {"Accept-Ranges": "bytes", **headers}
        if asked := self.headers.get("Range"):
            first, _, last = asked.removeprefix("bytes=").partition("-")
            start, end = int(first), min(int(last or whole - 1), whole - 1)
            if start >= whole:
                return self.send(416, headers={"Content-Range": f"bytes */{whole}"})
            status, content = 206, content[start : end + 1]
            extra["Content-Range"] = f"bytes {start}-{end}/{whole}"
        self.send_response(status)
        for key, value in {"Content-Length": str(len(content)), **extra}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command == "HEAD":
            return None
        broken, truncated = _fault(faults.broken, name), _fault(faults.truncated, name)
        for end, reset in ((broken, True), (truncated, False)):
            if end is not None and end < start + len(content):
                self.wfile.write(content[: max(0, end - start)])
                self.wfile.flush()
                if reset:  # no orderly end: the client sees a reset connection
                    time.sleep(0.05)  # what was sent has to arrive before
                    self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    self.connection.close()
                    raise ConnectionResetError
                self.close_connection = True
                return None
        self.wfile.write(content)
        return None


def _fault(faults: Mapping[str, int], name: str) -> int | None:
    return next((value for pattern, value in faults.items() if fnmatch.fnmatch(name, pattern)), None)


class _LargeHandler(_Handler):
    """Where large files are: `/KIND/NAME/COMMIT?path=PATH`."""

    kind = "large"

    def do_GET(self):
        self.begin()
        parts = urlsplit(self.path)
        kind, *names, commit = parts.path.strip("/").split("/")
        name, path = "/".join(names), parse_qs(parts.query)["path"][0]
        self.hub.requests.append(f"{self.command} /large/{name}/{path}")
        content = (self.server.folder / kind / name / "commits" / commit / path).read_bytes()
        self.send_file(f"{name}/{path}", content, {"ETag": f'"{hashlib.md5(content).hexdigest()}"'})

    do_HEAD = do_GET


class _HubHandler(_Handler):
    """The hub itself: what is where, and small files."""

    kind = "hub"

    def do_GET(self):
        self.begin()
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.hub.requests.append(f"{self.command} {self.path}")
        try:
            self._answer(body)
        except _Refusal as refusal:
            headers = {"X-Error-Message": refusal.message}
            if refusal.code:
                headers["X-Error-Code"] = refusal.code
            self.send(refusal.status, json.dumps({"error": refusal.message}).encode(), headers)

    do_HEAD = do_POST = do_GET

    def _answer(self, body: bytes) -> None:
        # Revisions and paths are quoted as one part each: `/api/models/o/n/tree/refs%2Fpr%2F1/sub%2Ffolder`.
        parts = [unquote(part) for part in urlsplit(self.path).path.strip("/").split("/")]
        api = parts[0] == "api"
        parts = parts[1:] if api else parts
        kind = parts.pop(0) if parts and parts[0] in ("models", "datasets", "spaces") else "models"
        verbs = ("revision", "tree", "paths-info", "refs") if api else ("resolve",)
        end = next((index for index, part in enumerate(parts) if part in verbs), len(parts))
        name, rest = "/".join(parts[:end]), parts[end:]
        if not parts or (not api and not rest):
            raise _Refusal(404, "", "Not Found")
        for pattern, status in self.hub.faults.status.items():
            if fnmatch.fnmatch(name, pattern):
                raise _Refusal(status, "", "Internal Error - We're working hard to fix this as soon as possible!")
        if (moved := self.server.folder / kind / f"{name}.moved").is_file():
            location = self.path.replace(f"/{name}", f"/{moved.read_text()}", 1)
            return self.send(307, headers={"Location": location})
        repository = self.server.folder / kind / name
        if not (repository / "refs").is_dir():
            if "Authorization" in self.headers:
                raise _Refusal(404, "RepoNotFound", "Repository not found")
            raise _Refusal(401, "RepoNotFound", "Invalid username or password.")
        verb = rest[0] if rest else "revision"
        if verb == "refs":
            return self._refs(repository)
        revision = rest[1] if len(rest) > 1 else "main"
        commit = self._commit(repository, revision)
        if verb == "resolve":
            return self._resolve(kind, name, repository, commit, "/".join(rest[2:]))
        files = self._files(repository, commit)
        if verb == "revision":
            return self._json(self._info(name, commit, files))
        if verb == "tree":
            return self._tree(files, "/".join(rest[2:]))
        wanted = parse_qs(body.decode()).get("paths", [])
        entries = {entry["path"]: entry for entry in _entries(files)}
        return self._json([entries[path] for path in wanted if path in entries])

    def _json(self, content: object) -> None:
        self.send(200, json.dumps(content).encode(), {"Content-Type": "application/json"})

    def _refs(self, repository: Path) -> None:
        refs = {
            path.relative_to(repository / "refs").as_posix(): path.read_text()
            for path in (repository / "refs").rglob("*")
            if path.is_file()
        }
        branches = [
            {"name": name, "ref": f"refs/heads/{name}", "targetCommit": commit} for name, commit in refs.items()
        ]
        self._json({"branches": branches, "converts": [], "tags": []})

    def _commit(self, repository: Path, revision: str) -> str:
        if (repository / "refs" / revision).is_file():
            return (repository / "refs" / revision).read_text()
        if (repository / "commits" / revision).is_dir():
            return revision
        raise _Refusal(404, "RevisionNotFound", f"Invalid rev id: {revision}")

    def _files(self, repository: Path, commit: str) -> list[_File]:
        root = repository / "commits" / commit
        paths = sorted(path for path in root.rglob("*") if path.is_file())
        return [_File(path.relative_to(root).as_posix(), path.read_bytes()) for path in paths]

    def _info(self, name: str, commit: str, files: list[_File]) -> dict[str, object]:
        gated = "manual" if name in self.hub.faults.gated else False
        siblings = [{"rfilename": file.path} for file in files]
        return {"id": name, "sha": commit, "private": False, "gated": gated, "disabled": False, "tags": [],
                "downloads": 0, "likes": 0, "siblings": siblings}  # fmt: skip

    def _tree(self, files: list[_File], under: str) -> None:
        recursive = parse_qs(urlsplit(self.path).query).get("recursive", ["false"])[0].lower() == "true"
        inside = [entry for entry in _entries(files) if not under or entry["path"].startswith(f"{under}/")]
        if under and not inside:
            raise _Refusal(404, "EntryNotFound", f"{under} does not exist")
        depth = under.count("/") + 1 if under else 0
        self._json([entry for entry in inside if recursive or entry["path"].count("/") == depth])

    def _resolve(self, kind: str, name: str, repository: Path, commit: str, path: str) -> None:
        if name in self.hub.faults.gated:
            token = self.headers.get("Authorization", "").removeprefix("Bearer ")
            if token not in self.hub.faults.granted:
                status = 403 if token else 401
                raise _Refusal(status, "GatedRepo", f"Access to {kind[:-1]} {name} is restricted.")
        target = repository / "commits" / commit / path
        if not target.is_file():
            message = json.dumps({"error": "Entry not found"}).encode()
            headers = {"X-Error-Code": "EntryNotFound", "X-Error-Message": "Entry not found", "X-Repo-Commit": commit}
            return self.send(404, message, headers)
        file = _File(path, target.read_bytes())
        headers = {"X-Repo-Commit": commit}
        if not file.large:
            return self.send_file(f"{name}/{path}", file.content, {**headers, "ETag": f'"{file.etag}"'})
        headers |= {
            "X-Linked-Size": str(len(file.content)),
            "X-Linked-ETag": f'"{file.etag}"',
            "Location": f"{self.server.large}/{kind}/{name}/{commit}?path={quote(path)}",
        }
        return self.send(302, headers=headers)


def _entries(files: list[_File]) -> list[dict[str, object]]:
    """Files and the folders that hold them."""
    folders = {parent.as_posix() for file in files for parent in Path(file.path).parents} - {"."}
    tree = [
        {"type": "directory", "path": path, "oid": hashlib.sha1(path.encode()).hexdigest(), "size": 0}
        for path in sorted(folders)
    ]
    return tree + [file.entry() for file in files]
