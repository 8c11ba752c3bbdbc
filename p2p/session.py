"""One long-lived stream between two peers and the calls that share it: credits, cancellation, liveness.

Measured with libp2p 0.8.1: a writer is reset if its reader stalls for five seconds, and a frozen peer is not noticed.
So chunks need credit, the reading task never waits for anybody, and a ping that is not answered ends the session.
"""

import math
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import structlog
import trio

from p2p.frames import (
    LENGTH_BYTES,
    Frame,
    FrameError,
    Kind,
    decode_frame,
    encode_frame,
    fail_body,
    frame_length,
    open_body,
    read_fail_body,
    read_open_body,
)
from p2p.standing import Offence, Standing

log = structlog.get_logger(__name__)

CREDIT_CHUNKS = 64
"""Chunks one end may send before the other has taken any; also the size of the receiver's queue."""
CREDIT_BATCH = CREDIT_CHUNKS // 4
READ_BYTES = 65536
"""The library sends a window update per read: small reads halve its speed."""
PING_SECONDS = 10.0
PING_DEADLINE_SECONDS = 20.0
INBOUND_CALLS_MAX = 256
"""Calls a peer may have open on one session, over all methods."""


class CallError(Exception):
    """A call failed: `code` is a word of the peer's, or `lost`, `unreachable`, `deadline`, `busy`, `no-method`."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message


@dataclass(eq=False)
class CallEnd:
    """One end of a call."""

    session: "Session"
    number: int
    peer_id: str
    payload: bytes
    credit: int = CREDIT_CHUNKS
    taken: int = 0
    error: CallError | None = None
    ended: bool = False
    credit_arrived: trio.Event = field(default_factory=trio.Event)
    cancel_scope: trio.CancelScope = field(default_factory=trio.CancelScope)

    def __post_init__(self) -> None:
        self.arrivals, self.received = trio.open_memory_channel[bytes](CREDIT_CHUNKS)

    async def send(self, data: bytes) -> None:
        """Send a chunk; waits for credit."""
        while self.credit == 0 and not self.ended:
            await self.credit_arrived.wait()
        if self.ended:
            raise self.error or CallError("lost", "the call has ended")
        self.credit -= 1
        await self.session.write(Frame(Kind.DATA, self.number, data))

    async def receive(self) -> bytes:
        """Return the next chunk; trio.EndOfChannel at the normal end, CallError otherwise."""
        try:
            data = await self.received.receive()
        except trio.EndOfChannel:
            if self.error is not None:
                raise self.error from None
            raise
        self.taken += 1
        if self.taken >= CREDIT_BATCH and not self.ended:
            taken, self.taken = self.taken, 0
            await self.session.write(Frame(Kind.CREDIT, self.number, taken.to_bytes(4)))
        return data

    def add_credit(self, chunks: int) -> None:
        """The other end took chunks."""
        self.credit += chunks
        self.credit_arrived.set()
        self.credit_arrived = trio.Event()

    def finish(self, error: CallError | None) -> None:
        """Nothing more will come from the other end."""
        if not self.ended:
            self.ended, self.error = True, error
            self.arrivals.close()
            self.credit_arrived.set()


Handler = Callable[[CallEnd], Awaitable[None]]


@dataclass(slots=True)
class Served:
    """A method that peers may call."""

    handler: Handler
    concurrency: int
    running: int = 0


class Session:
    """The calls over one stream. `run` reads until the stream ends; then every call is `lost`."""

    def __init__(self, stream: Any, peer_id: str, methods: dict[str, Served], standing: Standing) -> None:
        self._stream = stream
        self._standing = standing
        self.peer_id = peer_id
        self._methods = methods
        self._write_lock = trio.Lock()
        self._outgoing: dict[int, CallEnd] = {}
        self._incoming: dict[int, CallEnd] = {}
        self._next_call = 1
        self._buffer = bytearray()
        self._closed = False
        self._pong = trio.Event()
        self.latency_seconds = math.nan

    @property
    def is_open(self) -> bool:
        """Whether calls can be made."""
        return not self._closed

    async def run(self) -> None:
        """Read frames until the stream ends, for whatever reason."""
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._watch_liveness, nursery.cancel_scope)
                await self._read_frames(nursery)
                nursery.cancel_scope.cancel()
        except* FrameError as errors:
            self._standing.blame(self.peer_id, Offence.MALFORMED, str(errors.exceptions[0]))
        finally:
            self._closed = True
            lost = CallError("lost", f"the connection to {self.peer_id} ended")
            for call in (*self._outgoing.values(), *self._incoming.values()):
                call.finish(lost)
                call.cancel_scope.cancel()
            with trio.CancelScope(shield=True), trio.move_on_after(1):
                try:
                    await self._stream.reset()
                except Exception as error:  # it may be gone already
                    log.debug("the request stream could not be reset", reason=repr(error))

    @asynccontextmanager
    async def call(self, method: str, payload: bytes) -> AsyncIterator[CallEnd]:
        """Open a call; leaving the context before its end cancels it at the other end."""
        number = self._next_call
        self._next_call += 1
        call = CallEnd(self, number, self.peer_id, payload)
        self._outgoing[number] = call
        try:
            await self.write(Frame(Kind.OPEN, number, open_body(method, payload)))
            yield call
        finally:
            del self._outgoing[number]
            if not call.ended:
                call.finish(CallError("lost", "cancelled"))
                with trio.CancelScope(shield=True), trio.move_on_after(1):
                    try:
                        await self.write(Frame(Kind.CANCEL, number))
                    except CallError:
                        log.debug("a cancelled call's connection is gone", peer=self.peer_id)

    async def write(self, frame: Frame) -> None:
        """Send a frame. Raises CallError `lost` if the stream is gone."""
        if self._closed:
            raise CallError("lost", f"the connection to {self.peer_id} ended")
        data = encode_frame(frame)
        # Shielded: half a frame would make everything after it unreadable. The library gives up after five seconds.
        async with self._write_lock:
            with trio.CancelScope(shield=True):
                try:
                    await self._stream.write(data)
                except Exception as error:
                    self._closed = True
                    raise CallError("lost", f"cannot write to {self.peer_id}: {error!r}") from error

    async def _read_frames(self, nursery: trio.Nursery) -> None:
        while True:
            prefix = await self._read_exactly(LENGTH_BYTES)
            if prefix is None:
                return
            data = await self._read_exactly(frame_length(prefix))
            if data is None:
                return
            await self._handle(decode_frame(data), nursery)

    async def _read_exactly(self, count: int) -> bytes | None:
        """Return `count` bytes, or None at the end of the stream."""
        while len(self._buffer) < count:
            try:
                chunk = await self._stream.read(READ_BYTES)
            except Exception as error:  # reset, closed, connection lost: the library has many
                log.debug("a request stream ended", peer=self.peer_id, reason=repr(error))
                return None
            if not chunk:
                return None
            self._buffer += chunk
        data = bytes(self._buffer[:count])
        del self._buffer[:count]
        return data

    async def _handle(self, frame: Frame, nursery: trio.Nursery) -> None:
        match frame.kind:
            case Kind.OPEN:
                self._begin(frame, nursery)
            case Kind.DATA:
                self._deliver(frame)
            case Kind.CREDIT:
                call = self._find(frame.call)
                if call is not None:
                    if len(frame.body) != 4 or int.from_bytes(frame.body) > CREDIT_CHUNKS:
                        raise FrameError("malformed CREDIT")
                    call.add_credit(int.from_bytes(frame.body))
            case Kind.END:
                self._finish_outgoing(frame.call, None)
            case Kind.FAIL:
                self._finish_outgoing(frame.call, CallError(*read_fail_body(frame.body)))
            case Kind.CANCEL:
                cancelled = self._incoming.get(-frame.call)
                if cancelled is not None:
                    cancelled.finish(CallError("cancelled", "the caller is no longer interested"))
                    cancelled.cancel_scope.cancel()
            case Kind.PING:
                nursery.start_soon(self._reply, Frame(Kind.PONG, 0, frame.body))
            case Kind.PONG:
                self._pong.set()

    def _find(self, number: int) -> CallEnd | None:
        """Frames of a caller's own calls come back under its number; those of calls to us are kept under minus it."""
        return self._outgoing.get(number) or self._incoming.get(-number)

    def _deliver(self, frame: Frame) -> None:
        call = self._find(frame.call)
        if call is None or call.ended:
            return  # late chunks of a call that has ended here
        try:
            call.arrivals.send_nowait(frame.body)
        except trio.WouldBlock as error:
            raise FrameError("more chunks than credit") from error
        except trio.BrokenResourceError:
            return

    def _finish_outgoing(self, number: int, error: CallError | None) -> None:
        call = self._outgoing.get(number)
        if call is not None:
            call.finish(error)

    def _begin(self, frame: Frame, nursery: trio.Nursery) -> None:
        method, payload = read_open_body(frame.body)
        number = frame.call
        if -number in self._incoming:
            raise FrameError("a call number is used twice")
        served = self._methods.get(method)
        if served is None:
            nursery.start_soon(self._reply, Frame(Kind.FAIL, number, fail_body("no-method", method)))
            return
        if served.running >= served.concurrency or len(self._incoming) >= INBOUND_CALLS_MAX:
            busy = fail_body("busy", f"{served.running} calls of {method} are running")
            nursery.start_soon(self._reply, Frame(Kind.FAIL, number, busy))
            return
        call = CallEnd(self, number, self.peer_id, payload)
        self._incoming[-number] = call
        served.running += 1
        nursery.start_soon(self._serve, served, call)

    async def _serve(self, served: Served, call: CallEnd) -> None:
        reply = Frame(Kind.END, call.number)
        try:
            with call.cancel_scope:
                await served.handler(call)
        except CallError as error:
            reply = Frame(Kind.FAIL, call.number, fail_body(error.code, error.message))
        except Exception as error:
            log.error("a call failed by a fault of ours", peer=self.peer_id, reason=repr(error), exc_info=error)
            reply = Frame(Kind.FAIL, call.number, fail_body("internal", "the handler failed"))
        finally:
            served.running -= 1
            self._incoming.pop(-call.number, None)
            call.finish(None)
        await self._reply(reply)

    async def _reply(self, frame: Frame) -> None:
        try:
            await self.write(frame)
        except CallError as error:
            log.debug("a reply could not be sent", reason=error.message)

    async def _watch_liveness(self, scope: trio.CancelScope) -> None:
        while True:
            self._pong = trio.Event()
            sent_at = trio.current_time()
            await self._reply(Frame(Kind.PING, 0, b"quern"))
            with trio.move_on_after(PING_DEADLINE_SECONDS) as deadline:
                await self._pong.wait()
            if deadline.cancelled_caught:
                log.info("a peer does not answer pings; its session ends", peer=self.peer_id)
                scope.cancel()
                return
            self.latency_seconds = trio.current_time() - sent_at
            await trio.sleep(PING_SECONDS)
