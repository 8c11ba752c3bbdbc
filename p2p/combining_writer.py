"""Writes of many tasks to one stream, put together: what a secured stream costs, it costs per write.

Encrypting, framing and sending through libp2p takes a third of a millisecond, for one token as for a thousand. Whoever
comes while a write is under way goes with the next one; and while writes follow each other closely, each waits for a
moment so that others can join it. The first write after a silence goes at once.
"""

from dataclasses import dataclass, field
from typing import Any

import trio

INTERVAL_SECONDS = 0.002
"""From one write to the next, at least. Nobody who reads an answer sees two milliseconds."""


SOON_BYTES_MAX = 64 * 1024
"""What may wait to be written for tasks that do not wait for it: more is a peer that does not read."""


class WriteFailedError(Exception):
    """The stream is gone; nothing can be written any more."""


@dataclass(slots=True, eq=False)
class Batch:
    """What goes in one write. Bounded by its writers, each of which waits for it."""

    pieces: list[bytes] = field(default_factory=list)
    done: trio.Event = field(default_factory=trio.Event)


class CombiningWriter:
    """For any number of tasks. Whole pieces are written, in the order in which they came."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self._open: Batch | None = None
        """The batch that can be joined: its first writer waits for the write before it, or for its time."""
        self._is_writing = False
        self._freed = trio.lowlevel.ParkingLot()
        """Where the writer of the open batch waits for the one before it: never more than one."""
        self._written_at = float("-inf")
        self._error: Exception | None = None
        self._soon: Batch | None = None
        """The open batch, if no task that waits has begun it: `run` writes it."""
        self._soon_bytes = 0
        """Bytes in the open batch for which nobody waits."""
        self._wake = trio.lowlevel.ParkingLot()

    async def run(self) -> None:
        """Write what nobody waits for, until cancelled."""
        try:
            while True:
                if self._soon is None:
                    await self._wake.park()
                batch, self._soon = self._soon, None
                if batch is not None:
                    with trio.CancelScope(shield=True):
                        await self._write(batch)
        finally:
            self._error = self._error or trio.ClosedResourceError("nothing is written any more")
            if self._soon is not None:
                self._open = None
                self._soon.done.set()

    @property
    def may_write_soon(self) -> bool:
        """Whether `write_soon` can take more."""
        return self._soon_bytes < SOON_BYTES_MAX and self._error is None

    def write_soon(self, data: bytes) -> None:
        """Write `data` with the next batch, without waiting. Only while `may_write_soon`, and while `run` runs.

        Whether it could be written is told to whoever writes next.
        """
        if self._open is None:
            self._open = self._soon = Batch()
            self._wake.unpark_all()
        self._open.pieces.append(data)
        self._soon_bytes += len(data)

    async def write(self, data: bytes) -> None:
        """Write `data`; return when the stream has taken it. Raises WriteFailedError.

        A write that has begun cannot be taken back: cancelled or not, `data` goes out whole, for half a piece would
        make everything after it unreadable.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        batch = self._open
        if batch is not None:
            batch.pieces.append(data)
            await batch.done.wait()
        else:
            batch = self._open = Batch([data])
            # Shielded, because others join what this task writes. The stream below has a deadline.
            with trio.CancelScope(shield=True):
                if not self._is_writing:
                    await trio.lowlevel.checkpoint()  # those who have something to say now can join
                await self._write(batch)
        if self._error is not None:
            raise WriteFailedError(repr(self._error))

    async def _write(self, batch: Batch) -> None:
        """Write a batch when it is its turn."""
        while self._is_writing:  # a lock of trio's takes longer than all this, free or not
            await self._freed.park()
        self._is_writing = True
        try:
            pause = self._written_at + INTERVAL_SECONDS - trio.current_time()
            if pause > 0:
                await trio.sleep(pause)
            self._open = None
            self._soon_bytes = 0
            if self._error is None:
                try:
                    await self._stream.write(b"".join(batch.pieces))
                except Exception as error:  # the library has many
                    self._error = error
            self._written_at = trio.current_time()
            batch.done.set()
        finally:
            self._is_writing = False
            self._freed.unpark_all()
