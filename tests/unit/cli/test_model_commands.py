"""`quern model`: each command against a real model manager behind a real control socket."""

import json
import stat
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from node.cli.main import quern
from node.cli.model import size_in_words
from node.control.methods import Method
from node.control.model_methods import model_method_table
from node.operations.models import DaemonModelOperations
from tests.unit.control.serving import serving_opened
from tests.unit.models.managing import CannedContent, Place, tree

CID = "bafybeifine"
FILES = {"config.json": b"{}", "model.safetensors": b"numbers"}
ID = f"ipfs/{CID}"


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """A data directory, with a daemon in a thread of its own that has the model methods only."""
    place = Place(tmp_path, content=CannedContent({CID: FILES}))
    (tmp_path / "quern.toml").write_text('[control]\nsocket = "c.sock"\n')

    @asynccontextmanager
    async def managed() -> AsyncIterator[dict[str, Method]]:
        async with place.manager() as manager:
            yield model_method_table(DaemonModelOperations(manager, 1000))

    with serving_opened(tmp_path / "c.sock", managed()):
        yield tmp_path


def run(folder: Path, *arguments: str, text: str | None = None) -> Result:
    return CliRunner().invoke(quern, ["model", *arguments, "--data-dir", str(folder)], input=text)


def done(folder: Path, *arguments: str, text: str | None = None) -> str:
    result = run(folder, *arguments, text=text)
    assert result.exit_code == 0, result.output
    return result.stdout


def test_a_model_lives_from_download_to_removal(folder: Path) -> None:
    assert "no models" in done(folder, "list")
    assert f"{ID} is available: 0 files" not in done(folder, "download", CID)
    assert tree(folder / "models" / ID) == FILES
    listed = done(folder, "list")
    assert ID in listed and "available" in listed and "9 B of 1.0 kB on disk" in listed
    assert json.loads(done(folder, "list", "--json"))["models"][0]["model_id"] == ID
    assert CID in done(folder, "show", ID)
    assert "config.json" in done(folder, "files", ID)
    assert json.loads(done(folder, "status", ID, "--json"))["status"] == "available"
    assert "is pinned" in done(folder, "pin", ID)
    refused = run(folder, "remove", ID, "--yes")
    assert (refused.exit_code, "quern model unpin" in refused.stderr) == (1, True)
    done(folder, "unpin", ID)
    assert json.loads(done(folder, "export"))["models"][0]["status"] == "available"
    done(folder, "export", str(folder / "out.json"))
    assert json.loads((folder / "out.json").read_text())["models"][0]["model_id"] == ID
    assert "is removed" in done(folder, "remove", ID, "--yes")
    audit = done(folder, "audit")
    assert all(word in audit for word in ("download", "pin", "unpin", "export", "remove", "operator"))


def test_damage_is_an_exit_code_of_its_own(folder: Path) -> None:
    source = folder / "source"
    source.mkdir()
    (source / "a").write_bytes(b"abc")
    done(folder, "download", str(source), "--id", "custom/mine")
    assert "is whole" in done(folder, "verify", "custom/mine")
    (folder / "models/custom/mine/a").write_bytes(b"abd")
    result = run(folder, "verify", "custom/mine")
    assert (result.exit_code, "other bytes" in result.stderr) == (1, True)
    assert "error: a holds other bytes" in done(folder, "show", "custom/mine")


def test_a_download_that_fails_says_why_and_how_to_go_on(folder: Path) -> None:
    result = run(folder, "download", str(folder / "absent"))
    assert result.exit_code == 1
    assert "not a directory" in result.stderr and "ask again" in result.stderr


def test_nothing_is_removed_unasked(folder: Path) -> None:
    result = run(folder, "remove", ID)
    assert (result.exit_code, "--yes" in result.stderr) == (1, True)


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (("show", "ipfs/absent"), "no model ipfs/absent"),
        (("show", "../etc"), "no model id"),
        (("cancel", "ipfs/absent"), "no model"),
        (("download", "owner/model", "--id", "../x"), "no model id"),
        (("download", "http://host/a", "--id", "custom/a"), "give its sha256"),
    ],
)
def test_what_cannot_be_done_is_told(folder: Path, arguments: tuple[str, ...], part: str) -> None:
    result = run(folder, *arguments)
    assert (result.exit_code, part in result.stderr) == (1, True), result.stderr


def test_the_hub_token_goes_into_a_private_file_and_nowhere_else(folder: Path) -> None:
    output = done(folder, "login", text="hf_secret\n")
    file = folder / "hub.token"
    assert (file.read_text(), stat.S_IMODE(file.stat().st_mode)) == ("hf_secret\n", 0o600)
    assert "hf_secret" not in output + done(folder, "audit")


def test_tokens_of_the_api_are_made_listed_and_removed(folder: Path) -> None:
    made = done(folder, "token", "add", "dashboard", "--role", "operator").strip()
    assert made.startswith("qm_") and made not in (folder / "model-api.tokens").read_text()
    listed = done(folder, "token", "list")
    assert "dashboard" in listed and "operator" in listed and made not in listed
    done(folder, "token", "remove", "dashboard")
    assert run(folder, "token", "remove", "dashboard").exit_code == 1


def test_sizes_are_said_in_words() -> None:
    assert [size_in_words(size) for size in (0, 999, 1500, 2_500_000_000)] == ["0 B", "999 B", "1.5 kB", "2.5 GB"]
