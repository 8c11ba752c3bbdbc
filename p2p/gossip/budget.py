"""How much a peer may make this node do: token buckets by name."""

from collections import OrderedDict
from collections.abc import Callable

NAMES_MAX = 4096
"""Buckets kept; beyond that the one unused for longest is forgotten, which fills it."""


class Budget:
    """`per_second` on average, `burst` at once, for each name. A bucket that is full again is forgotten."""

    def __init__(self, per_second: float, burst: float, clock: Callable[[], float]) -> None:
        """`clock` is in seconds and never goes back."""
        self._per_second = per_second
        self._burst = burst
        self._clock = clock
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, name: str, amount: float = 1.0) -> bool:
        """Spend `amount` if there is as much; return whether there was."""
        now = self._clock()
        tokens = self._level(name, now)
        allowed = tokens >= amount
        self._buckets[name] = (tokens - amount if allowed else tokens, now)
        self._buckets.move_to_end(name)
        if len(self._buckets) > NAMES_MAX:
            self._buckets.popitem(last=False)
        return allowed

    def sweep(self) -> None:
        """Forget buckets that are full again."""
        now = self._clock()
        for name in [name for name in self._buckets if self._level(name, now) >= self._burst]:
            del self._buckets[name]

    def __len__(self) -> int:
        return len(self._buckets)

    def _level(self, name: str, now: float) -> float:
        tokens, at = self._buckets.get(name, (self._burst, now))
        return min(self._burst, tokens + (now - at) * self._per_second)
