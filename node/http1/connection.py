"""One connection to an HTTP/1.1 server, and the connections that are kept for the next request.

Errors are httpx's: callers that also go its way have one kind to deal with.
"""

import math
import os
from collections import deque
from typing import Generic, TypeVar

import httpx
import trio

from node.http1.replies import HEAD_BYTES_MAX, Head, ReplyError, read_head

RECEIVE_BYTES = 64 * 1024
INTERIM_REPLIES_MAX = 4
"""Replies such as `100 Continue` before the real one."""

Place = tuple[str, int]
"""Host and port."""


class Connection:
    """A connection on which one request after the other is sent."""

    def __init__(self, stream: trio.SocketStream, place: Place) -> None:
        self.stream = stream
        self.place = place
        self.read_seconds = math.inf
        """How long the server may be silent."""
        self.has_heard = False
        """Whether a byte of the present reply has come."""
        self.idle_since = 0.0
        self._early = b""
        """What came together with the head."""

    async def send(self, data: bytes, seconds: float | None) -> None:
        """Send, within so many seconds. Raises httpx.HTTPError."""
        try:
            with trio.fail_after(bound(seconds)):
                await self.stream.send_all(data)
        except trio.TooSlowError as error:
            raise httpx.WriteTimeout("the server does not read") from error
        except trio.BrokenResourceError as error:
            raise httpx.WriteError(str(error)) from error

    async def receive_head(self) -> Head:
        """Return the head of the reply. Raises ReplyError, httpx.HTTPError."""
        buffer = bytearray()
        for _ in range(INTERIM_REPLIES_MAX + 1):
            while (end := buffer.find(b"\r\n\r\n")) < 0:
                if len(buffer) > HEAD_BYTES_MAX:
                    raise ReplyError("its head is too long")
                buffer += await self.receive()
            head = read_head(bytes(buffer[:end]))
            del buffer[: end + 4]
            if head.status >= 200:
                self._early = bytes(buffer)
                return head
        raise ReplyError("it announces replies without end")

    async def receive(self) -> bytes:
        """Return what has come, at least one byte. Raises httpx.HTTPError."""
        if data := self.take_early():
            return data
        data = b""
        with trio.move_on_after(self.read_seconds) as limit:
            try:
                data = bytes(await self.stream.receive_some(RECEIVE_BYTES))
            except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
                raise httpx.ReadError(str(error)) from error
        if limit.cancelled_caught:
            raise self.silent()
        if not data:
            raise cut()
        self.has_heard = True
        return data

    def take_early(self) -> bytes:
        """Return what came together with the head, once."""
        data, self._early = self._early, b""
        return data

    def silent(self) -> httpx.HTTPError:
        """The error of a server that said nothing for too long."""
        return httpx.ReadTimeout(f"nothing came for {self.read_seconds:.0f} s")

    @property
    def is_quiet(self) -> bool:
        """Whether the server has neither ended the connection nor said anything unasked."""
        if self._early:
            return False  # it came with the head of a reply without a body: nobody has read it
        try:
            os.read(self.stream.socket.fileno(), 1)
        except BlockingIOError:
            return True
        except OSError:
            return False
        return False

    def close(self) -> None:
        """End it, without waiting."""
        self.stream.socket.close()


ConnectionType = TypeVar("ConnectionType", bound=Connection)


class KeptConnections(Generic[ConnectionType]):
    """Connections whose reply has ended cleanly, for the next request: no longer than servers keep theirs."""

    def __init__(self, *, seconds_max: float, count_max: int) -> None:
        self._seconds_max = seconds_max
        self._count_max = count_max
        self._idle: deque[ConnectionType] = deque()
        """The newest last."""

    def keep(self, connection: ConnectionType) -> None:
        """Keep a connection; the oldest ends if there are too many."""
        connection.idle_since = trio.current_time()
        self._idle.append(connection)
        while len(self._idle) > self._count_max:
            self._idle.popleft().close()

    def take(self, place: Place) -> ConnectionType | None:
        """Return a connection that can still be used, if there is one."""
        while self._idle:
            connection = self._idle.pop()
            is_fresh = trio.current_time() - connection.idle_since <= self._seconds_max
            if is_fresh and connection.place == place and connection.is_quiet:
                connection.has_heard = False
                return connection
            connection.close()
        return None

    def close(self) -> None:
        """End all of them."""
        while self._idle:
            self._idle.pop().close()


async def connect(place: Place, seconds: float | None) -> trio.SocketStream:
    """Connect over TCP. Raises httpx.ConnectTimeout, httpx.ConnectError."""
    try:
        with trio.fail_after(bound(seconds)):
            return await trio.open_tcp_stream(*place)
    except trio.TooSlowError as error:
        raise httpx.ConnectTimeout("the server does not take the connection") from error
    except OSError as error:
        raise httpx.ConnectError(str(error)) from error


def cut() -> httpx.HTTPError:
    """The error of a reply that ends too early."""
    return httpx.RemoteProtocolError("the server ended the connection before the reply was complete")


def bound(seconds: float | None) -> float:
    """Return a limit in seconds; None is none."""
    return math.inf if seconds is None else seconds
