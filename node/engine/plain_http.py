"""HTTP/1.1 to an engine without the machinery of a general client: a token is an event, and each costs its share.

Goals: a stream's event costs tens of microseconds, not a hundred; what has come together is handed on together; a
broken or hostile server meets the same limits. Non-goals: TLS, proxies, redirects.

*Detail.* A connection whose reply has ended cleanly is kept for the next request, for less time than servers keep
theirs. If the server has ended it all the same, before a byte of the reply, the request goes out once more.
"""

import math
import os
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import httpx
import trio

from node.engine.chunked import HEAD_BYTES_MAX, ChunkedBody, Head, LengthBody, ReplyError, body_of, read_head
from node.engine.ready import CAN_POLL, ReadySockets

RECEIVE_BYTES = 64 * 1024
KEPT_SECONDS_MAX = 2.0
"""vLLM's server ends connections that were idle for five seconds."""
KEPT_MAX = 64
INTERIM_REPLIES_MAX = 4
"""Replies such as `100 Continue` before the real one."""
PUSH = "quern_push"
"""Extension of a reply: an asynchronous function that hands its content to a plain one (`Push`)."""
HOP_BY_HOP = frozenset({b"connection", b"keep-alive", b"te", b"transfer-encoding", b"upgrade"})

Take = Callable[[bytes], bool]
"""Told a part of the content; returns whether it wants more. It must not block, and may raise."""
Push = Callable[[Take], Awaitable[None]]
"""Hands over all content as it comes. Raises httpx.HTTPError, and what the other raises."""


class PlainTransport(httpx.AsyncBaseTransport):
    """To a Unix socket or over TCP without TLS."""

    def __init__(self, socket: Path | None = None) -> None:
        self._socket = socket
        self._ready = ReadySockets()
        self._kept: deque[_Connection] = deque()
        """Idle; the newest last."""

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request; return its reply when the head is here. Raises httpx.HTTPError."""
        limits = request.extensions.get("timeout", {})
        content = await request.aread()
        head = _request_head(request, len(content))
        while True:
            connection = self._take_kept(_place_of(request))
            is_kept = connection is not None
            if connection is None:
                stream = await self._connect(request, limits.get("connect"))
                connection = _Connection(stream, _place_of(request), self._ready)
            connection.read_seconds = _bound(limits.get("read"))
            try:
                await connection.send(head + content, limits.get("write"))
                reply = await connection.receive_head()
                body = body_of(reply)
                break
            except ReplyError as error:
                connection.close()
                raise httpx.RemoteProtocolError(f"the reply cannot be read: {error}") from error
            except (httpx.WriteError, httpx.ReadError, httpx.RemoteProtocolError):
                connection.close()
                if not is_kept or connection.has_heard:
                    raise
            except BaseException:
                connection.close()
                raise
        content_stream = _Body(connection, body, self._keep if reply.keeps_connection else None)
        extensions = {PUSH: content_stream.push} if CAN_POLL else {}
        return httpx.Response(reply.status, headers=list(reply.headers), stream=content_stream, extensions=extensions)

    async def aclose(self) -> None:
        """End the connections that are kept."""
        while self._kept:
            self._kept.pop().close()

    def _keep(self, connection: "_Connection") -> None:
        """Keep a connection whose reply has ended cleanly."""
        connection.idle_since = trio.current_time()
        self._kept.append(connection)
        while len(self._kept) > KEPT_MAX:
            self._kept.popleft().close()

    def _take_kept(self, place: tuple[str, int]) -> "_Connection | None":
        while self._kept:
            connection = self._kept.pop()
            is_fresh = trio.current_time() - connection.idle_since <= KEPT_SECONDS_MAX
            if is_fresh and connection.place == place and connection.is_quiet:
                connection.has_heard = False
                return connection
            connection.close()
        return None

    async def _connect(self, request: httpx.Request, seconds: float | None) -> trio.SocketStream:
        try:
            with trio.fail_after(_bound(seconds)):
                if self._socket is not None:
                    return await trio.open_unix_socket(str(self._socket))
                if request.url.scheme != "http":
                    raise httpx.UnsupportedProtocol(f"{request.url.scheme} is not spoken here")
                return await trio.open_tcp_stream(request.url.host, request.url.port or 80)
        except trio.TooSlowError as error:
            raise httpx.ConnectTimeout("the server does not take the connection") from error
        except OSError as error:
            raise httpx.ConnectError(str(error)) from error


class _Connection:
    def __init__(self, stream: trio.SocketStream, place: tuple[str, int], ready: ReadySockets) -> None:
        self._stream = stream
        self.place = place
        self.read_seconds = math.inf
        """How long the server may be silent."""
        self.has_heard = False
        """Whether a byte of the present reply has come."""
        self.idle_since = 0.0
        self._ready = ready
        self._early = b""
        """What came together with the head."""

    async def send(self, data: bytes, seconds: float | None) -> None:
        try:
            with trio.fail_after(_bound(seconds)):
                await self._stream.send_all(data)
        except trio.TooSlowError as error:
            raise httpx.WriteTimeout("the server does not read") from error
        except trio.BrokenResourceError as error:
            raise httpx.WriteError(str(error)) from error

    async def receive_head(self) -> Head:
        """Raises ReplyError, httpx.HTTPError."""
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
        if self._early:
            data, self._early = self._early, b""
            return data
        data = b""
        with trio.move_on_after(self.read_seconds) as limit:
            try:
                data = bytes(await self._stream.receive_some(RECEIVE_BYTES))
            except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
                raise httpx.ReadError(str(error)) from error
        if limit.cancelled_caught:
            raise self._silent()
        if not data:
            raise _cut()
        self.has_heard = True
        return data

    async def push(self, take: Take) -> None:
        """Hand what comes to `take` until it wants no more: nothing at the end of the connection.

        Raises httpx.HTTPError, and what `take` raises.
        """
        if self._early:
            data, self._early = self._early, b""
            if not take(data):
                return
        try:
            await self._ready.read(self._stream.socket.fileno(), take, silence_seconds=self.read_seconds)
        except trio.TooSlowError as error:
            raise self._silent() from error
        except (OSError, trio.ClosedResourceError) as error:
            raise httpx.ReadError(str(error)) from error

    def _silent(self) -> httpx.HTTPError:
        return httpx.ReadTimeout(f"nothing came for {self.read_seconds:.0f} s")

    @property
    def is_quiet(self) -> bool:
        """Whether the server has neither ended the connection nor said anything unasked."""
        try:
            os.read(self._stream.socket.fileno(), 1)
        except BlockingIOError:
            return True
        except OSError:
            return False
        return False

    def close(self) -> None:
        """End it, without waiting."""
        self._ready.forget(self._stream.socket.fileno())
        self._stream.socket.close()


class _Body(httpx.AsyncByteStream):
    def __init__(
        self, connection: _Connection, body: LengthBody | ChunkedBody, keep: Callable[[_Connection], None] | None
    ) -> None:
        self._connection = connection
        self._body = body
        self._keep = keep
        self._is_closed = False

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while not self._body.is_complete:
            try:
                content = self._body.feed(await self._connection.receive())
            except ReplyError as error:
                raise httpx.RemoteProtocolError(f"the reply cannot be read: {error}") from error
            if content:
                yield content

    async def push(self, take: Take) -> None:
        """Hand the content to `take`; see `Push`."""

        body = self._body

        def take_data(data: bytes) -> bool:
            if not data:
                raise _cut()
            try:
                content = body.feed(data)
            except ReplyError as error:
                raise httpx.RemoteProtocolError(f"the reply cannot be read: {error}") from error
            return (not content or take(content)) and not body.is_complete

        if not self._body.is_complete and take_data(await self._connection.receive()):  # the first is not to wait
            await self._connection.push(take_data)

    async def aclose(self) -> None:
        if self._is_closed:
            return
        self._is_closed = True
        if self._keep is not None and self._body.is_complete and not self._body.has_surplus:
            self._keep(self._connection)
        else:
            self._connection.close()


def _place_of(request: httpx.Request) -> tuple[str, int]:
    return request.url.host, request.url.port or 80


def _cut() -> httpx.HTTPError:
    return httpx.RemoteProtocolError("the server ended the connection before the reply was complete")


def _request_head(request: httpx.Request, length: int) -> bytes:
    lines = [request.method.encode() + b" " + request.url.raw_path + b" HTTP/1.1"]
    for name, value in request.headers.raw:
        if name.lower() not in HOP_BY_HOP and name.lower() != b"content-length":
            lines.append(name + b": " + value)
    lines += [b"content-length: %d" % length, b"", b""]
    if any(b"\r" in line or b"\n" in line for line in lines):
        raise httpx.LocalProtocolError("a header has a line's end in it")
    return b"\r\n".join(lines)


def _bound(seconds: float | None) -> float:
    return float("inf") if seconds is None else seconds
