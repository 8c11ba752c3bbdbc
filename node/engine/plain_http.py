"""HTTP/1.1 to an engine without the machinery of a general client: a token is an event, and each costs its share.

Goals: a stream's event costs tens of microseconds, not a hundred; what has come together is handed on together; a
broken or hostile server meets the same limits. Non-goals: TLS, proxies, redirects.

*Detail.* A connection whose reply has ended cleanly is kept for the next request, for less time than servers keep
theirs. If the server has ended it all the same, before a byte of the reply, the request goes out once more.
"""

from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import httpx
import trio

from node.engine.ready import CAN_POLL, ReadySockets
from node.http1.connection import Connection, KeptConnections, Place, bound, connect, cut
from node.http1.replies import ChunkedBody, LengthBody, ReplyError, body_of

KEPT_SECONDS_MAX = 2.0
"""vLLM's server ends connections that were idle for five seconds."""
KEPT_MAX = 64
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
        self._kept = KeptConnections[_EngineConnection](seconds_max=KEPT_SECONDS_MAX, count_max=KEPT_MAX)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request; return its reply when the head is here. Raises httpx.HTTPError."""
        limits = request.extensions.get("timeout", {})
        content = await request.aread()
        head = _request_head(request, len(content))
        while True:
            connection = self._kept.take(_place_of(request))
            is_kept = connection is not None
            if connection is None:
                stream = await self._connect(request, limits.get("connect"))
                connection = _EngineConnection(stream, _place_of(request), self._ready)
            connection.read_seconds = bound(limits.get("read"))
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
        content_stream = _Body(connection, body, self._kept.keep if reply.keeps_connection else None)
        extensions = {PUSH: content_stream.push} if CAN_POLL else {}
        return httpx.Response(reply.status, headers=list(reply.headers), stream=content_stream, extensions=extensions)

    async def aclose(self) -> None:
        """End the connections that are kept."""
        self._kept.close()

    async def _connect(self, request: httpx.Request, seconds: float | None) -> trio.SocketStream:
        if self._socket is None:
            if request.url.scheme != "http":
                raise httpx.UnsupportedProtocol(f"{request.url.scheme} is not spoken here")
            return await connect(_place_of(request), seconds)
        try:
            with trio.fail_after(bound(seconds)):
                return await trio.open_unix_socket(str(self._socket))
        except trio.TooSlowError as error:
            raise httpx.ConnectTimeout("the server does not take the connection") from error
        except OSError as error:
            raise httpx.ConnectError(str(error)) from error


class _EngineConnection(Connection):
    def __init__(self, stream: trio.SocketStream, place: Place, ready: ReadySockets) -> None:
        super().__init__(stream, place)
        self._ready = ready

    async def push(self, take: Take) -> None:
        """Hand what comes to `take` until it wants no more: nothing at the end of the connection.

        Raises httpx.HTTPError, and what `take` raises.
        """
        if (data := self.take_early()) and not take(data):
            return
        try:
            await self._ready.read(self.stream.socket.fileno(), take, silence_seconds=self.read_seconds)
        except trio.TooSlowError as error:
            raise self.silent() from error
        except (OSError, trio.ClosedResourceError) as error:
            raise httpx.ReadError(str(error)) from error

    def close(self) -> None:
        """End it, without waiting."""
        self._ready.forget(self.stream.socket.fileno())
        super().close()


class _Body(httpx.AsyncByteStream):
    def __init__(
        self,
        connection: _EngineConnection,
        body: LengthBody | ChunkedBody,
        keep: Callable[[_EngineConnection], None] | None,
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
                raise cut()
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


def _place_of(request: httpx.Request) -> Place:
    return request.url.host, request.url.port or 80


def _request_head(request: httpx.Request, length: int) -> bytes:
    lines = [request.method.encode() + b" " + request.url.raw_path + b" HTTP/1.1"]
    for name, value in request.headers.raw:
        if name.lower() not in HOP_BY_HOP and name.lower() != b"content-length":
            lines.append(name + b": " + value)
    lines += [b"content-length: %d" % length, b"", b""]
    if any(b"\r" in line or b"\n" in line for line in lines):
        raise httpx.LocalProtocolError("a header has a line's end in it")
    return b"\r\n".join(lines)
