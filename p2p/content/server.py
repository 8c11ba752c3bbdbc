"""A trustless IPFS gateway: gives single raw blocks over HTTP/1.1 (`GET /ipfs/<cid>?format=raw`).

Spec: https://specs.ipfs.tech/http-gateways/trustless-gateway/. Whoever asks verifies; damaged blocks are not given.
Plain TCP because weights over Noise and Yamux would cost ten times the processing (docs/decisions/0003).
"""

import errno
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import h11
import structlog
import trio

from p2p.content.blockstore import BlockMissingError, BlockStore
from p2p.content.cid import Cid, CidError

log = structlog.get_logger(__name__)

CONNECTIONS_MAX = 128
"""Connections served at once; more wait in the listen queue."""
IDLE_SECONDS_MAX = 60.0
"""A connection without a request for so long is closed; also the most one answer may take."""
REQUEST_BYTES_MAX = 8 * 1024
READ_BYTES = 16 * 1024
CONTENT_TYPE = b"application/vnd.ipld.raw"


class GatewayPortError(Exception):
    """The gateway cannot listen; the message says where and why."""


class GatewayServer:
    """Serves the blocks of a store."""

    def __init__(self, store: BlockStore) -> None:
        self._store = store
        self._limit = trio.CapacityLimiter(CONNECTIONS_MAX)
        self.served_bytes = 0
        self.answers: Counter[int] = Counter()
        """Answers by HTTP status."""

    async def handle(self, stream: trio.abc.Stream) -> None:
        """Serve one connection until it ends. Never raises: a client's faults are its own."""
        async with self._limit:
            try:
                await self._converse(stream)
            except (trio.BrokenResourceError, trio.ClosedResourceError, h11.ProtocolError, trio.TooSlowError) as error:
                log.debug("a content connection ended", reason=repr(error))
            finally:
                with trio.CancelScope(shield=True), trio.move_on_after(1):
                    await trio.aclose_forcefully(stream)

    async def _converse(self, stream: trio.abc.Stream) -> None:
        connection = h11.Connection(h11.SERVER, max_incomplete_event_size=REQUEST_BYTES_MAX)
        while connection.states == {h11.CLIENT: h11.IDLE, h11.SERVER: h11.IDLE}:
            with trio.fail_after(IDLE_SECONDS_MAX):
                request = await self._next_request(connection, stream)
                if request is None:
                    return
                status, body = await self._answer(request)
                await self._send(connection, stream, request, status, body)
            if connection.our_state is h11.MUST_CLOSE or connection.their_state is not h11.DONE:
                return
            connection.start_next_cycle()

    async def _next_request(self, connection: h11.Connection, stream: trio.abc.Stream) -> h11.Request | None:
        request = None
        while True:
            event = connection.next_event()
            if event is h11.NEED_DATA:
                connection.receive_data(bytes(await stream.receive_some(READ_BYTES)))
            elif isinstance(event, h11.Request):
                request = event
            elif isinstance(event, h11.EndOfMessage):
                return request
            elif isinstance(event, h11.ConnectionClosed):
                return None
            elif isinstance(event, h11.Data):
                return None  # nothing here takes a body

    async def _answer(self, request: h11.Request) -> tuple[int, bytes]:
        if request.method not in (b"GET", b"HEAD"):
            return 405, b"only GET and HEAD\n"
        path, _, query = request.target.decode("ascii", errors="replace").partition("?")
        if not path.startswith("/ipfs/"):
            return 404, b"paths here are /ipfs/<cid>?format=raw\n"
        accepts = dict(request.headers).get(b"accept", b"")
        if "format=raw" not in query.split("&") and CONTENT_TYPE not in accepts:
            return 400, b"this gateway gives raw blocks only: ask with ?format=raw\n"
        try:
            cid = Cid.parse(path.removeprefix("/ipfs/"))
        except CidError as error:
            return 400, f"{error}\n".encode()
        return await trio.to_thread.run_sync(self._read, cid)

    def _read(self, cid: Cid) -> tuple[int, bytes]:
        try:
            data = self._store.read(cid)
        except BlockMissingError:
            return 404, b"not held here\n"
        if not cid.matches(data):
            log.error("a stored block is damaged and is removed; it will be fetched again", cid=str(cid))
            self._store.remove(cid)
            return 404, b"not held here\n"
        return 200, data

    async def _send(
        self, connection: h11.Connection, stream: trio.abc.Stream, request: h11.Request, status: int, body: bytes
    ) -> None:
        content_type = CONTENT_TYPE if status == 200 else b"text/plain; charset=utf-8"
        headers = [(b"Content-Type", content_type), (b"Content-Length", str(len(body)).encode())]
        if status == 200:
            headers.append((b"Cache-Control", b"public, max-age=29030400, immutable"))
        head = connection.send(h11.Response(status_code=status, headers=headers)) or b""
        data = b"" if request.method == b"HEAD" else connection.send(h11.Data(data=body)) or b""
        await stream.send_all(head + data + (connection.send(h11.EndOfMessage()) or b""))
        self.answers[status] += 1
        if status == 200:
            self.served_bytes += len(data)


@asynccontextmanager
async def serve_blocks(store: BlockStore, *, host: str, port: int) -> AsyncIterator[tuple[GatewayServer, int]]:
    """Serve until the context is left; yields the server and the port it listens on. Raises GatewayPortError."""
    server = GatewayServer(store)
    try:
        listeners = await trio.open_tcp_listeners(port, host=host)
    except OSError as error:
        why = "in use by another program" if error.errno == errno.EADDRINUSE else str(error)
        raise GatewayPortError(f"content cannot be served at {host}:{port}: {why}; see [content] port") from error
    bound_port: int = listeners[0].socket.getsockname()[1]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, server.handle, listeners)
        yield server, bound_port
        nursery.cancel_scope.cancel()
