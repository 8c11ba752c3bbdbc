"""Providers that do not do as they should, over real sockets, and ways to watch what is asked of them."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress

import trio

from node.ports import Provider

Converse = Callable[[trio.SocketStream, str], Awaitable[None]]
"""Answers one request, given its target, and may do as it likes with the connection."""


@asynccontextmanager
async def provider_that(converse: Converse) -> AsyncIterator[Provider]:
    """A provider that reads requests and leaves the answers to `converse`."""

    async def handle(stream: trio.SocketStream) -> None:
        buffer = b""
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            while True:
                while b"\r\n\r\n" not in buffer:
                    data = await stream.receive_some()
                    if not data:
                        return
                    buffer += data
                head, _, buffer = buffer.partition(b"\r\n\r\n")
                await converse(stream, head.split()[1].decode())

    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, handle, listeners)
        yield Provider("127.0.0.1", listeners[0].socket.getsockname()[1])
        nursery.cancel_scope.cancel()


def reply(status: int, body: bytes, *headers: str) -> bytes:
    """A whole HTTP reply."""
    return "\r\n".join((f"HTTP/1.1 {status} X", f"Content-Length: {len(body)}", *headers, "", "")).encode() + body
