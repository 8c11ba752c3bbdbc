"""HTTP/1.1 to an engine without the machinery of a general client: a token is an event, and each costs its share.

Goals: a stream's event costs tens of microseconds, not a hundred; what has come together is handed on together; a
broken or hostile server meets the same limits. Non-goals: TLS, proxies, redirects, connections kept for later.
"""

from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import trio

from node.engine.chunked import HEAD_BYTES_MAX, ChunkedBody, Head, LengthBody, ReplyError, body_of, read_head

RECEIVE_BYTES = 64 * 1024
INTERIM_REPLIES_MAX = 4
"""Replies such as `100 Continue` before the real one."""
HOP_BY_HOP = frozenset({b"connection", b"keep-alive", b"te", b"transfer-encoding", b"upgrade"})


class PlainTransport(httpx.AsyncBaseTransport):
    """One connection per request, to a Unix socket or over TCP without TLS."""

    def __init__(self, socket: Path | None = None) -> None:
        self._socket = socket

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request; return its reply when the head is here. Raises httpx.HTTPError."""
        limits = request.extensions.get("timeout", {})
        content = await request.aread()
        head = _request_head(request, len(content))
        stream = await self._connect(request, limits.get("connect"))
        connection = _Connection(stream, limits.get("read"))
        try:
            await connection.send(head + content, limits.get("write"))
            reply = await connection.receive_head()
            body = body_of(reply)
        except ReplyError as error:
            await connection.aclose()
            raise httpx.RemoteProtocolError(f"the reply cannot be read: {error}") from error
        except BaseException:
            await connection.aclose()
            raise
        return httpx.Response(reply.status, headers=list(reply.headers), stream=_Body(connection, body))

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
    def __init__(self, stream: trio.SocketStream, read_seconds: float | None) -> None:
        self._stream = stream
        self._read_seconds = _bound(read_seconds)
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
        with trio.move_on_after(self._read_seconds) as limit:
            try:
                data = bytes(await self._stream.receive_some(RECEIVE_BYTES))
            except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
                raise httpx.ReadError(str(error)) from error
        if limit.cancelled_caught:
            raise httpx.ReadTimeout(f"nothing came for {self._read_seconds:.0f} s")
        if not data:
            raise httpx.RemoteProtocolError("the server ended the connection before the reply was complete")
        return data

    async def aclose(self) -> None:
        await trio.aclose_forcefully(self._stream)


class _Body(httpx.AsyncByteStream):
    def __init__(self, connection: _Connection, body: LengthBody | ChunkedBody) -> None:
        self._connection = connection
        self._body = body

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while not self._body.is_complete:
            try:
                content = self._body.feed(await self._connection.receive())
            except ReplyError as error:
                raise httpx.RemoteProtocolError(f"the reply cannot be read: {error}") from error
            if content:
                yield content

    async def aclose(self) -> None:
        await self._connection.aclose()


def _request_head(request: httpx.Request, length: int) -> bytes:
    lines = [request.method.encode() + b" " + request.url.raw_path + b" HTTP/1.1"]
    for name, value in request.headers.raw:
        if name.lower() not in HOP_BY_HOP and name.lower() != b"content-length":
            lines.append(name + b": " + value)
    lines += [b"connection: close", b"content-length: %d" % length, b"", b""]
    if any(b"\r" in line or b"\n" in line for line in lines):
        raise httpx.LocalProtocolError("a header has a line's end in it")
    return b"\r\n".join(lines)


def _bound(seconds: float | None) -> float:
    return float("inf") if seconds is None else seconds
