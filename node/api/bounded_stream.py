"""A connection that no client can hold up: Hypercorn shields its sends from cancellation, so they end here."""

import socket
import struct
from contextlib import suppress

import trio

STALL_SECONDS_MAX = 60.0
"""A client that takes nothing for so long is gone, whatever its connection says."""

NO_LINGER = struct.pack("ii", 1, 0)
"""On, for 0 s: closing throws away what was not sent."""


class BoundedStream:
    """What Hypercorn needs of a connection. A send ends after STALL_SECONDS_MAX, and at once after `stop`."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self._stream = stream
        self._sending: trio.CancelScope | None = None
        self._is_stopped = False

    @property
    def socket(self) -> trio.socket.SocketType:
        """The connection's socket."""
        return self._stream.socket

    async def send_all(self, data: bytes) -> None:
        """Send. Raises trio.BrokenResourceError if the client does not take it."""
        if self._is_stopped:
            raise trio.BrokenResourceError("the server is stopping")
        with trio.move_on_after(STALL_SECONDS_MAX) as scope:
            self._sending = scope
            await self._stream.send_all(data)
        self._sending = None
        if scope.cancelled_caught:
            self._is_stopped = True
            raise trio.BrokenResourceError("the client stopped reading")

    async def receive_some(self, max_bytes: int) -> bytes:
        """Receive."""
        return bytes(await self._stream.receive_some(max_bytes))

    async def send_eof(self) -> None:
        """Say that no more will be sent."""
        await self._stream.send_eof()

    async def aclose(self) -> None:
        """Close; what a client that stopped reading has not taken is thrown away."""
        if self._is_stopped:
            with suppress(OSError):  # it may be closed already
                self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, NO_LINGER)
        await self._stream.aclose()

    def stop(self) -> None:
        """End a send that is going on, shielded or not, and let no other begin."""
        self._is_stopped = True
        if self._sending is not None:
            self._sending.cancel()
