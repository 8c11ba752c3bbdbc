"""One stream: what has arrived and is not read, what may be sent, and how each direction ends."""

from types import TracebackType
from typing import TYPE_CHECKING, Any

import trio
from libp2p.abc import IMuxedStream
from libp2p.stream_muxer.exceptions import MuxedStreamClosed, MuxedStreamEOF, MuxedStreamError, MuxedStreamReset

from p2p.yamux.wire import WINDOW_BYTES_INITIAL, Flag, Type, encode_header

if TYPE_CHECKING:
    from p2p.yamux.connection import Yamux

WINDOW_BYTES_MAX = 2 * 1024 * 1024
"""A stream whose reader keeps up grows to this: 40 MB/s at 50 ms. Weights do not travel here."""
WINDOW_SLACK_BYTES = 64 * 1024
"""Forgiven to implementations that count a frame late."""
PAYLOAD_BYTES_MAX = 65519 - 12
"""With its header it fills one Noise message. Shorter frames cost more; longer ones keep other streams waiting."""
LAST_WORDS_BYTES_MAX = 1024
"""What came before the peer's reset and is not read yet may be read if it is so little: the answer of a negotiation may
come together with the reset. No more, for nobody counts it any longer."""
STALL_SECONDS_MAX = 30.0
"""How long a writer waits for a reader that takes nothing. Protocols that pause longer have credits of their own."""


class YamuxStream(IMuxedStream):
    """Made by a connection. Reading and writing are checkpoints only where they have to wait."""

    def __init__(self, connection: "Yamux", number: int, *, is_initiator: bool) -> None:
        self.muxed_conn: Any = connection
        self.stream_id = number
        self.is_initiator = is_initiator
        self.half_closed_at: float | None = None
        """trio time of the local end, while the remote one is awaited."""
        self.window = WINDOW_BYTES_INITIAL
        """What the peer may still send."""
        self._window_target = WINDOW_BYTES_INITIAL
        self._taken = 0
        self._unread = bytearray()
        self._read_ended = False
        self._readers = trio.lowlevel.ParkingLot()
        self._send_window = WINDOW_BYTES_INITIAL
        self._write_ended = False
        self._writers = trio.lowlevel.ParkingLot()
        self._was_reset = False

    @property
    def is_closed(self) -> bool:
        """Whether neither direction carries anything more."""
        return self._was_reset or (self._read_ended and self._write_ended)

    # --- what the application does ---

    async def read(self, n: int | None = None) -> bytes:
        """Return up to `n` bytes (None or -1: all there is), at least one.

        Raises MuxedStreamEOF at the peer's end of the stream, MuxedStreamReset if it was torn down.
        """
        if n == 0:
            return b""
        while not self._unread:
            if self._was_reset:
                raise MuxedStreamReset("the stream was reset")
            if self._read_ended:
                raise MuxedStreamEOF("the peer has ended the stream")
            await self._readers.park()
        count = len(self._unread) if n is None or n < 0 else min(n, len(self._unread))
        data = bytes(self._unread[:count])
        del self._unread[:count]
        if not self._was_reset:
            self.muxed_conn.budget.remove(self.muxed_conn, count)
            self._give_credit(count)
            self._forget_if_done()
        return data

    async def write(self, data: bytes) -> None:
        """Send all of `data`; waits for the reader. Raises MuxedStreamReset, MuxedStreamClosed or MuxedStreamError."""
        view = memoryview(data)
        while view:
            with trio.move_on_after(STALL_SECONDS_MAX) as stalled:
                while self._send_window == 0 and not self._was_reset and not self._write_ended:
                    await self._writers.park()
            if stalled.cancelled_caught:
                self.reset_now()
                raise MuxedStreamError(f"the reader took nothing for {STALL_SECONDS_MAX:.0f} s")
            sent = await self.muxed_conn.write_data(self, view)
            view = view[sent:]
        self._require_writable()

    async def close(self) -> None:
        """End our direction; what the peer still sends can be read."""
        if not self._write_ended and not self._was_reset:
            self._write_ended = True
            self._writers.unpark_all()
            self.muxed_conn.send_control(encode_header(Type.WINDOW, Flag.FIN, self.stream_id, 0))
            self.half_closed_at = trio.current_time()
            self._forget_if_done()

    async def reset(self) -> None:
        """End both directions at once and throw away what is unread."""
        self.reset_now()

    def set_deadline(self, ttl: int) -> None:
        """Not offered: trio's cancel scopes are."""
        raise NotImplementedError("use trio's cancel scopes")

    def get_remote_address(self) -> tuple[str, int] | None:
        """The peer's address, if it is known."""
        address: tuple[str, int] | None = self.muxed_conn.get_remote_address()
        return address

    async def __aenter__(self) -> "YamuxStream":
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    # --- what the connection does ---

    def reset_now(self) -> None:
        """As `reset`, for those that must not wait."""
        if not self.is_closed:
            self.muxed_conn.send_control(encode_header(Type.WINDOW, Flag.RST, self.stream_id, 0))
        self.abandon(keep_unread=False)

    def abandon(self, *, keep_unread: bool) -> None:
        """The peer has reset it, or the connection is gone: then what had arrived before can still be read."""
        if not self._was_reset:
            self._was_reset = True
            self.muxed_conn.budget.remove(self.muxed_conn, len(self._unread))
            if not keep_unread:
                self._unread.clear()
            self._readers.unpark_all()
            self._writers.unpark_all()
            self.muxed_conn.forget(self)

    def accept_data(self, data: bytes | bytearray) -> None:
        """Keep what has arrived, which the caller has found to be within the window."""
        self.window -= len(data)
        if self._was_reset:
            return
        self._unread += data
        self._readers.unpark_all()
        self.muxed_conn.budget.add(self.muxed_conn, len(data))

    def accept_reset(self) -> None:
        """The peer has torn it down."""
        self.abandon(keep_unread=len(self._unread) <= LAST_WORDS_BYTES_MAX)

    def accept_end(self) -> None:
        """The peer sends nothing more."""
        self._read_ended = True
        self._readers.unpark_all()
        self._forget_if_done()

    def accept_credit(self, count: int) -> None:
        """The peer takes `count` bytes more."""
        self._send_window += count
        self._writers.unpark_all()

    def spend(self, wanted: int) -> int:
        """Take up to `wanted` bytes of what may be sent now; return how many. Raises if nothing may be sent at all."""
        self._require_writable()
        count = min(wanted, self._send_window, PAYLOAD_BYTES_MAX)
        self._send_window -= count
        return count

    def _forget_if_done(self) -> None:
        if self._read_ended and self._write_ended and not self._unread:
            self.muxed_conn.forget(self)

    def _require_writable(self) -> None:
        if self._was_reset:
            raise MuxedStreamReset("the stream was reset")
        if self._write_ended:
            raise MuxedStreamClosed("the stream is closed for writing")

    def _give_credit(self, count: int) -> None:
        """Tell the peer that `count` bytes were read, once it is worth a frame; a reader that keeps up gets a wider
        window."""
        self._taken += count
        if self._taken * 2 < self._window_target or self._read_ended or self._was_reset:
            return
        target = min(2 * self._window_target, WINDOW_BYTES_MAX)
        credit = self._taken + target - self._window_target
        self._taken, self._window_target = 0, target
        self.window += credit
        self.muxed_conn.send_control(encode_header(Type.WINDOW, 0, self.stream_id, credit))
