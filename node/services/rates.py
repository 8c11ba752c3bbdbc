"""How much may be done in a time: what is not used gathers, up to one time's worth."""

import trio


class Rate:
    """Allows `count` in `seconds`, on trio's clock; begins full."""

    def __init__(self, count: int, seconds: float) -> None:
        self._count = count
        self._per_second = count / seconds
        self._left = float(count)
        self._at: float | None = None
        """When `_left` was true; None before the first look, which may be before trio runs."""

    def has(self, count: int) -> bool:
        """Whether `count` may be done now."""
        now = trio.current_time()
        if self._at is not None:
            self._left = min(self._count, self._left + (now - self._at) * self._per_second)
        self._at = now
        return self._left >= count

    def take(self) -> None:
        """Count one thing that is done; `has` said that it may be."""
        self._left -= 1
