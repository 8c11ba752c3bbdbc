"""Models stay served where the manager puts them, and the tokens of gateways are read from private files."""

from pathlib import Path

import pytest

from node.models.content_tokens import read_gateway_token, read_provider_tokens
from node.models.holding import ModelHolding
from node.models.registry import ModelEntry
from node.models.states import ModelStatus
from node.ports import ContentUnavailableError
from node.private_files import PrivateFileError
from node.protocol.identifiers import Cid


class Content:
    def __init__(self) -> None:
        self.held: list[tuple[str, Path]] = []
        self.refused: set[str] = set()

    async def hold_directory(self, cid: Cid, directory: Path) -> None:
        self.held.append((cid, directory))
        if cid in self.refused:
            raise ContentUnavailableError("other files")


class Entry:
    def __init__(self, path: str, cid: str | None, status: ModelStatus = ModelStatus.AVAILABLE) -> None:
        self.path = Path(path)
        self.metadata = {} if cid is None else {"cid": cid}
        self.status = status


class Registry:
    def __init__(self, *entries: Entry) -> None:
        self.found: tuple[Entry, ...] = entries

    def query(self) -> "tuple[ModelEntry, ...]":
        return self.found  # type: ignore[return-value]


async def test_available_models_are_held_once_and_again_when_they_move() -> None:
    content = Content()
    registry = Registry(
        Entry("/one", "cid1"),
        Entry("/hub", None),
        Entry("/half", "cid2", ModelStatus.DOWNLOADING),
    )
    holding = ModelHolding(content, registry)  # type: ignore[arg-type]
    await holding.look()
    await holding.look()
    assert content.held == [("cid1", Path("/one"))]
    registry.found = (Entry("/cold/one", "cid1"),)
    await holding.look()
    assert content.held[-1] == ("cid1", Path("/cold/one"))


async def test_one_model_that_cannot_be_held_does_not_keep_others_back() -> None:
    content = Content()
    content.refused.add("a")
    await ModelHolding(content, Registry(Entry("/a", "a"), Entry("/b", "b"))).look()  # type: ignore[arg-type]
    assert [cid for cid, _ in content.held] == ["a", "b"]


def private(path: Path, text: str) -> Path:
    path.write_text(text)
    path.chmod(0o600)
    return path


def test_tokens_come_from_private_files_only(tmp_path: Path) -> None:
    assert read_gateway_token(None) == ""
    assert read_gateway_token(private(tmp_path / "a", "# mine\n0123456789abcdef\n")) == "0123456789abcdef"
    (tmp_path / "a").chmod(0o644)
    with pytest.raises(PrivateFileError):
        read_gateway_token(tmp_path / "a")
    for text in ("", "short", "with space 0123456789abcdef"):
        with pytest.raises(PrivateFileError, match="no token"):
            read_gateway_token(private(tmp_path / "b", text))


def test_tokens_of_providers_are_read_by_address(tmp_path: Path) -> None:
    assert read_provider_tokens(None) == {}
    file = private(tmp_path / "a", "10.0.0.1:4802 0123456789abcdef\n[::1]:4802  fedcba9876543210\n")
    assert read_provider_tokens(file) == {"10.0.0.1:4802": "0123456789abcdef", "[::1]:4802": "fedcba9876543210"}
    with pytest.raises(PrivateFileError, match="each line"):
        read_provider_tokens(private(tmp_path / "b", "10.0.0.1 0123456789abcdef"))
