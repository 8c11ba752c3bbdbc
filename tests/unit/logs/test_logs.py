"""Logs: machine-readable where asked, and never a secret in them."""

import importlib
import json
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog

from node.logs import LIBP2P_LINES_PER_MINUTE_MAX, LibraryLimit, configure_logs


@pytest.fixture(autouse=True)
def _restore_logging() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers = handlers
    root.setLevel(level)
    structlog.reset_defaults()


def lines(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_an_event_is_one_json_line_with_its_values(tmp_path: Path) -> None:
    file = tmp_path / "log"
    configure_logs("info", "json", file)
    structlog.get_logger("node.example").info("block seen", number=7)
    (line,) = lines(file)
    assert line["event"] == "block seen"
    assert line["number"] == 7
    assert line["level"] == "info"
    assert line["logger"] == "node.example"


def test_secrets_are_struck_out(tmp_path: Path) -> None:
    file = tmp_path / "log"
    configure_logs("info", "json", file)
    structlog.get_logger("node.example").info(
        "unlocking",
        passphrase="hunter2",
        account_private_key="hunter2",
        url="https://user:hunter2@rpc.example/v3/hunter2hunter2hunter2",
    )
    text = file.read_text(encoding="utf-8")
    assert "hunter2" not in text
    assert "rpc.example" in text


def test_libp2p_speaks_through_our_log_though_it_sets_up_its_own(tmp_path: Path) -> None:
    importlib.import_module("libp2p")
    file = tmp_path / "log"
    configure_logs("info", "json", file)
    logging.getLogger("libp2p.pubsub").warning("loud")
    assert [line["event"] for line in lines(file)] == ["loud"]


def test_debug_is_silent_at_info_and_libraries_below_warning(tmp_path: Path) -> None:
    file = tmp_path / "log"
    configure_logs("info", "json", file)
    structlog.get_logger("node.example").debug("quiet")
    logging.getLogger("httpx").info("quiet")
    logging.getLogger("libp2p").warning("loud")
    assert [line["event"] for line in lines(file)] == ["loud"]


def test_a_traceback_in_the_console_format_is_plain_text(tmp_path: Path) -> None:
    file = tmp_path / "log"
    configure_logs("debug", "console", file)
    try:
        raise ValueError("broken")
    except ValueError as error:
        structlog.get_logger("node.example").debug("traceback", exc_info=error)
    text = file.read_text(encoding="utf-8")
    assert "ValueError: broken" in text
    assert "\x1b" not in text


def test_libp2p_cannot_be_made_to_fill_the_disk_and_says_what_was_left_out() -> None:
    now = 0.0
    limit = LibraryLimit(lambda: now)

    def passes(name: str) -> logging.LogRecord | None:
        record = logging.LogRecord(name, logging.WARNING, "", 0, "handshake of %s failed", ("a peer",), None)
        return record if limit.filter(record) else None

    passed = [passes("libp2p.transport") for _ in range(LIBP2P_LINES_PER_MINUTE_MAX + 7)]
    assert sum(record is not None for record in passed) == LIBP2P_LINES_PER_MINUTE_MAX
    assert passes("p2p.host") is not None
    now = 60.0
    first = passes("libp2p")
    assert first is not None
    assert first.getMessage() == "handshake of a peer failed (before this 7 lines were left out)"
    second = passes("libp2p")
    assert second is not None
    assert second.getMessage() == "handshake of a peer failed"
