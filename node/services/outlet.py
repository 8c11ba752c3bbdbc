"""Where the parts of an answer go: to whoever takes them at once, or into a short queue that its reader empties.

To wake a reader's task for each token costs more than all that is done with the token. So a reader may say how it takes
parts without waiting; it is asked only while it waits for the next part, and so has all before it.
"""

from collections.abc import AsyncIterator, Callable

import trio

from node.services.answers import AnswerPart
from node.services.watched_queue import WatchedQueue

TakePart = Callable[[AnswerPart], bool]
"""Takes a part without waiting and returns True, or leaves it and returns False."""


class Outlet(AsyncIterator[AnswerPart]):
    """The way of an answer from who gives it to who reads it. At most `parts_max` parts wait for the reader."""

    def __init__(self, parts_max: int) -> None:
        self._parts = WatchedQueue[AnswerPart](parts_max)
        self.take_now: TakePart | None = None
        """How the reader takes a part at once, if it does."""

    def has_room(self) -> bool:
        """Whether `give_now` would take a part."""
        return self._parts.is_awaited or self._parts.has_room()

    def give_now(self, part: AnswerPart) -> bool:
        """Give a part without waiting; return whether there was room. Raises trio.BrokenResourceError."""
        parts, take_now = self._parts, self.take_now
        if take_now is not None and parts.is_awaited and take_now(part):
            return True
        return parts.give_now(part)

    async def give(self, part: AnswerPart) -> None:
        """Give a part; waits for room. Raises trio.BrokenResourceError if the reader has gone."""
        await self._parts.give(part)

    def close(self) -> None:
        """The answer has ended."""
        self._parts.close()

    def __aiter__(self) -> AsyncIterator[AnswerPart]:
        """Iterate over the parts that were not taken at once, until the answer has ended."""
        return self

    async def __anext__(self) -> AnswerPart:
        """Return the next part."""
        try:
            return await self._parts.take()
        except trio.EndOfChannel:
            raise StopAsyncIteration from None

    def abandon(self) -> None:
        """The reader has gone: whoever gives is told."""
        self._parts.abandon()
