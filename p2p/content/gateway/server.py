"""Serves the blocks of a store over HTTP/1.1: connections, answers, time-outs and counts.

Goals: a leaf of a model goes from the page cache to the socket by sendfile; a client that is slow, greedy or malformed
harms nobody but itself. Non-goals: pages for browsers (whoever asks must verify), TLS (the bytes are public and
verified; a proxy can add it).

Leaves are not hashed before they are sent: the receiver hashes them anyway, and doing it twice would cost four times
what serving costs. Small blocks, which decide what is fetched next, are (docs/decisions/0020).
"""

import errno
import hmac
import math
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import structlog
import trio

from p2p.content.blockstore import BlockMissingError
from p2p.content.cid import Cid, CidError
from p2p.content.dagpb import DagPbError
from p2p.content.gateway.admission import Admission, GatewayLimits, client_of
from p2p.content.gateway.car import car_header, probe_car, section_head
from p2p.content.gateway.heads import CACHE_CONTROL, Headers, block_headers, etag_of, head_for
from p2p.content.gateway.leaf_run import LeafRun, RunRules
from p2p.content.gateway.metrics import GatewayMetrics
from p2p.content.gateway.places import BlockPlaces, LocatesBlocks, OpenBlock
from p2p.content.gateway.ranges import Span, parse_range
from p2p.content.gateway.request import (
    HEAD_BYTES_MAX,
    HEAD_END,
    Request,
    RequestError,
    RequestReader,
    common_end,
)
from p2p.content.gateway.selection import select_blocks
from p2p.content.gateway.turns import Turns, open_turns
from p2p.content.gateway.wanted import CAR_TYPE, RAW_TYPE, Format, WantedBlock, WantedCar, WantedProbe, decide
from p2p.content.plain_socket import FileShrunkError, PlainSocket
from p2p.content.rate import ByteRate
from p2p.content.tree import CorruptBlockError
from p2p.content.unixfs import UnixFsError

log = structlog.get_logger(__name__)

VERIFIED_BYTES_MAX = 64 * 1024
"""Blocks up to this size are hashed before they are sent: nodes, proofs, documents. Costs 50 µs at most."""
READ_BYTES = 16 * 1024
LINGER_SECONDS = 0.5
"""After a refusal, for the client to read it: closing with unread input would destroy it on the way."""
STEPS_PER_ALLOWANCE = 16
"""Time that is allowed may be short by this part of it."""


class GatewayPortError(Exception):
    """The gateway cannot listen; the message says where and why."""


class GatewayServer:
    """Serves one store. `token`, where there is one, must come with each request (`Authorization: Bearer`).

    `turns` are taken for as long as anything is served.
    """

    def __init__(
        self, store: LocatesBlocks, turns: Turns, *, limits: GatewayLimits | None = None, token: str = ""
    ) -> None:
        self._store = store
        self._limits = limits or GatewayLimits()
        self._token = token.encode()
        self._places = BlockPlaces(store)
        self._admission = Admission(self._limits, trio.current_time)
        self._rate = ByteRate(self._limits.bytes_per_second)
        self.metrics = GatewayMetrics()
        self.turns = turns
        """Those in which leaf after leaf is sent."""
        self.run_rules = RunRules(self, self._limits, self.metrics)

    @property
    def served_bytes(self) -> int:
        """Bytes of blocks given to clients."""
        return self.metrics.served_bytes

    @property
    def open_connections(self) -> int:
        """Connections that are served now."""
        return self._admission.connections

    async def handle(self, stream: trio.SocketStream) -> None:
        """Serve one connection until it ends. Never raises: a client's faults are its own."""
        self.metrics.connections += 1
        try:
            client = client_of(stream.socket.getpeername()[0])
            plain = PlainSocket(stream)
        except OSError as error:  # gone again, or no descriptor left for it
            log.debug("a content connection ended", reason=repr(error))
            await trio.aclose_forcefully(stream)
            return
        connection = _Connection(self, plain, client)
        entered = False
        try:
            if self._admission.connections >= self._limits.connections_max:
                await connection.refuse(RequestError(503, "busy: too many connections", close=True, retry_seconds=5))
                return
            entered = self._admission.enter(client)
            if not entered:
                refusal = RequestError(429, "too many connections from your address", close=True, retry_seconds=5)
                await connection.refuse(refusal)
                return
            await connection.converse()
        except (trio.BrokenResourceError, trio.ClosedResourceError, OSError) as error:
            log.debug("a content connection ended", client=client, reason=repr(error))
        except (BlockMissingError, CorruptBlockError, FileShrunkError, UnixFsError, DagPbError) as error:
            log.warning("an answer was broken off: content is damaged here", reason=str(error))
        except Exception:
            log.exception("a content connection ended by a fault of ours", client=client)
        finally:
            if entered:
                self._admission.leave(client)
            plain.close()

    def authorise(self, request: Request, client: str) -> None:
        """Raise RequestError (401, 429) unless the client may ask this now."""
        if self._token:
            scheme, _, given = request.headers.get("authorization", "").partition(" ")
            if scheme.lower() != "bearer" or not hmac.compare_digest(given.strip().encode(), self._token):
                raise RequestError(401, "this gateway needs a token; its operator gives it")
        wait = self._admission.wait_seconds(client)
        if wait:
            raise RequestError(429, "too many requests from your address", retry_seconds=max(1, round(wait)))

    async def open_block(self, cid: Cid, before: OpenBlock | None = None) -> OpenBlock | bytes:
        """Open a held block; a small one is returned as verified bytes. Raises RequestError(404).

        `before` is an open block that is taken over: blocks asked one after another are mostly of one file.
        """
        try:
            opened = await self._places.open_block(cid, before)
        except BlockMissingError:
            raise RequestError(404, "not held here") from None
        if opened.size > VERIFIED_BYTES_MAX:
            return opened
        try:
            return await trio.to_thread.run_sync(self._read_verified, cid, opened)
        finally:
            opened.close()

    async def check_held(self, cid: Cid) -> None:
        """Raise RequestError(404) unless the block is held."""
        opened = await self.open_block(cid)
        if isinstance(opened, OpenBlock):
            opened.close()

    def reopen_leaf(self, text: bytes, before: OpenBlock | None) -> OpenBlock | None:
        """Open a leaf of which is known where it is; None if it is not, or no leaf. For any thread.

        `before`: as in `open_block`, if something is returned.
        """
        try:
            cid = Cid.parse(text.decode("ascii"))
        except (CidError, UnicodeDecodeError):
            return None
        return self._places.reopen(cid, before, size_min=VERIFIED_BYTES_MAX + 1)

    @property
    def is_unmetered(self) -> bool:
        """Whether neither requests nor bytes have a rate: what is allowed once is allowed again."""
        return not self._limits.requests_per_second and not self._rate.is_limited

    def _read_verified(self, cid: Cid, opened: OpenBlock) -> bytes:
        data = os.pread(opened.descriptor, opened.size, opened.offset)
        if not cid.matches(data):
            log.error("a stored block is damaged and is removed; it will be fetched again", cid=str(cid))
            self._store.remove(cid)
            raise RequestError(404, "not held here")
        return data

    def select(self, wanted: WantedCar) -> Iterator[Cid]:
        """Return the blocks of a CAR; blocking, to be drawn in a worker thread."""
        return select_blocks(wanted, self._store.read)

    @property
    def rate(self) -> ByteRate:
        """What all connections send within."""
        return self._rate

    @property
    def limits(self) -> GatewayLimits:
        """What is given to whom."""
        return self._limits


class _Connection:
    """One client's requests, one after another; pipelined ones wait in the buffer."""

    def __init__(self, server: GatewayServer, socket: PlainSocket, client: str) -> None:
        self._server = server
        self._limits = server.limits
        self._metrics = server.metrics
        self._socket = socket
        self._rate = server.rate
        self._client = client
        self._buffer = bytearray()
        self._scope = trio.CancelScope()
        """One for the connection, whose deadline moves: a scope for each step costs more than the step."""
        self._is_sending = False
        self._reader = RequestReader()
        self._last: OpenBlock | None = None
        """The block sent last, while another request was already there: it may be of the same file."""
        self._is_leaf = False
        """Whether the answer is a whole leaf."""
        self._alike_end: bytes | None = None
        """What follows the CID in a request that was answered by a whole leaf: the same with another CID means the same
        of another leaf."""

    async def converse(self) -> None:
        """Answer requests until the client ends, falls silent, or takes too long to read."""
        try:
            with self._scope:
                await self._converse()
        finally:
            self._close_last()
        if self._scope.cancelled_caught and self._is_sending:
            self._metrics.slow_readers_cut += 1
            log.debug("a slow reader is cut", client=self._client)

    async def _converse(self) -> None:
        while True:
            request: Request | None = None
            try:
                if self._alike_end is not None:
                    await self._run(self._alike_end)
                head = await self._next_head()
                if head is None:
                    return
                request = self._reader.read(head)
                self._server.authorise(request, self._client)
                self._is_leaf = False
                await self._answer(request)
                self._alike_end = common_end(request, head) if self._is_leaf else None
            except RequestError as error:
                if request is None or error.close:
                    await self.refuse(error)
                    return
                await self._send_error(error, request)
            if not request.keep_alive:
                return

    async def refuse(self, error: RequestError) -> None:
        """Answer without understanding the request, and end the connection so that the answer arrives."""
        with trio.move_on_after(LINGER_SECONDS):
            await self._send_error(error, None)
            self._socket.end()
            while await self._socket.receive(READ_BYTES):
                pass

    async def _next_head(self) -> bytes | None:
        """Return the next request's head, None at the end or after too long a silence. Raises RequestError."""
        end = self._buffer.find(HEAD_END)
        if 0 <= end <= HEAD_BYTES_MAX:  # sent ahead: no waiting
            return self._cut_head(end)
        self._close_last()  # a file that is deleted must not take space for as long as a client is connected
        self._allow(self._limits.idle_seconds_max)
        is_begun = False
        searched = 0
        while (end := self._buffer.find(HEAD_END, searched)) < 0:
            if len(self._buffer) > HEAD_BYTES_MAX:
                raise RequestError(400, f"a request head of more than {HEAD_BYTES_MAX} bytes", close=True)
            if self._buffer and not is_begun:
                is_begun = True
                self._allow(self._limits.head_seconds_max)
            searched = max(0, len(self._buffer) - len(HEAD_END) + 1)
            data = await self._socket.receive(READ_BYTES)
            if not data:
                return None
            self._buffer += data
        if end > HEAD_BYTES_MAX:
            raise RequestError(400, f"a request head of more than {HEAD_BYTES_MAX} bytes", close=True)
        return self._cut_head(end)

    async def _run(self, alike_end: bytes) -> None:
        """Answer requests that differ from one before in nothing but the CID, as long as they take no more than that.

        What comes then is in the buffer, or has not come yet.
        """
        self._scope.deadline = math.inf  # in turns there are other deadlines
        run = LeafRun(self._server.run_rules, self._socket, self._buffer, alike_end, self._last)
        self._last = None
        try:
            await self._server.turns.serve(run)
        finally:
            self._last = run.last
        self._allow(self._limits.idle_seconds_max, sending=run.is_sending)
        if run.is_sending:  # overdue
            self._scope.cancel()
            await trio.lowlevel.checkpoint()

    def _close_last(self) -> None:
        if self._last is not None:
            self._last.close()
            self._last = None

    def _cut_head(self, end: int) -> bytes:
        head = bytes(self._buffer[:end])
        del self._buffer[: end + len(HEAD_END)]
        return head

    async def _answer(self, request: Request) -> None:
        wanted = decide(request)
        if isinstance(wanted, WantedProbe):
            await self._answer_probe(request, wanted)
        elif isinstance(wanted, WantedBlock):
            await self._answer_block(request, wanted)
        else:
            await self._answer_car(request, wanted)

    async def _answer_probe(self, request: Request, wanted: WantedProbe) -> None:
        is_raw = wanted.form is Format.RAW
        body = b"" if is_raw else probe_car()
        head = self._head(200, request, len(body), [("Content-Type", RAW_TYPE if is_raw else CAR_TYPE)])
        await self._send_within(head + (b"" if request.is_head else body))

    async def _answer_block(self, request: Request, wanted: WantedBlock) -> None:
        last, self._last = self._last, None
        opened = await self._server.open_block(wanted.cid, last)
        try:
            etag = etag_of(wanted.text)
            if _is_known(request, etag):
                await self._send_within(self._head(304, request, None, [("Etag", etag)]))
                return
            size = len(opened) if isinstance(opened, bytes) else opened.size
            wanted_range = None if request.headers.get("if-range", etag) != etag else request.headers.get("range")
            try:
                part = parse_range(wanted_range, size)
            except RequestError as error:
                await self._send_error(error, request, [("Content-Range", f"bytes */{size}")])
                return
            headers = block_headers(wanted.text)
            if part is not None:
                headers.append(("Content-Range", f"bytes {part.start}-{part.end - 1}/{size}"))
            status, part = (200, Span(0, size)) if part is None else (206, part)
            head = self._head(status, request, part.end - part.start, headers)
            if request.is_head:
                await self._send_within(head)
            else:
                await self._send_block(head, opened, part)
                self._is_leaf = status == 200 and isinstance(opened, OpenBlock) and self._server.is_unmetered
        finally:
            if isinstance(opened, OpenBlock):
                self._last = opened

    async def _answer_car(self, request: Request, wanted: WantedCar) -> None:
        self._close_last()
        cids = self._server.select(wanted)
        cid: Cid | None = await trio.to_thread.run_sync(next, cids)  # raises 404 before anything is promised
        if cid is not None:
            await self._server.check_held(cid)
        headers = [
            ("Content-Type", f"{CAR_TYPE}; version=1; order=dfs; dups=y"),
            ("Content-Disposition", f'attachment; filename="{wanted.cid}.car"'),
            ("Cache-Control", CACHE_CONTROL),
            ("X-Content-Type-Options", "nosniff"),
            ("Accept-Ranges", "none"),
        ]
        if request.reads_chunks:
            headers.append(("Transfer-Encoding", "chunked"))
        else:
            headers.append(("Connection", "close"))
        head = self._head(200, request, None, headers)
        if request.is_head:
            await self._send_within(head)
            return
        await self._send_within(head + self._frame(car_header(wanted.cid), request))
        while cid is not None:
            try:
                opened = await self._server.open_block(cid)
            except RequestError as error:
                raise BlockMissingError(f"block {cid} of a CAR is missing") from error
            try:
                size = len(opened) if isinstance(opened, bytes) else opened.size
                prefix = section_head(cid, size)
                if request.reads_chunks:
                    prefix = f"{len(prefix) + size:x}\r\n".encode() + prefix
                await self._send_block(prefix, opened, Span(0, size))
            finally:
                if isinstance(opened, OpenBlock):
                    opened.close()
            if request.reads_chunks:
                await self._send_within(b"\r\n")
            cid = await trio.to_thread.run_sync(next, cids, None)
        if request.reads_chunks:
            await self._send_within(b"0\r\n\r\n")
        else:
            raise trio.ClosedResourceError("the end of an HTTP/1.0 body is the end of the connection")

    def _frame(self, data: bytes, request: Request) -> bytes:
        return f"{len(data):x}\r\n".encode() + data + b"\r\n" if request.reads_chunks else data

    async def _send_block(self, head: bytes, opened: OpenBlock | bytes, part: Span) -> None:
        size = part.end - part.start
        self._allow(self._limits.answer_seconds(size), sending=True)
        if isinstance(opened, bytes):
            await self._socket.send_all(head + opened[part.start : part.end], self._rate)
        else:
            await self._socket.send_all(head, self._rate, more=True)
            await self._socket.send_file(opened.descriptor, opened.offset + part.start, size, self._rate)
        self._metrics.count_served(size)

    async def _send_within(self, data: bytes) -> None:
        self._allow(self._limits.answer_seconds(len(data)), sending=True)
        await self._socket.send_all(data, self._rate)

    def _allow(self, seconds: float, *, sending: bool = False) -> None:
        """Give the connection so long for what comes next, or a little less."""
        self._is_sending = sending
        deadline = trio.current_time() + seconds
        # Moving it costs more than reading the clock.
        if not 0 <= deadline - self._scope.deadline <= seconds / STEPS_PER_ALLOWANCE:
            self._scope.deadline = deadline

    async def _send_error(
        self, error: RequestError, request: Request | None, headers: list[tuple[str, str]] | None = None
    ) -> None:
        body = f"{error.text}\n".encode()
        headers = [*(headers or ()), ("Content-Type", "text/plain; charset=utf-8")]
        if error.status == 405:
            headers.append(("Allow", "GET, HEAD"))
        if error.status == 401:
            headers.append(("WWW-Authenticate", "Bearer"))
        if error.retry_seconds:
            headers.append(("Retry-After", str(error.retry_seconds)))
        head = self._head(error.status, request, len(body), headers)
        await self._send_within(head if request is not None and request.is_head else head + body)

    def _head(self, status: int, request: Request | None, size: int | None, headers: Headers) -> bytes:
        self._metrics.count_answer(status)
        return head_for(request, status, headers, size)


def _is_known(request: Request, etag: str) -> bool:
    if "if-none-match" not in request.headers:
        return False
    known = {part.strip().removeprefix("W/") for part in request.headers["if-none-match"].split(",")}
    return etag in known or "*" in known


@asynccontextmanager
async def serve_blocks(
    store: LocatesBlocks, *, host: str, port: int, limits: GatewayLimits | None = None, token: str = ""
) -> AsyncIterator[tuple[GatewayServer, int]]:
    """Serve until the context is left; yields the server and the port it listens on. Raises GatewayPortError."""
    with open_turns() as turns:
        server = GatewayServer(store, turns, limits=limits, token=token)
        try:
            listeners = await trio.open_tcp_listeners(port, host=host)
        except OSError as error:
            why = "in use by another program" if error.errno == errno.EADDRINUSE else str(error)
            raise GatewayPortError(f"content cannot be served at {host}:{port}: {why}; see [content] port") from error
        bound_port: int = listeners[0].socket.getsockname()[1]
        async with trio.open_nursery() as nursery:
            nursery.start_soon(turns.take)
            nursery.start_soon(trio.serve_listeners, server.handle, listeners)
            yield server, bound_port
            nursery.cancel_scope.cancel()
