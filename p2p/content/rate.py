"""A budget of bytes per second, shared by everyone who draws on it."""

import trio

BURST_SECONDS = 0.25
"""What may be spent at once after a pause. More would show as bursts and pauses; less costs wake-ups."""


class ByteRate:
    """So many bytes per second, in the order of asking. Times are trio's clock."""

    def __init__(self, bytes_per_second: int) -> None:
        """`bytes_per_second` 0 is no limit."""
        if bytes_per_second < 0:
            raise ValueError("a rate is not negative")
        self._rate = bytes_per_second
        self._free_at = float("-inf")

    @property
    def is_limited(self) -> bool:
        """Whether `spend` ever waits."""
        return self._rate > 0

    async def spend(self, count: int) -> None:
        """Return when `count` more bytes may flow. Always a checkpoint."""
        if not self._rate:
            await trio.lowlevel.checkpoint()
            return
        now = trio.current_time()
        start = max(self._free_at, now - BURST_SECONDS)
        self._free_at = start + count / self._rate
        await trio.sleep_until(start)

    def correct(self, count: int) -> None:
        """Count bytes that flowed beyond (or, negative, short of) what was spent for them."""
        if self._rate:
            self._free_at += count / self._rate
