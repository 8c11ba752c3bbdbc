"""A short queue that knows whether its reader waits: then whoever gives may as well hand over without waking it.

trio's channels tell that too, by their statistics. They are asked several times for every token of every answer, and to
make a record of statistics takes as long as to read the token.
"""

from typing import Generic, TypeVar

import trio

Item = TypeVar("Item")


class WatchedQueue(Generic[Item]):
    """For one reader, and any number of givers that all give through it."""

    def __init__(self, items_max: int) -> None:
        self._send, self._receive = trio.open_memory_channel[Item](items_max)
        self.is_awaited = False
        """Whether the reader waits, and so has all that was given before. A reader that `close` or a cancellation has
        woken counts as waiting until it runs."""

    def has_room(self) -> bool:
        """Whether `give_now` would take an item."""
        if self.is_awaited:
            return True
        state = self._send.statistics()
        return state.current_buffer_used < state.max_buffer_size

    def give_now(self, item: Item) -> bool:
        """Give without waiting; return whether there was room. Raises trio.BrokenResourceError: the reader has gone."""
        self.is_awaited = False  # the reader is woken, but has not run yet: what comes now is behind this item
        try:
            self._send.send_nowait(item)
        except trio.WouldBlock:
            return False
        return True

    async def give(self, item: Item) -> None:
        """Give; waits for room. Raises trio.BrokenResourceError if the reader has gone."""
        self.is_awaited = False
        await self._send.send(item)

    async def take(self) -> Item:
        """Return the next item. Raises trio.EndOfChannel after `close`, once all was taken."""
        await trio.lowlevel.checkpoint_if_cancelled()
        try:
            item = self._receive.receive_nowait()
        except trio.WouldBlock:
            self.is_awaited = True
        else:
            await trio.lowlevel.cancel_shielded_checkpoint()
            return item
        try:
            return await self._receive.receive()
        finally:
            self.is_awaited = False

    def take_waiting(self) -> list[Item]:
        """Return all items that wait already."""
        items = []
        while True:
            try:
                items.append(self._receive.receive_nowait())
            except (trio.WouldBlock, trio.EndOfChannel):
                return items

    def close(self) -> None:
        """Nothing more will be given."""
        self._send.close()

    def abandon(self) -> None:
        """Nothing more will be taken: whoever gives is told."""
        self.is_awaited = False
        self._receive.close()
