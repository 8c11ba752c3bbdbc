"""Where the parts of an answer go: to whoever takes them at once, or into a short queue that its reader empties.

To wake a reader's task for each token costs more than all that is done with the token. So a reader may say how it takes
parts without waiting; it is asked only while it waits for the next part, and so has all before it.
"""

from collections.abc import Callable

import trio

from node.services.answers import AnswerPart

TakePart = Callable[[AnswerPart], bool]
"""Takes a part without waiting and returns True, or leaves it and returns False."""


class Outlet:
    """The giving end of an answer."""

    def __init__(self, send: trio.MemorySendChannel[AnswerPart]) -> None:
        self._send = send
        self.take_now: TakePart | None = None
        """How the reader takes a part at once, if it does."""

    def has_room(self) -> bool:
        """Whether `give_now` would take a part."""
        state = self._send.statistics()
        return state.current_buffer_used < state.max_buffer_size

    def give_now(self, part: AnswerPart) -> bool:
        """Give a part without waiting; return whether there was room. Raises trio.BrokenResourceError."""
        if self.take_now is not None and self._send.statistics().tasks_waiting_receive and self.take_now(part):
            return True
        try:
            self._send.send_nowait(part)
        except trio.WouldBlock:
            return False
        return True

    async def give(self, part: AnswerPart) -> None:
        """Give a part; waits for room. Raises trio.BrokenResourceError if the reader has gone."""
        await self._send.send(part)
