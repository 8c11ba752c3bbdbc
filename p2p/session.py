"""One long-lived stream between two peers and the calls that share it: credits, deadlines, cancellation, liveness.

The reading task never waits for anybody: what it has to answer goes into a bounded queue, what arrives for a call is
within the call's credit, and all that is held for the peer within the session's bound. A peer that breaks a rule is
blamed and the session ends; a ping that is not answered ends it too.
"""

import math
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import structlog
import trio

from p2p.call_errors import CallError, find_error, is_due_to
from p2p.calls import CallEnd, Handler
from p2p.combining_writer import CombiningWriter, WriteFailedError
from p2p.credit import (
    ALL_HELD_BYTES_MAX,
    SESSION_HELD_BYTES_MAX,
    CreditError,
    HeldBytes,
    ReceiveCredit,
    chunk_cost,
)
from p2p.frames import (
    BODY_BYTES_MAX,
    DEADLINE_MILLISECONDS_MAX,
    PING_BYTES_MAX,
    Frame,
    FrameError,
    Kind,
    Opening,
    credit_body,
    cut_frames,
    encode_data,
    encode_frame,
    fail_body,
    open_body,
    read_credit_body,
    read_fail_body,
    read_open_body,
)
from p2p.standing import Offence, Standing

log = structlog.get_logger(__name__)

READ_BYTES = 65536
PING_SECONDS = 10.0
PING_DEADLINE_SECONDS = 20.0
INBOUND_CALLS_MAX = 256
"""Calls a peer may have open on one session, over all methods."""
ANSWERS_MAX = 1024
"""Refusals and pongs waiting to be sent. Whoever lets them pile up does not read them."""
HANDLER_SECONDS_MAX = 3600.0
"""Of a call without a deadline, or with a later one."""
CALL_NUMBER_MAX = 2**32 - 1


@dataclass(slots=True)
class Served:
    """A method that peers may call."""

    handler: Handler
    concurrency: int
    running: int = 0


class Session:
    """The calls over one stream. `run` reads until the stream ends; then every call is `lost`.

    The opener of the stream calls and its peer serves: for calls the other way the peer opens a stream of its own.
    """

    def __init__(
        self,
        stream: Any,
        peer_id: str,
        methods: dict[str, Served],
        standing: Standing,
        everything_held: HeldBytes | None = None,
    ) -> None:
        self.peer_id = peer_id
        self.held = HeldBytes(SESSION_HELD_BYTES_MAX, everything_held or HeldBytes(ALL_HELD_BYTES_MAX))
        self.latency_seconds = math.nan
        self._stream = stream
        self._standing = standing
        self._methods = methods
        self._writer = CombiningWriter(stream)
        self._outgoing: dict[int, CallEnd] = {}
        self._incoming: dict[int, CallEnd] = {}
        self._next_call = 1
        self._closed = False
        self._pong = trio.Event()
        self._answers: deque[Frame] = deque()
        self._answers_wait = trio.Event()
        self._stray_bytes_left = 0

    @property
    def is_open(self) -> bool:
        """Whether calls can be made."""
        return not self._closed

    async def run(self) -> None:
        """Read frames until the stream ends, for whatever reason."""
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._writer.run)
                nursery.start_soon(self._send_answers)
                nursery.start_soon(self._watch_liveness, nursery.cancel_scope)
                try:
                    await self._read_frames(nursery)
                finally:
                    await self._hang_up()
                nursery.cancel_scope.cancel()
        except* FrameError as errors:
            self._standing.blame(self.peer_id, Offence.MALFORMED, f"on a request stream: {_first(errors)}")
        except* CreditError as errors:
            self._standing.blame(self.peer_id, Offence.OVERFLOW, f"on a request stream: {_first(errors)}")

    @asynccontextmanager
    async def call(self, method: str, payload: bytes, *, deadline_seconds: float = math.inf) -> AsyncIterator[CallEnd]:
        """Open a call; leaving the context before its end cancels it at the other end.

        The other end is told the deadline, so that it does not work for nobody.
        """
        number = self._next_number()
        call = CallEnd(self, number, self.peer_id, payload)
        self._outgoing[number] = call
        try:
            opening = Opening(method, payload, _milliseconds(deadline_seconds))
            await self.write(Frame(Kind.OPEN, number, open_body(opening)))
            yield call
        finally:
            del self._outgoing[number]
            self._close_books(call)
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
        try:
            await self._writer.write(encode_frame(frame))
        except WriteFailedError as error:
            self._closed = True
            raise CallError("lost", f"cannot write to {self.peer_id}: {error}") from error

    @property
    def may_write_soon(self) -> bool:
        """Whether a frame can be sent without waiting."""
        return not self._closed and self._writer.may_write_soon

    def write_soon(self, number: int, data: bytes) -> None:
        """Send a chunk of a call without waiting. Only while `may_write_soon`."""
        self._writer.write_soon(encode_data(number, data))

    def grant(self, number: int, granted: int) -> None:
        """Give credit for what was read. Not bounded like answers: it was earned by what had credit before."""
        self._send_soon(Frame(Kind.CREDIT, number, credit_body(granted)))

    def _answer(self, frame: Frame) -> None:
        """Have a small frame sent soon, without waiting. Raises CreditError."""
        if len(self._answers) >= ANSWERS_MAX:
            raise CreditError("it asks for answers that it does not read")
        self._send_soon(frame)

    def _send_soon(self, frame: Frame) -> None:
        self._answers.append(frame)
        self._answers_wait.set()

    async def _hang_up(self) -> None:
        """End every call, and the stream: a writer that waits for the peer has to end before this session can."""
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

    async def _send_answers(self) -> None:
        while True:
            await self._answers_wait.wait()
            self._answers_wait = trio.Event()
            while self._answers:
                await self._reply(self._answers.popleft())

    async def _read_frames(self, nursery: trio.Nursery) -> None:
        buffer = bytearray()
        while True:
            try:
                data = await self._stream.read(READ_BYTES)
            except Exception as error:  # reset, closed, connection lost: the library has many
                log.debug("a request stream ended", peer=self.peer_id, reason=repr(error))
                return
            if not data:
                return
            buffer += data
            for frame in cut_frames(buffer):
                if frame.kind is not Kind.DATA:
                    self._handle(frame, nursery)
                    continue
                call = self._outgoing.get(frame.call) or self._incoming.get(frame.call)
                if call is None or call.ended:
                    self._stray(frame)
                elif not call.deliver(frame.body):
                    self._shed(call)

    def _handle(self, frame: Frame, nursery: trio.Nursery) -> None:
        match frame.kind:
            case Kind.OPEN:
                self._begin(frame, nursery)
            case Kind.CREDIT:
                granted = read_credit_body(frame.body)
                call = self._find(frame.call)
                if call is not None:
                    call.add_credit(granted)
            case Kind.END:
                self._finish_outgoing(frame.call, None)
            case Kind.FAIL:
                self._finish_outgoing(frame.call, CallError(*read_fail_body(frame.body)))
            case Kind.CANCEL:
                cancelled = self._incoming.get(frame.call)
                if cancelled is not None:
                    cancelled.finish(CallError("cancelled", "the caller is no longer interested"))
                    cancelled.cancel_scope.cancel()
            case Kind.PING:
                if len(frame.body) > PING_BYTES_MAX:
                    raise FrameError(f"a ping of {len(frame.body)} bytes")
                self._answer(Frame(Kind.PONG, 0, frame.body))
            case Kind.PONG:
                self._pong.set()

    def _find(self, number: int) -> CallEnd | None:
        return self._outgoing.get(number) or self._incoming.get(number)

    def _stray(self, frame: Frame) -> None:
        """Late chunks of a call that has ended here: the peer had credit for so much when it had not heard of it."""
        self._stray_bytes_left -= chunk_cost(frame.body)
        if self._stray_bytes_left < -BODY_BYTES_MAX:
            raise CreditError("it sent chunks to a call that does not exist")

    def _shed(self, call: CallEnd) -> None:
        """Too much is held for this peer, or for all: give this call up, so that the others can go on."""
        overload = CallError("overload", "too much that was sent is unread")
        log.warning("a call is given up, for too much is unread", peer=self.peer_id)
        call.discard()
        call.finish(overload)
        if call.number in self._outgoing:
            self._answer(Frame(Kind.CANCEL, call.number))
        else:
            call.cancel_scope.cancel()

    def _finish_outgoing(self, number: int, error: CallError | None) -> None:
        call = self._outgoing.get(number)
        if call is not None:
            call.finish(error)

    def _next_number(self) -> int:
        while self._next_call in self._outgoing:
            self._next_call = self._next_call % CALL_NUMBER_MAX + 1
        number = self._next_call
        self._next_call = self._next_call % CALL_NUMBER_MAX + 1
        return number

    def _begin(self, frame: Frame, nursery: trio.Nursery) -> None:
        opening = read_open_body(frame.body)
        number = frame.call
        if number in self._incoming:
            raise FrameError("a call number is used twice")
        served = self._methods.get(opening.method)
        if served is None:
            self._refuse(number, "no-method", opening.method)
        elif served.running >= served.concurrency or len(self._incoming) >= INBOUND_CALLS_MAX:
            self._refuse(number, "busy", f"{served.running} calls of {opening.method} are running")
        elif not self.held.hold(chunk_cost(opening.payload)):
            self._refuse(number, "busy", "too much is held for callers")
        else:
            call = CallEnd(self, number, self.peer_id, opening.payload)
            self._incoming[number] = call
            served.running += 1
            seconds = opening.deadline_milliseconds / 1000 or HANDLER_SECONDS_MAX
            call.cancel_scope.deadline = trio.current_time() + min(seconds, HANDLER_SECONDS_MAX)
            nursery.start_soon(self._serve, served, call)

    def _refuse(self, number: int, code: str, message: str) -> None:
        self._stray_bytes_left += ReceiveCredit().left
        self._answer(Frame(Kind.FAIL, number, fail_body(code, message)))

    async def _serve(self, served: Served, call: CallEnd) -> None:
        reply = Frame(Kind.END, call.number)
        try:
            with call.cancel_scope:
                await served.handler(call)
            if call.cancel_scope.cancelled_caught:
                error = call.error or CallError("deadline", "the caller's time is over")
                reply = Frame(Kind.FAIL, call.number, fail_body(error.code, error.message))
        except Exception as error:
            # A handler that speaks to a caller who has just left fails and is cancelled at once: a group of both.
            left = call.error if call.error is not None and is_due_to(error, call.error) else None
            reply = Frame(Kind.FAIL, call.number, self._failure(error if left is None else left))
        finally:
            served.running -= 1
            call.finish(None)
            self._close_books(call)
            self.held.release(chunk_cost(call.payload))
        # The call counts until its end is told: whoever does not read the ends gets no new calls.
        await self._reply(reply)
        self._incoming.pop(call.number, None)

    def _failure(self, error: Exception) -> bytes:
        failure = find_error(error, CallError)
        if failure is not None:
            return fail_body(failure.code, failure.message)
        log.error("a call failed by a fault of ours", peer=self.peer_id, reason=repr(error), exc_info=error)
        return fail_body("internal", "the handler failed")

    def _close_books(self, call: CallEnd) -> None:
        """Chunks that are under way to a call that nobody reads any more are no offence."""
        call.discard()
        self._stray_bytes_left += max(0, call.receiving.left) + call.receiving.taken

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


def _milliseconds(seconds: float) -> int:
    """Return a deadline for OPEN: at least 1, for 0 means none."""
    if seconds * 1000 > DEADLINE_MILLISECONDS_MAX:
        return 0
    return max(1, int(seconds * 1000))


def _first(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
