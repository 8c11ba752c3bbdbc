"""Server-sent events: written as they come, kept alive while nothing comes, stopped when the client goes away.

Detail: the status is sent with the first event, so that what fails before it is an ordinary error with its own status
and Retry-After. Events that wait for the connection go out together. A client that stops reading holds up the answer,
and with it the paying; after a while its connection is given up (node/api/bounded_stream.py).
"""

from collections.abc import Awaitable, Callable

import trio
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from node.api.bounded_stream import ChunkWriter, chunk_writer
from node.api.openai.faults import ApiError
from node.services.watched_queue import WatchedQueue

HEARTBEAT_SECONDS = 10.0
"""Proxies and clients end a connection on which nothing comes, some after 30 s; a first token may take longer."""
HEARTBEAT = b": waiting\n\n"
"""A comment: clients skip it."""
EVENTS_WAITING_MAX = 64
DONE = b"data: [DONE]\n\n"

Write = Callable[[bytes], Awaitable[None]]


class EventWriter:
    """Where events of one response are written; called, it is a `Write`.

    While nothing else is under way, they can also be written at once: to hand each of many small events to another task
    takes more than all else that is done with it.
    """

    def __init__(self, events: WatchedQueue[bytes], chunks: ChunkWriter | None) -> None:
        self._events = events
        self._chunks = chunks
        self.is_open = False
        """Whether the head of the response has gone out, and its end has not."""
        self._written_at = trio.current_time()

    @property
    def written_at(self) -> float:
        """When something was last written, however it was. Seconds of trio's clock."""
        return self._written_at if self._chunks is None else max(self._written_at, self._chunks.written_at)

    def note(self) -> None:
        """Something was written past this."""
        self._written_at = trio.current_time()

    async def __call__(self, events: bytes) -> None:
        """Write events; waits while many wait for the connection."""
        if self.is_ready():
            await trio.lowlevel.checkpoint_if_cancelled()
            self.write_now(events)
        else:
            await self._events.give(events)

    def is_ready(self) -> bool:
        """Whether `write_now` can be called: the connection takes events at once, and has all before them."""
        return self.is_open and self._chunks is not None and self._events.is_awaited and self._chunks.is_ready()

    def write_now(self, events: bytes) -> None:
        """Write events without waiting. Only when ready."""
        if self._chunks is not None and events:
            self._chunks.write(events)

    def try_write(self, events: bytes) -> bool:
        """Write events, of which there are some, if that needs no waiting; return whether it did."""
        chunks = self._chunks
        return self.is_open and chunks is not None and self._events.is_awaited and chunks.try_write(events)


class EventStream(Response):
    """Server-sent events from a function that writes them.

    An ApiError that it raises is the response if nothing was sent yet, and the last event otherwise. Starlette's own
    streaming takes an async generator, which trio's cancellation would leave half done.
    """

    def __init__(self, produce: Callable[[EventWriter], Awaitable[None]]) -> None:
        super().__init__(headers={"content-type": "text/event-stream; charset=utf-8", "cache-control": "no-cache"})
        del self.headers["content-length"]
        self.headers["x-accel-buffering"] = "no"  # nginx would collect events before it passes them on
        self._produce = produce
        self._is_started = False
        self._starting = trio.Lock()
        self._fault: ApiError | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the response."""
        events = WatchedQueue[bytes](EVENTS_WAITING_MAX)
        writer = EventWriter(events, chunk_writer(scope))
        is_complete = False
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(cancel_on_disconnect, receive, nursery.cancel_scope)
                nursery.start_soon(self._run_producer, events, writer)
                nursery.start_soon(self._keep_alive, writer, send)
                await self._write_events(events, writer, send)
                is_complete = True
                nursery.cancel_scope.cancel()
        finally:
            writer.is_open = False
        if not is_complete:
            return  # the client is gone
        if self._fault is not None and not self._is_started:
            await self._fault.response()(scope, receive, send)
            return
        await self._start(send)
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _run_producer(self, events: WatchedQueue[bytes], writer: EventWriter) -> None:
        try:
            await self._produce(writer)
        except ApiError as fault:
            self._fault = fault
        finally:
            events.close()

    async def _keep_alive(self, writer: EventWriter, send: Send) -> None:
        """Write a comment whenever nothing was written for a while. A task of its own: cheaper than many deadlines."""
        while True:
            quiet = writer.written_at + HEARTBEAT_SECONDS - trio.current_time()
            if quiet <= 0:
                await self._write(HEARTBEAT, writer, send)
            else:
                await trio.sleep(quiet)

    async def _write_events(self, events: WatchedQueue[bytes], writer: EventWriter, send: Send) -> None:
        while True:
            try:
                first = await events.take()
            except trio.EndOfChannel:
                break
            # One write costs the same for all that wait already.
            await self._write(first + b"".join(events.take_waiting()), writer, send)
        if self._fault is not None and self._is_started:
            await self._write(self._fault.event(), writer, send)

    async def _write(self, data: bytes, writer: EventWriter, send: Send) -> None:
        await self._start(send)
        writer.note()
        await send({"type": "http.response.body", "body": data, "more_body": True})
        writer.is_open = True

    async def _start(self, send: Send) -> None:
        """Send the status, once; whoever comes meanwhile waits for it."""
        if self._is_started:
            return
        if self._starting.locked():
            await self._starting.acquire()
        else:
            self._starting.acquire_nowait()  # without the turn that trio takes for a free lock
        try:
            if not self._is_started:
                await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
                self._is_started = True
        finally:
            self._starting.release()


async def cancel_on_disconnect(receive: Receive, scope: trio.CancelScope) -> None:
    """Cancel `scope` when the client goes away."""
    while (await receive())["type"] != "http.disconnect":
        pass
    scope.cancel()
