"""Structured logs: one line per event, for people or for machines, with secrets struck out."""

import logging
import re
import sys
import time
from collections.abc import Callable, MutableMapping
from pathlib import Path
from typing import Any, Literal

import structlog
from structlog.typing import Processor

LogLevel = Literal["debug", "info", "warning", "error"]
LogFormat = Literal["console", "json"]

STRUCK_OUT = "***"
SECRET_WORDS = ("passphrase", "password", "private_key", "secret", "authorization", "api_key", "hf_token")
"""A field whose name holds one of these never reaches the log, whatever its value."""
_URL_USER = re.compile(r"(https?://)[^/\s@]+@")
_URL_PATH = re.compile(r"(https?://[^/\s]+)/[^\s,'\"]{16,}")
"""Hosted endpoints carry their key as a long last part of the path."""


LIBP2P_LINES_PER_MINUTE_MAX = 20
"""libp2p complains of every failed handshake and stream: without a bound an attacker fills the disk with its words."""


class LibraryLimit(logging.Filter):
    """Lets so many of libp2p's lines pass in a minute; the first after that says how many were left out."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._clock = clock
        self._minute_began = clock()
        self._lines = 0

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the line is written."""
        if record.name.partition(".")[0] != "libp2p":
            return True
        now = self._clock()
        if now - self._minute_began >= 60:
            left_out = self._lines - LIBP2P_LINES_PER_MINUTE_MAX
            if left_out > 0:
                record.msg, record.args = f"{record.getMessage()} (before this {left_out} lines were left out)", ()
            self._minute_began, self._lines = now, 0
        self._lines += 1
        return self._lines <= LIBP2P_LINES_PER_MINUTE_MAX


def strike_out_secrets(_logger: object, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Remove secrets from an event: fields named like one, and credentials and keys within URLs."""
    for name, value in event.items():
        if any(word in name.lower() for word in SECRET_WORDS):
            event[name] = STRUCK_OUT
        elif isinstance(value, str) and "://" in value:
            event[name] = _URL_PATH.sub(rf"\1/{STRUCK_OUT}", _URL_USER.sub(rf"\1{STRUCK_OUT}@", value))
    return event


def configure_logs(level: LogLevel, log_format: LogFormat, file: Path | None = None) -> None:
    """Send all logs, those of libraries included, to `file` or standard error. Call once, before anything logs.

    Raises OSError if `file` can't be opened.
    """
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info if log_format == "json" else _leave,
        strike_out_secrets,
    ]
    renderer: Processor = (
        structlog.processors.JSONRenderer(ensure_ascii=False)
        if log_format == "json"
        else structlog.dev.ConsoleRenderer(
            colors=file is None and sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback
        )
    )
    formatter = structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=shared,
        processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
    )
    handler = logging.StreamHandler(sys.stderr) if file is None else logging.FileHandler(file, encoding="utf-8")
    handler.setFormatter(formatter)
    handler.addFilter(LibraryLimit())
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(logging.WARNING)  # libraries: only what is wrong
    libp2p = logging.getLogger(
        "libp2p"
    )  # on import it hangs up handlers of its own and keeps its records from the root
    libp2p.handlers, libp2p.propagate = [], True
    libp2p.setLevel(logging.WARNING)
    for ours in ("node", "p2p", "contracts"):
        logging.getLogger(ours).setLevel(level.upper())
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,
    )


def _leave(_logger: object, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    return event
