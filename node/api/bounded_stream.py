"""Connections that no client can hold up, and on which a small event costs little.

Purpose: Hypercorn shields its sends from cancellation, so a client that stops reading would hold up its answer, and the
daemon's end, for ever. Here such a connection is cut.

Detail: what the kernel takes at once is given to it at once, without a lock's, a scope's and trio's own turns of the
scheduler: a stream of tokens is many small sends, and almost all of them are taken at once.
"""

import math
import os
import socket
import struct
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

import trio
from hypercorn.app_wrappers import ASGIWrapper
from hypercorn.events import Closed, Event, RawData, Updated
from hypercorn.trio.tcp_server import TCPServer

STALL_SECONDS_MAX = 60.0
"""A client that takes nothing for so long is gone, whatever its connection says."""
CHECKS_PER_STALL = 4
CHUNK_WRITER = "quern.chunk_writer"
"""Where a request's scope has its ChunkWriter."""
HEAD_OF_A_REPLY = b"HTTP/1.1 "
"""What such bytes begin with is followed by more, if only by the end of the reply."""
NO_LINGER = struct.pack("ii", 1, 0)
"""On, for 0 s: closing throws away what was not sent."""


class BoundedStream:
    """What Hypercorn needs of a connection, and `cut`, which ends whatever is done with it."""

    def __init__(self, stream: trio.SocketStream, flusher: "Flusher") -> None:
        self._stream = stream
        self._flusher = flusher
        self._descriptor = stream.socket.fileno()
        """Of the socket; -1 once it is closed, for then the number may be another's."""
        self._sending_since: float | None = None
        self._unsent = b""
        """What `write` was given and was not sent; it goes before all else."""
        self.is_full = False
        """Whether the kernel took only a part of that: then somebody has to wait until it takes the rest."""
        self.written_at = -math.inf
        """When the turn began in which something was last written with `write`. Seconds of trio's clock."""

    @property
    def socket(self) -> trio.socket.SocketType:
        """The connection's socket."""
        return self._stream.socket

    def send_now(self, data: bytes) -> bytes:
        """Send what the kernel takes at once; return the rest. Raises trio.BrokenResourceError."""
        data, self._unsent, self.is_full = self._unsent + data, b"", False
        try:
            sent = os.write(self._descriptor, data)
        except BlockingIOError:
            return data
        except OSError as error:
            raise trio.BrokenResourceError("the connection is gone") from error
        return data[sent:]

    def write(self, data: bytes) -> None:
        """Have data sent in a moment, with all that is written until then. Not while `is_full`."""
        if not self._unsent:
            self.written_at = self._flusher.flush_soon(self)
        self._unsent += data

    def flush(self) -> None:
        """Send what was written, as far as the kernel takes it. A connection that is gone is for its reader to find."""
        data, self._unsent = self._unsent, b""
        if not data:
            return
        try:
            sent = os.write(self._descriptor, data)
        except BlockingIOError:
            sent = 0
        except OSError:
            return
        if sent < len(data):
            self._unsent, self.is_full = data[sent:], True

    def leave(self) -> None:
        """Nothing more is written: whoever has the socket may close it."""
        self._descriptor = -1

    async def send_all(self, data: bytes) -> None:
        """Send. Raises trio.BrokenResourceError or trio.ClosedResourceError if the connection is gone or cut."""
        data, self._unsent, self.is_full = self._unsent + data, b"", False
        self._sending_since = trio.current_time()
        await self._stream.send_all(data)
        self._sending_since = None

    async def receive_some(self, max_bytes: int) -> bytes:
        """Receive."""
        return bytes(await self._stream.receive_some(max_bytes))

    async def send_eof(self) -> None:
        """Say that no more will be sent."""
        if self._unsent:
            await self.send_all(b"")
        await self._stream.send_eof()

    async def aclose(self) -> None:
        """Close."""
        self.leave()
        await self._stream.aclose()

    def is_stalled(self, now: float) -> bool:
        """Whether a send has been going on for STALL_SECONDS_MAX."""
        return self._sending_since is not None and now - self._sending_since >= STALL_SECONDS_MAX

    def cut(self) -> None:
        """Close at once, under a send too, shielded or not; what the client has not taken is thrown away."""
        self.leave()
        with suppress(OSError):  # it may be closed already
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, NO_LINGER)
        self.socket.close()


class Flusher:
    """Sends what was written to connections in one turn of the event loop, at its end: a send costs as much as a token.

    Tokens of many answers come in one piece, and where there is much to do several of each.
    """

    def __init__(self) -> None:
        self._waiting: list[BoundedStream] = []
        self._parked = trio.lowlevel.ParkingLot()
        self._turn_began = -math.inf

    async def run(self) -> None:
        """Flush, for ever. A task that is woken takes a third of what trio's calls from outside take."""
        while True:
            while self._waiting:
                waiting, self._waiting = self._waiting, []
                for stream in waiting:
                    stream.flush()
            await self._parked.park()

    def flush_soon(self, stream: BoundedStream) -> float:
        """Have a connection flushed, while `run` runs; return the time, which is asked for once in a turn."""
        if not self._waiting:
            self._parked.unpark()
            self._turn_began = trio.current_time()
        self._waiting.append(stream)
        return self._turn_began


class HttpConnection(TCPServer):
    """Hypercorn's end of a connection, with a short way for what can be sent at once."""

    stream: BoundedStream  # type: ignore[assignment] # it has all that Hypercorn uses of trio's
    sends = 0
    """How many are sending, or wait for it."""

    has_ended = False
    """Whether the client has said that it sends no more, or is gone."""

    async def _read_data(self) -> None:
        """Read to the end; then wait for no other request: Hypercorn would, and the connection would count for as long
        as one may be silent."""
        await super()._read_data()
        self.has_ended = True
        await self.idle_task.stop()

    async def protocol_send(self, event: Event) -> None:
        """Send an event of the protocol. Its bytes go out in the order of the calls."""
        if isinstance(event, Updated) and event.idle and self.has_ended:
            return
        if not isinstance(event, RawData):
            await super().protocol_send(event)
            return
        if event.data.startswith(HEAD_OF_A_REPLY) and not self.sends:
            self.stream.write(event.data)  # it leaves with what follows at once, or in a moment without it
            return
        self.sends += 1
        try:
            await self._send(event)
        finally:
            self.sends -= 1

    async def _send(self, event: RawData) -> None:
        if self.sends > 1:
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


class ChunkWriter:
    """Writes chunks of a response's body past ASGI, Hypercorn and h11, which take ten times what the chunk takes.

    Only for a response of HTTP/1.1 without a length, whose head has gone out through them, and until its end does.
    """

    def __init__(self, connection: HttpConnection) -> None:
        self._connection = connection
        self._stream = connection.stream

    def is_ready(self) -> bool:
        """Whether a chunk can be written now: nothing else is being sent, or waits to be."""
        return not self._connection.sends and not self._stream.is_full

    def write(self, data: bytes) -> None:
        """Write a chunk, which is not empty: an empty one would end the body. Only when ready."""
        if not self.try_write(data):
            raise ValueError("it is not the time to write")

    def try_write(self, data: bytes) -> bool:
        """As `write`, if it is ready; return whether it was."""
        if not data:
            raise ValueError("there is nothing to write")
        stream = self._stream
        if self._connection.sends or stream.is_full:
            return False
        stream.write(b"%x\r\n%b\r\n" % (len(data), data))
        return True

    @property
    def written_at(self) -> float:
        """When a chunk was last written here, or -inf. Seconds of trio's clock."""
        return self._stream.written_at


class ConnectionApp(ASGIWrapper):
    """The application as one connection has it: with a short way to write, for those that look for it."""

    connection: HttpConnection | None = None

    async def __call__(
        self, scope: Any, receive: Any, send: Any, sync_spawn: Callable[..., Any], call_soon: Callable[..., Any]
    ) -> None:
        """Serve a request. Any: Hypercorn's types of ASGI are narrower than Starlette's."""
        is_chunked = scope["type"] == "http" and scope["http_version"] == "1.1" and scope["method"] != "HEAD"
        if is_chunked and self.connection is not None:
            scope[CHUNK_WRITER] = ChunkWriter(self.connection)
        await self.app(scope, receive, send)


def chunk_writer(scope: Mapping[str, Any]) -> ChunkWriter | None:
    """Return what writes chunks of a response to this request, if that can be."""
    found = scope.get(CHUNK_WRITER)
    return found if isinstance(found, ChunkWriter) else None


async def cut_stalled(streams: set[BoundedStream]) -> None:
    """Cut connections that stall, for ever. One task for all: a deadline for each send would cost more than it."""
    while True:
        await trio.sleep(STALL_SECONDS_MAX / CHECKS_PER_STALL)
        now = trio.current_time()
        for stream in [stream for stream in streams if stream.is_stalled(now)]:
            stream.cut()
