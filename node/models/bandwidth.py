"""A limit on the bytes per second of all downloads together."""

import threading
import time
from collections.abc import Callable

BURST_SECONDS = 0.25
"""How much of the rate may come at once: enough not to stutter, too little for a neighbour to notice."""


class BandwidthLimit:
    """A bucket of bytes, shared by threads. `take` says how long to pause after some bytes came."""

    def __init__(self, bytes_per_second: int, clock: Callable[[], float] = time.monotonic) -> None:
        """0 bytes per second is no limit."""
        self._rate = bytes_per_second
        self._clock = clock
        self._lock = threading.Lock()
        self._free_at = 0.0
        """When what was taken so far would have come at the rate."""

    def take(self, count: int) -> float:
        """Note that `count` bytes came; return the seconds to wait before the next are read."""
        if self._rate == 0:
            return 0.0
        with self._lock:
            now = self._clock()
            self._free_at = max(self._free_at, now - BURST_SECONDS) + count / self._rate
            return max(0.0, self._free_at - now)
