"""Downloads from the Hub, against a stand-in server with the part of its API that is used: no real one is here."""

import hashlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from node.models.hub import HubDownloads, HubError, download_model, resolve_revision

COMMIT = "c0ffee" + "0" * 34
FILES = {
    "config.json": b'{"architectures": ["LlamaForCausalLM"]}',
    "model.safetensors": b"numbers",
    "pytorch_model.bin": b"\x80\x04 this would run code",
    "modeling.py": b"import os",
}


class StandIn(BaseHTTPRequestHandler):
    """One repository at one commit."""

    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        if self.path.startswith(tuple(f"/api/models/owner/model/revision/{name}" for name in (COMMIT, "v1"))):
            siblings = [{"rfilename": name, "size": len(data)} for name, data in FILES.items()]
            body = json.dumps({"id": "owner/model", "sha": COMMIT, "siblings": siblings}).encode()
            self._send(200, body, "application/json")
        elif self.path.startswith(f"/api/models/owner/model/tree/{COMMIT}"):
            tree = [
                {"type": "file", "path": name, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}
                for name, data in FILES.items()
            ]
            self._send(200, json.dumps(tree).encode(), "application/json")
        elif self.path.startswith(f"/owner/model/resolve/{COMMIT}/"):
            data = FILES[self.path.rsplit("/", 1)[1]]
            self._send(200, data, "application/octet-stream")
        else:
            self._send(404, b"{}", "application/json")

    def _send(self, status: int, body: bytes, content_type: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("ETag", f'"{hashlib.sha256(body).hexdigest()}"')
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)


@pytest.fixture
def endpoint(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[str]:
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    server = ThreadingHTTPServer(("127.0.0.1", 0), StandIn)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


def test_a_model_is_downloaded_without_code_or_pickles(endpoint: str, tmp_path: Path) -> None:
    path = download_model("owner/model", COMMIT, tmp_path / "model", endpoint=endpoint)
    files = {entry.name: entry.read_bytes() for entry in path.iterdir() if entry.is_file()}
    assert files == {name: FILES[name] for name in ("config.json", "model.safetensors")}


def test_a_branch_is_refused_because_it_may_change(tmp_path: Path) -> None:
    with pytest.raises(HubError, match="exact version"):
        download_model("owner/model", "main", tmp_path / "model")


def test_an_unknown_repository_is_an_error_with_its_name(endpoint: str, tmp_path: Path) -> None:
    with pytest.raises(HubError, match="owner/absent"):
        download_model("owner/absent", COMMIT, tmp_path / "model", endpoint=endpoint)


def test_a_tag_is_resolved_to_the_commit_it_is_now_and_a_commit_is_itself(endpoint: str) -> None:
    assert resolve_revision("owner/model", "v1", endpoint=endpoint) == COMMIT
    assert resolve_revision("owner/model", COMMIT, endpoint="http://127.0.0.1:9") == COMMIT


def test_a_revision_that_is_not_there_is_named(endpoint: str) -> None:
    with pytest.raises(HubError, match="owner/model at v2"):
        resolve_revision("owner/model", "v2", endpoint=endpoint)


def test_a_hub_that_does_not_answer_is_an_error_with_the_repository(tmp_path: Path) -> None:
    for ask in (
        lambda: resolve_revision("owner/model", "v1", endpoint="http://127.0.0.1:9"),
        lambda: download_model("owner/model", COMMIT, tmp_path / "model", endpoint="http://127.0.0.1:9"),
    ):
        with pytest.raises(HubError, match="owner/model at"):
            ask()


def test_the_bytes_of_a_download_are_counted_once(endpoint: str, tmp_path: Path) -> None:
    counted: list[int] = []
    download_model("owner/model", COMMIT, tmp_path / "model", endpoint=endpoint, advance=counted.append)
    assert sum(counted) == sum(len(FILES[name]) for name in ("config.json", "model.safetensors"))


def test_pickled_weights_are_downloaded_only_if_asked_for(endpoint: str, tmp_path: Path) -> None:
    path = download_model("owner/model", COMMIT, tmp_path / "model", endpoint=endpoint, with_pickles=True)
    assert (path / "pytorch_model.bin").read_bytes() == FILES["pytorch_model.bin"]
    assert not (path / "modeling.py").exists()


def test_a_download_counts_as_whole_only_after_it_was_noted_and_its_names_are_kept(tmp_path: Path) -> None:
    downloads = HubDownloads(tmp_path)
    downloads.place("owner/model", COMMIT).mkdir(parents=True)
    for revision in ("main", COMMIT):
        with pytest.raises(HubError, match="not downloaded to its end"):
            downloads.known_commit("owner/model", revision)
    downloads.note_whole("owner/model", COMMIT, "main")
    downloads.note_whole("owner/model", COMMIT, "v1")
    assert {downloads.known_commit("owner/model", name) for name in ("main", "v1", COMMIT)} == {COMMIT}
    (tmp_path / "owner--model" / "references.json").write_text("[")
    with pytest.raises(HubError, match="not downloaded to its end"):
        downloads.known_commit("owner/model", "main")


@pytest.mark.parametrize("repository", ["../x", "a/b/c", "", "/etc", "a/.."])
def test_a_name_that_is_no_repository_makes_no_path(tmp_path: Path, repository: str) -> None:
    with pytest.raises(HubError, match="no name of a repository"):
        HubDownloads(tmp_path).place(repository, COMMIT)
