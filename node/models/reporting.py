"""How long work on models says how far it is: the interface, and plain lines for logs, pipes and tests."""

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

Tell = Callable[[str], None]
"""Told a line for the owner."""
Advance = Callable[[int], None]
"""Told the number of bytes just done; from any thread."""

PERCENT_STEP = 10
QUIET_BYTES_MAX = 64 * 1024 * 1024
"""Work that is done in a moment needs no lines on how far it is."""
LINE_BYTES = 256 * 1024 * 1024
"""A line so often where the whole is not known."""


class Reporter(Protocol):
    """Shows an owner what is going on."""

    def tell(self, line: str) -> None:
        """Say something that stays."""

    def step(self, what: str, total_bytes: int) -> AbstractContextManager[Advance]:
        """Show how far one piece of work is, until the context is left. `total_bytes` 0 means not known."""


class LineReporter:
    """A line at every tenth of the work, or, where the whole is not known, at every so many bytes."""

    def __init__(self, tell: Tell) -> None:
        self.tell = tell

    @contextmanager
    def step(self, what: str, total_bytes: int) -> Iterator[Advance]:
        """See `Reporter`."""
        lock = threading.Lock()
        done = 0

        def advance(count: int) -> None:
            nonlocal done
            with lock:
                before, done = done, done + count
                if total_bytes == 0 and done // LINE_BYTES != before // LINE_BYTES:
                    self.tell(f"  {what}: {done // 2**20} MiB")
                elif total_bytes > QUIET_BYTES_MAX:
                    percent = 100 * done // total_bytes
                    if percent // PERCENT_STEP != 100 * before // total_bytes // PERCENT_STEP:
                        self.tell(f"  {what}: {percent} % ({done // 2**20} of {total_bytes // 2**20} MiB)")

        yield advance
