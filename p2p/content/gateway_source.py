"""Gets blocks from a trustless gateway over plain TCP: few connections, kept alive, with requests sent ahead.

Detail: each connection has a few requests under way, so that the server always knows what comes next; replies come
in the order of requests. A request that is cancelled after it was sent takes its connection with it (the rest of the
reply would have to be read); the other requests of that connection are asked again on a new one. No redirect is ever
followed: where a peer points to is not where its operator said it is.
"""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import trio

from p2p.content.buffers import BlockBuffers
from p2p.content.cid import Cid
from p2p.content.http_reply import HEAD_BYTES_MAX, HEAD_END, ReplyError, ReplyHead, parse_reply_head
from p2p.content.plain_socket import PlainSocket
from p2p.content.source import Rank, SourceFailedError

CONNECTIONS_MAX = 4
"""To one gateway: several share a long, lossy path better than one."""
REQUESTS_PER_CONNECTION = 4
"""One being answered and three known to the server, which then has something to send whenever it gets to it."""
CONNECT_SECONDS_MAX = 10.0
ATTEMPTS_MAX = 4
"""For one block: a kept connection may have been closed by the server meanwhile, or by a neighbour's cancellation."""
BUSY_ATTEMPTS_MAX = 5
BUSY_SECONDS_MAX = 5.0
"""Between attempts when the gateway says that it is busy."""
REFUSAL_BYTES_MAX = 64 * 1024
"""Text beside a refusal is read and thrown away up to here; beyond, the connection is closed instead."""
READ_BYTES = 16 * 1024

_LACKS = frozenset((404, 410, 451))
_BUSY = frozenset((429, 503))


class _ConnectionLostError(Exception):
    """The connection ended before the whole reply had come; another may do."""


class GatewaySource:
    """A gateway at a host and port; see `p2p.content.source.BlockSource`."""

    rank = Rank.GATEWAY
    window = CONNECTIONS_MAX * REQUESTS_PER_CONNECTION

    def __init__(self, host: str, port: int, *, token: str = "", buffers: BlockBuffers | None = None) -> None:
        """`token` is sent with each request, if there is one. Blocks are returned in `buffers`' buffers."""
        self._host = host
        self._port = port
        shown = f"[{host}]" if ":" in host else host
        self.name = f"{shown}:{port}"
        """`host:port`."""
        authorization = f"Authorization: Bearer {token}\r\n" if token else ""
        if any(mark in f"{host}{token}" for mark in "\r\n"):
            raise ValueError("a line break in a host or token")
        self._headers = f" HTTP/1.1\r\nHost: {self.name}\r\n{authorization}\r\n"
        self._buffers = buffers or BlockBuffers()
        self._connections: list[_Connection] = []
        self._places = trio.Semaphore(self.window)
        self.received_bytes = 0
        """Of bodies, whole or not."""

    async def get(self, cid: Cid, *, bytes_max: int) -> bytes | bytearray | None:
        """Return the unverified bytes of a block; None if the gateway lacks it. Raises SourceFailedError."""
        request = f"GET /ipfs/{cid}?format=raw{self._headers}".encode("ascii")
        losses = refusals = 0
        while True:
            try:
                async with _taken(self._places):
                    head, body = await self._connection().ask(request, bytes_max)
            except _ConnectionLostError as error:
                losses += 1
                if losses == ATTEMPTS_MAX:
                    raise SourceFailedError(f"it closes connections: {error}") from error
                continue
            except ReplyError as error:
                raise SourceFailedError(str(error)) from error
            if head.status == 200:
                return body
            if head.status in _LACKS:
                return None
            refusals += 1
            if head.status not in _BUSY or refusals == BUSY_ATTEMPTS_MAX:
                raise SourceFailedError(_refusal(head.status))
            await trio.sleep(min(max(head.retry_seconds, 0.2 * refusals), BUSY_SECONDS_MAX))

    async def aclose(self) -> None:
        """Close all connections."""
        for connection in self._connections:
            connection.close()
        self._connections.clear()
        await trio.lowlevel.checkpoint()

    def _connection(self) -> "_Connection":
        """Return a connection with room for one more request, counted in."""
        self._connections = [known for known in self._connections if not known.is_closed]
        best = min(self._connections, key=lambda known: known.pending, default=None)
        if best is None or (best.pending and len(self._connections) < CONNECTIONS_MAX):
            best = _Connection(self._host, self._port, self._buffers, self._count)
            self._connections.append(best)
        best.pending += 1
        return best

    def _count(self, received: int) -> None:
        self.received_bytes += received


class _Connection:
    def __init__(self, host: str, port: int, buffers: BlockBuffers, count: Callable[[int], None]) -> None:
        self._address = host, port
        self._buffers = buffers
        self._count = count
        self._socket: PlainSocket | None = None
        self._sending = trio.StrictFIFOLock()
        self._receiving = trio.StrictFIFOLock()
        self._ahead = bytearray()
        """Bytes that came with a head and belong to what follows it."""
        self.pending = 0
        """Requests under way. Counted up by whoever chose this connection."""
        self.is_closed = False

    async def ask(self, request: bytes, bytes_max: int) -> tuple[ReplyHead, bytearray]:
        """Send a request and return its reply; the body only for status 200.

        Raises _ConnectionLostError, ReplyError, SourceFailedError (nobody listens).
        """
        sent = finished = False
        try:
            # Whoever leaves `sending` first is first in line for `receiving`: replies come in the order of requests.
            async with _taken(self._sending):
                connected = await self._open()
                sent = True
                await connected.send_all(request)
            async with _taken(self._receiving):
                if self.is_closed:
                    raise _ConnectionLostError("the connection ended with the reply before")
                reply = await self._receive(connected, bytes_max)
            finished = True
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            raise _ConnectionLostError(str(error)) from error
        else:
            return reply
        finally:
            self.pending -= 1
            if sent and not finished:
                self.close()

    def close(self) -> None:
        """Close at once."""
        self.is_closed = True
        if self._socket is not None:
            self._socket.close()

    async def _open(self) -> PlainSocket:
        if self.is_closed:
            raise _ConnectionLostError("closed meanwhile")
        if self._socket is not None:
            return self._socket
        try:
            with trio.fail_after(CONNECT_SECONDS_MAX):
                self._socket = PlainSocket(await trio.open_tcp_stream(*self._address))
        except (OSError, trio.TooSlowError) as error:
            self.is_closed = True
            reason = "no answer" if isinstance(error, trio.TooSlowError) else str(error)
            raise SourceFailedError(f"cannot be reached: {reason}") from error
        return self._socket

    async def _receive(self, connected: PlainSocket, bytes_max: int) -> tuple[ReplyHead, bytearray]:
        head = parse_reply_head(await self._receive_head(connected))
        if head.status == 200:
            if head.body_bytes is None or head.body_bytes > bytes_max:
                raise ReplyError(f"a block of {head.body_bytes} bytes where at most {bytes_max} were possible")
            body = await self._receive_body(connected, head.body_bytes)
        else:
            body = bytearray()
            if head.body_bytes is None or head.body_bytes > REFUSAL_BYTES_MAX:
                self.close()
            else:
                self._buffers.give_back(await self._receive_body(connected, head.body_bytes))
        if not head.keep_alive:
            self.close()
        return head, body

    async def _receive_head(self, connected: PlainSocket) -> bytes:
        searched = 0
        while (end := self._ahead.find(HEAD_END, searched)) < 0:
            if len(self._ahead) > HEAD_BYTES_MAX:
                raise ReplyError(f"a reply head of more than {HEAD_BYTES_MAX} bytes")
            searched = max(0, len(self._ahead) - len(HEAD_END) + 1)
            data = await connected.receive(READ_BYTES)
            if not data:
                raise _ConnectionLostError("the connection ended")
            self._ahead += data
        head = bytes(self._ahead[:end])
        del self._ahead[: end + len(HEAD_END)]
        return head

    async def _receive_body(self, connected: PlainSocket, size: int) -> bytearray:
        body = self._buffers.take(size)
        filled = min(size, len(self._ahead))
        body[:filled] = self._ahead[:filled]
        del self._ahead[:filled]
        self._count(filled)
        with memoryview(body) as view:
            while filled < size:
                received = await connected.receive_into(view[filled:])
                if received == 0:
                    raise _ConnectionLostError("the connection ended within a block")
                filled += received
                self._count(received)
        return body


@asynccontextmanager
async def _taken(lock: trio.StrictFIFOLock | trio.Semaphore) -> AsyncIterator[None]:
    """Hold a lock, without a turn of the event loop if it is free."""
    try:
        lock.acquire_nowait()
    except trio.WouldBlock:
        await lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _refusal(status: int) -> str:
    if status in (401, 403):
        return f"it refuses us (HTTP {status}): it wants a token, see [content] provider_tokens"
    if 300 <= status < 400:
        return f"it points elsewhere (HTTP {status}), which is never followed"
    return f"it answers HTTP {status}"
