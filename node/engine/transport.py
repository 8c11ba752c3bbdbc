"""The way to a vLLM server: a Unix socket or a URL, with every reply bounded and the traffic watched.

A server of one's own may be broken, one on another machine may be anything: replies are limited in size, must not be
compressed (a bomb is small) and lead nowhere else. What comes back is noted, so that a server that has stopped moving
is found although it still accepts requests.
"""

import math
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import httpx
import trio

from node.engine.endpoint import Endpoint
from node.engine.plain_client import PlainClient
from node.engine.plain_http import PUSH, PlainTransport, Push, Take

LINE_BYTES_MAX = 16 * 1024 * 1024
"""Between two line ends of a stream: one event."""
REPLY_BYTES_MAX = 64 * 1024 * 1024
"""Of a reply in one piece: log-probabilities of long prompts."""
CONNECT_SECONDS_MAX = 10.0
SILENCE_SECONDS_MAX = 600.0
"""Longest wait for the next bytes of one reply: it may be queued long. The watchdog finds a wedged server earlier."""
IDLE_SECONDS_MAX = 2.0
"""Of a connection kept for the next request. vLLM's server closes them after five: one that is closed just as a request
goes out would fail that request."""
STREAM_TYPE = "text/event-stream"
GENERATING_PATHS = frozenset({"/v1/completions", "/v1/chat/completions", "/v1/embeddings", "/pooling", "/api/chat"})
"""Only the engine's core answers these; other paths answer also while it is wedged."""


@dataclass(slots=True, eq=False)
class Traffic:
    """What passes between the daemon and one server. Times are seconds of trio's clock."""

    running: int = 0
    """Requests for tokens without a complete reply."""
    heard_at: float = -math.inf
    """When the last byte came that only the engine's core can have given."""
    finished: int = 0
    request_bytes: dict[object, int] = field(default_factory=dict)
    """Of each running request; bounds how long its prefill may take."""
    changed: trio.Event = field(default_factory=trio.Event)

    def begin(self, size: int) -> object:
        """Note a request of `size` bytes; return what to end it with."""
        ticket = object()
        self.request_bytes[ticket] = size
        self.running += 1
        return ticket

    def hear(self) -> None:
        """Note that the engine moved."""
        self.heard_at = trio.current_time()

    def end(self, ticket: object) -> None:
        """Note the end of a request, however it ended. A second time has no effect."""
        if self.request_bytes.pop(ticket, None) is not None:
            self.running -= 1
            self.finished += 1
            self.changed.set()
            self.changed = trio.Event()

    @property
    def longest_request_bytes(self) -> int:
        """Of the requests that run."""
        return max(self.request_bytes.values(), default=0)


class GuardedTransport(httpx.AsyncBaseTransport):
    """An HTTP transport with the rules of this module."""

    def __init__(self, inner: httpx.AsyncBaseTransport, traffic: Traffic, api_key: str = "") -> None:
        self._inner = inner
        self._traffic = traffic
        self._api_key = api_key
        self._waiting: set[trio.CancelScope] = set()
        """Of requests whose reply has not begun."""
        self._streams: set[_GuardedStream] = set()
        """Of replies that are not complete. Both are bounded by the requests that run."""

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request. Raises httpx.HTTPError."""
        request.headers["accept-encoding"] = "identity"
        if self._api_key:
            request.headers["authorization"] = f"Bearer {self._api_key}"
        ticket = None
        if request.method == "POST" and request.url.path in GENERATING_PATHS:
            ticket = self._traffic.begin(int(request.headers.get("content-length", "0")))
        try:
            response = await self._begin(request)
            try:
                _check_head(response)
            except httpx.HTTPError:
                await response.aclose()
                raise
        except BaseException:
            self._traffic.end(ticket)
            raise
        if not isinstance(response.stream, httpx.AsyncByteStream):
            raise TypeError("an asynchronous transport gave a reply that is none")
        streamed = response.headers.get("content-type", "").startswith(STREAM_TYPE)
        moves = ticket is not None and response.is_success
        push = response.extensions.pop(PUSH, None)
        stream = _GuardedStream(response.stream, self._traffic, ticket, push, streamed=streamed, moves=moves)
        self._streams.add(stream)
        stream.closed = self._streams.discard
        if push is not None:
            response.extensions[PUSH] = stream.push
        response.stream = stream
        return response

    async def aclose(self) -> None:
        """Break off every request that runs: nobody watches this server any more. Their readers get httpx.ReadError."""
        for scope in self._waiting:
            scope.cancel()
        for stream in list(self._streams):
            await stream.aclose()
        await self._inner.aclose()

    async def _begin(self, request: httpx.Request) -> httpx.Response:
        """Send a request; return its reply when that begins."""
        scope = trio.CancelScope()
        self._waiting.add(scope)
        try:
            with scope:
                return await self._inner.handle_async_request(request)
        finally:
            self._waiting.discard(scope)
        raise httpx.ReadError("the server was given up before it replied")


class _GuardedStream(httpx.AsyncByteStream):
    def __init__(
        self,
        inner: httpx.AsyncByteStream,
        traffic: Traffic,
        ticket: object,
        push: Push | None,
        *,
        streamed: bool,
        moves: bool,
    ) -> None:
        self._inner = inner
        self._push = push
        self._traffic = traffic
        self._ticket = ticket
        self._streamed = streamed
        self._moves = moves
        self._size = 0
        """Of the reply so far; where it is streamed, of the event that is not complete."""
        self.closed: Callable[[_GuardedStream], None] = lambda _stream: None
        """Called when it is."""

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for data in self._inner:
            self._check(data)
            yield data

    async def push(self, take: Take) -> None:
        """Hand the content to `take`, within the same limits. Only where the way below can."""
        check = self._check

        def take_checked(data: bytes) -> bool:
            check(data)
            return take(data)

        if self._push is None:
            raise RuntimeError("nothing can be pushed by the transport below")
        await self._push(take_checked)

    def _check(self, data: bytes) -> None:
        """Note that the server moved, and keep its reply within bounds. Raises httpx.ReadError."""
        if self._moves:
            self._traffic.hear()
        if self._streamed:
            end = data.rfind(b"\n")
            self._size = self._size + len(data) if end < 0 else len(data) - end - 1
        else:
            self._size += len(data)
        if self._size > (LINE_BYTES_MAX if self._streamed else REPLY_BYTES_MAX):
            raise httpx.ReadError("the reply is too large")

    async def aclose(self) -> None:
        try:
            await self._inner.aclose()
        finally:
            self._traffic.end(self._ticket)
            self.closed(self)


def _check_head(response: httpx.Response) -> None:
    if response.is_redirect:
        raise httpx.RemoteProtocolError("the server sends elsewhere; redirects are not followed: name the place itself")
    if response.headers.get("content-encoding", "identity") != "identity":
        raise httpx.RemoteProtocolError("the server compresses its replies, which it was asked not to do")


@asynccontextmanager
async def open_http(endpoint: Endpoint, traffic: Traffic) -> AsyncIterator[httpx.AsyncClient]:
    """Open connections to a server; `traffic` is kept up to date."""
    transport = GuardedTransport(_inner(endpoint), traffic, endpoint.api_key)
    timeout = httpx.Timeout(SILENCE_SECONDS_MAX, connect=CONNECT_SECONDS_MAX)
    async with PlainClient(transport, base_url=endpoint.url, timeout=timeout) as client:
        yield client


def _inner(endpoint: Endpoint) -> httpx.AsyncBaseTransport:
    """Return the plain way where there is no TLS: it costs a fraction for each token."""
    if endpoint.socket is not None or endpoint.url.startswith("http:"):
        return PlainTransport(endpoint.socket)
    limits = httpx.Limits(max_connections=None, keepalive_expiry=IDLE_SECONDS_MAX)
    return httpx.AsyncHTTPTransport(limits=limits, trust_env=False)
