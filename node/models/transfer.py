"""How far a download has come, counted by the threads and tasks that bring it, within the limit on bandwidth."""

import threading
import time
from collections.abc import Callable

import trio

from node.models.bandwidth import BandwidthLimit

RATE_SECONDS = 5.0
"""Time over which the speed is averaged."""


class Transfer:
    """The counters of one download. Safe to use from several threads."""

    def __init__(self, limit: BandwidthLimit, clock: Callable[[], float] = time.monotonic) -> None:
        self._limit = limit
        self._clock = clock
        self._lock = threading.Lock()
        self._highest = 0
        self._came: list[tuple[float, int]] = []
        self.bytes_done = 0
        """Bytes on this disk, those of earlier tries included."""
        self.bytes_new = 0
        """Bytes that came in this process, less those that were discarded: what was gained."""
        self.activity = 0
        """All bytes that were ever counted: it only grows, and stands still when nothing happens."""
        self.bytes_total = 0
        self.files_done = 0
        self.files_total = 0

    def begin(self, *, bytes_done: int, bytes_total: int, files_done: int, files_total: int) -> None:
        """Set the counters at the beginning of a try."""
        with self._lock:
            self.bytes_done, self.bytes_total = bytes_done, bytes_total
            self.files_done, self.files_total = files_done, files_total

    def note(self, count: int) -> float:
        """Count bytes that came from the source; return the seconds to pause before more are read."""
        with self._lock:
            self.bytes_done += count
            self._count(count)
        return self._limit.take(count)

    def note_blocking(self, count: int) -> None:
        """`note`, and pause: for worker threads."""
        pause = self.note(count)
        if pause > 0:
            time.sleep(pause)

    async def note_pausing(self, count: int) -> None:
        """`note`, and pause: for tasks."""
        await trio.sleep(self.note(count))

    def note_local(self, count: int) -> None:
        """Count bytes that were on this machine already."""
        with self._lock:
            self.bytes_done += count
            self.activity += count

    def forget(self, count: int) -> None:
        """Take back bytes that were discarded."""
        with self._lock:
            self.bytes_done = max(0, self.bytes_done - count)
            self.bytes_new -= count

    def at(self, bytes_done: int, bytes_total: int) -> None:
        """Set the counters as a source has them that counts by itself, within a limit of its own."""
        with self._lock:
            self._count(max(0, bytes_done - self._highest))  # what an earlier try brought is found again, not gained
            self._highest = max(self._highest, bytes_done)
            self.bytes_done, self.bytes_total = bytes_done, bytes_total

    def file_done(self) -> None:
        """Count a file that is complete and checked."""
        with self._lock:
            self.files_done += 1

    @property
    def bytes_per_second(self) -> float:
        """Speed over the last RATE_SECONDS."""
        now = self._clock()
        with self._lock:
            return sum(count for at, count in self._came if at > now - RATE_SECONDS) / RATE_SECONDS

    def _count(self, count: int) -> None:
        now = self._clock()
        self.bytes_new += count
        self.activity += count
        self._came = [item for item in self._came if item[0] > now - RATE_SECONDS]
        if self._came and now - self._came[-1][0] < RATE_SECONDS / 100:
            at, sum_so_far = self._came.pop()
            self._came.append((at, sum_so_far + count))
        else:
            self._came.append((now, count))
