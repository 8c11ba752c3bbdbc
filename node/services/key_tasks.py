"""One task for each of many matters: what waits long for its own outcome holds up no other."""

from collections.abc import Awaitable, Callable, Hashable

import trio


class KeyTasks:
    """Starts work on a matter unless some on the same is still going on."""

    def __init__(self, nursery: trio.Nursery, *, at_once: int) -> None:
        """`at_once`: what comes beyond it is not begun; whoever looks again begins it when there is room."""
        self._nursery = nursery
        self._at_once = at_once
        self._going_on: set[Hashable] = set()

    def is_free(self, key: Hashable) -> bool:
        """Whether work on the matter would be begun now."""
        return key not in self._going_on and len(self._going_on) < self._at_once

    def start(self, key: Hashable, work: Callable[[], Awaitable[object]]) -> None:
        """Begin `work` on the matter `key`, or leave it."""
        if self.is_free(key):
            self._going_on.add(key)
            self._nursery.start_soon(self._do, key, work)

    async def _do(self, key: Hashable, work: Callable[[], Awaitable[object]]) -> None:
        try:
            await work()
        finally:
            self._going_on.discard(key)
