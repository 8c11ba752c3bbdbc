"""Connections that no client can hold up, and on which a small event costs little.

Purpose: Hypercorn shields its sends from cancellation, so a client that stops reading would hold up its answer, and the
daemon's end, for ever. Here such a connection is cut.

Detail: what the kernel takes at once is given to it at once, without a lock's, a scope's and trio's own turns of the
scheduler: a stream of tokens is many small sends, and almost all of them are taken at once.
"""

import os
import socket
import struct
from contextlib import suppress

import trio
from hypercorn.events import Closed, Event, RawData
from hypercorn.trio.tcp_server import TCPServer

STALL_SECONDS_MAX = 60.0
"""A client that takes nothing for so long is gone, whatever its connection says."""
CHECKS_PER_STALL = 4
NO_LINGER = struct.pack("ii", 1, 0)
"""On, for 0 s: closing throws away what was not sent."""


class BoundedStream:
    """What Hypercorn needs of a connection, and `cut`, which ends whatever is done with it."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self._stream = stream
        self._sending_since: float | None = None

    @property
    def socket(self) -> trio.socket.SocketType:
        """The connection's socket."""
        return self._stream.socket

    def send_now(self, data: bytes) -> bytes:
        """Send what the kernel takes at once; return the rest. Raises trio.BrokenResourceError."""
        try:
            sent = os.write(self._stream.socket.fileno(), data)  # of a closed socket it is -1, never another's
        except BlockingIOError:
            return data
        except OSError as error:
            raise trio.BrokenResourceError("the connection is gone") from error
        return data[sent:]

    async def send_all(self, data: bytes) -> None:
        """Send. Raises trio.BrokenResourceError or trio.ClosedResourceError if the connection is gone or cut."""
        self._sending_since = trio.current_time()
        await self._stream.send_all(data)
        self._sending_since = None

    async def receive_some(self, max_bytes: int) -> bytes:
        """Receive."""
        return bytes(await self._stream.receive_some(max_bytes))

    async def send_eof(self) -> None:
        """Say that no more will be sent."""
        await self._stream.send_eof()

    async def aclose(self) -> None:
        """Close."""
        await self._stream.aclose()

    def is_stalled(self, now: float) -> bool:
        """Whether a send has been going on for STALL_SECONDS_MAX."""
        return self._sending_since is not None and now - self._sending_since >= STALL_SECONDS_MAX

    def cut(self) -> None:
        """Close at once, under a send too, shielded or not; what the client has not taken is thrown away."""
        with suppress(OSError):  # it may be closed already
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, NO_LINGER)
        self.socket.close()


class HttpConnection(TCPServer):
    """Hypercorn's end of a connection, with a short way for what can be sent at once."""

    stream: BoundedStream  # type: ignore[assignment] # it has all that Hypercorn uses of trio's

    async def protocol_send(self, event: Event) -> None:
        """Send an event of the protocol. Its bytes go out in the order of the calls."""
        if not isinstance(event, RawData) or self.send_lock.locked():
            await super().protocol_send(event)
            return
        self.send_lock.acquire_nowait()
        try:
            rest = self.stream.send_now(event.data)
            if rest:
                with trio.CancelScope(shield=True):  # half of a message would make nonsense of all after it
                    await self.stream.send_all(rest)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            await self.protocol.handle(Closed())
        finally:
            self.send_lock.release()


async def cut_stalled(streams: set[BoundedStream]) -> None:
    """Cut connections that stall, for ever. One task for all: a deadline for each send would cost more than it."""
    while True:
        await trio.sleep(STALL_SECONDS_MAX / CHECKS_PER_STALL)
        now = trio.current_time()
        for stream in [stream for stream in streams if stream.is_stalled(now)]:
            stream.cut()
