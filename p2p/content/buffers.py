"""Buffers for blocks that are used again: fresh memory of a mebibyte costs the kernel more than copying into it."""

from collections import OrderedDict

BUFFERS_BYTES_MAX = 32 * 1024 * 1024
"""Idle buffers kept: as many leaves as are in flight from a few sources."""


class BlockBuffers:
    """Lends buffers of exact sizes; almost all leaves of a model have one size. For one thread."""

    def __init__(self, bytes_max: int = BUFFERS_BYTES_MAX) -> None:
        self._bytes_max = bytes_max
        self._idle: OrderedDict[int, list[bytearray]] = OrderedDict()
        self._idle_bytes = 0

    def take(self, size: int) -> bytearray:
        """Return a buffer of `size` bytes with any content."""
        idle = self._idle.get(size)
        if not idle:
            return bytearray(size)
        self._idle.move_to_end(size)
        self._idle_bytes -= size
        return idle.pop()

    def give_back(self, buffer: bytes | bytearray) -> None:
        """Take a buffer that nobody uses any more; anything but a bytearray is ignored."""
        if not isinstance(buffer, bytearray) or len(buffer) > self._bytes_max:
            return
        size = len(buffer)
        self._idle.setdefault(size, []).append(buffer)
        self._idle_bytes += size
        while self._idle_bytes > self._bytes_max:
            oldest, buffers = next(iter(self._idle.items()))
            if buffers:
                buffers.pop()
                self._idle_bytes -= oldest
            if not buffers:
                del self._idle[oldest]
