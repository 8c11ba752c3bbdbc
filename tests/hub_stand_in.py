"""A local server that speaks the Hugging Face Hub's real endpoints, and fails in the ways the real one does.

Driven by the real huggingface_hub: revisions, the tree with pages, `resolve` with ETags, linked ETags and sizes,
ranges, redirects of LFS files to a content network of another origin, LFS pointers, gated and private repositories.
"""

import hashlib
import json
import re
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

TREE_PAGE = 2
"""Entries in one page of the tree; the real Hub has 1,000."""
PIECE_BYTES = 64 * 1024


def commit_of(text: str) -> str:
    """Return a commit hash for a name."""
    return hashlib.sha1(text.encode()).hexdigest()


def git_blob(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


@dataclass
class Repository:
    """A repository: the files of each commit, and what its branches point to."""

    commits: dict[str, dict[str, bytes]]
    branches: dict[str, str]
    lfs: frozenset[str] = frozenset()
    gated: bool = False
    private: bool = False
    readers: frozenset[str] = frozenset()
    """Tokens that may read it, where it is gated or private."""
    task: str = "text-generation"

    def commit(self, revision: str) -> str | None:
        found = self.branches.get(revision, revision)
        return found if found in self.commits else None


def repository(files: dict[str, bytes], *, lfs: frozenset[str] = frozenset(), **more: object) -> Repository:
    """Return a repository with one commit on `main`."""
    commit = commit_of("first")
    return Repository({commit: files}, {"main": commit}, lfs, **more)  # type: ignore[arg-type]


@dataclass
class Faults:
    """What goes wrong. Counts are used up one by one."""

    cut_after: dict[str, list[int]] = field(default_factory=dict)
    """Path → bytes after which each of the next answers is cut off."""
    stall_after: dict[str, list[int]] = field(default_factory=dict)
    """Path → bytes after which each of the next answers stalls, until the server is closed."""
    wrong_bytes: Counter[str] = field(default_factory=Counter)
    """Path → how many of the next answers have a wrong byte."""
    statuses: dict[str, list[int]] = field(default_factory=dict)
    """Beginning of a request's path → statuses that the next requests get."""
    answers_with_commit: dict[str, str] = field(default_factory=dict)
    """Path → commit that `resolve` claims to be of: a hub that mixes versions."""
    no_ranges: bool = False


class HubStandIn:
    """The Hub's server and its content network. Made by `hub_stand_in`."""

    def __init__(self) -> None:
        self.repositories: dict[str, Repository] = {}
        self.faults = Faults()
        self.releases: dict[str, bytes] = {}
        """Files of a web server at `cdn_url/release/NAME`."""
        self.redirects: dict[str, str] = {}
        """Path on the content network's server → where it redirects to."""
        self.requests: list[tuple[str, str, dict[str, str]]] = []
        """(method, path, headers in lower case) of all requests to the Hub."""
        self.cdn_requests: list[tuple[str, str, dict[str, str]]] = []
        self.sent: Counter[str] = Counter()
        """Bytes of bodies by file."""
        self.closing = threading.Event()
        self.url = ""
        self.cdn_url = ""
        self.lock = threading.Lock()

    def take(self, queue: dict[str, list[int]], key: str) -> int | None:
        """Take the next of a fault's counts."""
        with self.lock:
            waiting = queue.get(key)
            return waiting.pop(0) if waiting else None

    def blob(self, digest: str) -> tuple[str, bytes] | None:
        for repo in self.repositories.values():
            for files in repo.commits.values():
                for path, data in files.items():
                    if hashlib.sha256(data).hexdigest() == digest:
                        return path, data
        return None


@contextmanager
def hub_stand_in() -> Iterator[HubStandIn]:
    """Run the two servers until the context is left."""
    hub = HubStandIn()
    servers = [_serve(_hub_handler(hub)), _serve(_cdn_handler(hub))]
    hub.url, hub.cdn_url = (f"http://127.0.0.1:{server.server_port}" for server, _ in servers)
    try:
        yield hub
    finally:
        hub.closing.set()
        for server, thread in servers:
            server.shutdown()
            server.server_close()
            thread.join()


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_: object) -> None:
        """Clients that go away in the middle are what these tests are about."""


def _serve(handler: type[BaseHTTPRequestHandler]) -> tuple[ThreadingHTTPServer, threading.Thread]:
    server = _Server(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=lambda: server.serve_forever(poll_interval=0.02), daemon=True)
    thread.start()
    return server, thread


class _Handler(BaseHTTPRequestHandler):
    hub: HubStandIn
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def reply(self, status: int, body: bytes = b"", headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def refuse(self, status: int, code: str, message: str) -> None:
        body = json.dumps({"error": message}).encode()
        self.reply(status, body, {"X-Error-Code": code, "X-Error-Message": message, "Content-Type": "application/json"})

    def send_file(self, name: str, data: bytes, headers: dict[str, str]) -> None:
        """Answer with a file or a range of it, as far as the faults let it."""
        faults = self.hub.faults
        start, status = 0, 200
        found = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        same = self.headers.get("If-Range") in (None, headers.get("ETag"))
        if found and same and not faults.no_ranges:
            start = int(found[1])
            if start >= len(data):
                self.reply(416, b"", {"Content-Range": f"bytes */{len(data)}"})
                return
            status = 206
            headers = {**headers, "Content-Range": f"bytes {start}-{len(data) - 1}/{len(data)}"}
        body = data[start:]
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Accept-Ranges", "bytes")
        self.end_headers()
        if self.command == "HEAD":
            return
        cut, stall = self.hub.take(faults.cut_after, name), self.hub.take(faults.stall_after, name)
        if faults.wrong_bytes[name] > 0:
            faults.wrong_bytes[name] -= 1
            body = bytes([body[0] ^ 1]) + body[1:]
        end = min(cut if cut is not None else len(body), stall if stall is not None else len(body))
        for at in range(0, end, PIECE_BYTES):
            piece = body[at : min(at + PIECE_BYTES, end)]
            self.wfile.write(piece)
            with self.hub.lock:
                self.hub.sent[name] += len(piece)
        if stall is not None:
            self.wfile.flush()
            self.hub.closing.wait(60)
        if end < len(body):
            self.close_connection = True


def _hub_handler(the_hub: HubStandIn) -> type[BaseHTTPRequestHandler]:
    class Hub(_Handler):
        hub = the_hub

        def do_HEAD(self) -> None:
            self._answer()

        def do_GET(self) -> None:
            self._answer()

        def _answer(self) -> None:
            parts = urlsplit(self.path)
            path = unquote(parts.path)
            self.hub.requests.append((self.command, path, {k.lower(): v for k, v in self.headers.items()}))
            for prefix in list(self.hub.faults.statuses):
                if path.startswith(prefix) and (status := self.hub.take(self.hub.faults.statuses, prefix)):
                    self.reply(status, b"try later")
                    return
            for pattern, answer in (
                (r"/api/models/(?P<repo>[^/]+(?:/[^/]+)?)/revision/(?P<revision>.+)", self._info),
                (r"/api/models/(?P<repo>[^/]+(?:/[^/]+)?)/tree/(?P<revision>.+)", self._tree),
                (r"/(?P<repo>[^/]+(?:/[^/]+)?)/resolve/(?P<revision>[^/]+)/(?P<path>.+)", self._resolve),
                (r"/(?P<repo>[^/]+(?:/[^/]+)?)/raw/(?P<revision>[^/]+)/(?P<path>.+)", self._raw),
                (r"/api/models/(?P<repo>[^/]+(?:/[^/]+)?)", self._info),
            ):
                if found := re.fullmatch(pattern, path):
                    given = found.groupdict()
                    repo = self._allowed(given.pop("repo"))
                    if repo is not None:
                        answer(repo, **given)
                    return
            self.refuse(404, "", "no such page")

        def _allowed(self, name: str) -> Repository | None:
            repo = self.hub.repositories.get(name)
            token = self.headers.get("Authorization", "").removeprefix("Bearer ")
            if repo is None or (repo.private and token not in repo.readers):
                self.refuse(404 if token else 401, "RepoNotFound", "Repository not found")
                return None
            if repo.gated and token not in repo.readers and not self.path.startswith("/api/"):
                status = 403 if token else 401
                self.refuse(status, "GatedRepo", f"Access to model {name} is restricted.")
                return None
            return repo

        def _files(self, repo: Repository, revision: str) -> tuple[str, dict[str, bytes]] | None:
            commit = repo.commit(revision)
            if commit is None:
                self.refuse(404, "RevisionNotFound", f"Invalid rev id: {revision}")
                return None
            return commit, repo.commits[commit]

        def _info(self, repo: Repository, revision: str = "main") -> None:
            if found := self._files(repo, revision):
                commit, files = found
                name = next(name for name, entry in self.hub.repositories.items() if entry is repo)
                info = {
                    "id": name,
                    "sha": commit,
                    "pipeline_tag": repo.task,
                    "gated": "auto" if repo.gated else False,
                    "private": repo.private,
                    "siblings": [{"rfilename": path} for path in files],
                }
                self.reply(200, json.dumps(info).encode(), {"Content-Type": "application/json"})

        def _tree(self, repo: Repository, revision: str) -> None:
            if found := self._files(repo, revision):
                entries = [_tree_entry(path, data, path in repo.lfs) for path, data in found[1].items()]
                directories = sorted({path.rpartition("/")[0] for path in found[1]} - {""})
                entries += [
                    {"type": "directory", "path": path, "oid": commit_of(path), "size": 0} for path in directories
                ]
                query = parse_qs(urlsplit(self.path).query)
                start = int(query.get("cursor", ["0"])[0])
                headers = {"Content-Type": "application/json"}
                if start + TREE_PAGE < len(entries):
                    page = f"{self.hub.url}{urlsplit(self.path).path}?recursive=true&cursor={start + TREE_PAGE}"
                    headers["Link"] = f'<{page}>; rel="next"'
                self.reply(200, json.dumps(entries[start : start + TREE_PAGE]).encode(), headers)

        def _resolve(self, repo: Repository, revision: str, path: str) -> None:
            if not (found := self._files(repo, revision)):
                return
            commit, files = found
            if path not in files:
                self.refuse(404, "EntryNotFound", "Entry not found")
                return
            data = files[path]
            commit = self.hub.faults.answers_with_commit.get(path, commit)
            if path not in repo.lfs:
                self.send_file(path, data, {"X-Repo-Commit": commit, "ETag": f'"{git_blob(data)}"'})
                return
            digest = hashlib.sha256(data).hexdigest()
            self.reply(
                302,
                b"",
                {
                    "X-Repo-Commit": commit,
                    "X-Linked-ETag": f'"{digest}"',
                    "X-Linked-Size": str(len(data)),
                    "Location": f"{self.hub.cdn_url}/blobs/{digest}?signature=good",
                },
            )

        def _raw(self, repo: Repository, revision: str, path: str) -> None:
            if found := self._files(repo, revision):
                data = found[1][path]
                self.reply(200, lfs_pointer(data) if path in repo.lfs else data)

    return Hub


def _cdn_handler(the_hub: HubStandIn) -> type[BaseHTTPRequestHandler]:
    class ContentNetwork(_Handler):
        hub = the_hub

        def do_HEAD(self) -> None:
            self._answer()

        def do_GET(self) -> None:
            self._answer()

        def _answer(self) -> None:
            parts = urlsplit(self.path)
            self.hub.cdn_requests.append((self.command, self.path, {k.lower(): v for k, v in self.headers.items()}))
            if status := self.hub.take(self.hub.faults.statuses, "cdn"):
                self.reply(status, b"try later")
                return
            if parts.path in self.hub.redirects:
                self.reply(302, b"", {"Location": self.hub.redirects[parts.path]})
                return
            if parts.path.startswith("/release/"):
                name = parts.path.removeprefix("/release/")
                if name not in self.hub.releases:
                    self.reply(404, b"no such file")
                    return
                data = self.hub.releases[name]
                self.send_file(name, data, {"ETag": f'"{hashlib.md5(data).hexdigest()}"'})
                return
            found = self.hub.blob(parts.path.rpartition("/")[2])
            if found is None or parse_qs(parts.query).get("signature") != ["good"]:
                self.reply(403, b"signature expired")
                return
            path, data = found
            self.send_file(path, data, {"ETag": f'"{hashlib.md5(data).hexdigest()}"'})

    return ContentNetwork


def lfs_pointer(data: bytes) -> bytes:
    """Return what git has in place of a large file."""
    digest = hashlib.sha256(data).hexdigest()
    return f"version https://git-lfs.github.com/spec/v1\noid sha256:{digest}\nsize {len(data)}\n".encode()


def _tree_entry(path: str, data: bytes, is_lfs: bool) -> dict[str, object]:
    pointer = lfs_pointer(data)
    entry: dict[str, object] = {"type": "file", "path": path, "size": len(data)}
    entry["oid"] = git_blob(pointer if is_lfs else data)
    if is_lfs:
        digest = hashlib.sha256(data).hexdigest()
        entry["lfs"] = {"oid": digest, "size": len(data), "pointerSize": len(pointer)}
    return entry
