"""Which content providers failed lately: they are asked last, until they give something or enough time has passed."""

from collections import OrderedDict
from collections.abc import Callable, Iterable

FORGIVEN_SECONDS = 600.0
PROVIDERS_MAX = 1024
"""Remembered; beyond that the oldest failure is forgotten."""


class ProviderHealth:
    """Failures by name (`host:port`). Times in seconds from `clock`; only differences matter."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._failed: OrderedDict[str, float] = OrderedDict()

    def note(self, failed: Iterable[str], gave: Iterable[str]) -> None:
        """Note who failed in a fetch and who gave something without failing."""
        failures = set(failed)
        for name in gave:
            if name not in failures:
                self._failed.pop(name, None)
        for name in failures:
            self._failed[name] = self._clock()
            self._failed.move_to_end(name)
        while len(self._failed) > PROVIDERS_MAX:
            self._failed.popitem(last=False)

    def has_failed(self, name: str) -> bool:
        """Whether it failed within the time after which that is forgiven."""
        at = self._failed.get(name)
        return at is not None and self._clock() - at <= FORGIVEN_SECONDS
