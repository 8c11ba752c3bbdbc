"""Calls from threads into the event loop: it is woken once for all that were made before it came to listen.

Waking it costs as much as hashing 50 kB, and trio's own way back from a thread does so every time.
"""

import threading
from collections.abc import Callable
from contextlib import suppress

import trio


class LoopCalls:
    """Made in the event loop's thread."""

    def __init__(self) -> None:
        self._trio = trio.lowlevel.current_trio_token()
        self._lock = threading.Lock()
        self._calls: list[Callable[[], object]] = []
        self._is_told = False
        """Whether the event loop was told and has not looked yet."""

    def make(self, call: Callable[[], object]) -> None:
        """Have the event loop make `call`, which must not raise, in the order of asking. For any thread.

        Nothing happens if the event loop has ended.
        """
        with self._lock:
            self._calls.append(call)
            must_tell, self._is_told = not self._is_told, True
        if must_tell:
            with suppress(trio.RunFinishedError):
                self._trio.run_sync_soon(self._make_all)

    def _make_all(self) -> None:
        with self._lock:
            calls, self._calls = self._calls, []
            self._is_told = False
        for call in calls:
            call()
