"""A request stream holds to its rules, whatever the other end does."""

from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
import structlog.testing
import trio
import trio.testing

from p2p import session as session_module
from p2p.call_errors import CallError
from p2p.calls import CallEnd, Handler
from p2p.credit import CALL_CREDIT_BYTES, HeldBytes
from p2p.frames import (
    BODY_BYTES_MAX,
    Frame,
    Kind,
    Opening,
    credit_body,
    cut_frames,
    encode_frame,
    open_body,
    read_fail_body,
)
from p2p.session import INBOUND_CALLS_MAX, Served, Session
from p2p.standing import Offence, Standing
from tests.unit.p2p.pipes import PipeEnd, pipe


class Raw:
    """A peer that sends what it likes."""

    def __init__(self, end: PipeEnd, standing: Standing, session: Session) -> None:
        self.end = end
        self.standing = standing
        self.session = session
        self.blamed: list[str] = []
        blame = standing.blame

        def listen(peer: str, offence: Offence, detail: str) -> None:
            self.blamed.append(offence.name.lower())
            blame(peer, offence, detail)

        standing.blame = listen  # type: ignore[method-assign]
        self._buffer = bytearray()
        self._frames: deque[Frame] = deque()

    async def send(self, *frames: Frame) -> None:
        await self.end.write(b"".join(encode_frame(frame) for frame in frames))

    async def receive(self) -> Frame:
        """The next frame that is no ping."""
        while True:
            while not self._frames:
                self._buffer += await self.end.read()
                self._frames.extend(cut_frames(self._buffer))
            frame = self._frames.popleft()
            if frame.kind is not Kind.PING:
                return frame

    async def fails(self) -> str:
        """The code of the next frame, which must be a failure."""
        frame = await self.receive()
        assert frame.kind is Kind.FAIL, frame
        return read_fail_body(frame.body)[0]

    async def is_cut_off(self, offence: str) -> bool:
        """Whether the session ends, and says so in the book of conduct."""
        with trio.move_on_after(5):
            while self.session.is_open or not self.blamed:
                await trio.sleep(0.01)
        assert self.blamed == [offence], (self.blamed, self.session.is_open)
        return True


@asynccontextmanager
async def served(handler: Handler, *, concurrency: int = 10, held: HeldBytes | None = None) -> AsyncIterator[Raw]:
    """A raw peer before a session that serves method `m`."""
    theirs, ours = pipe()
    standing = Standing(trio.current_time)
    session = Session(ours, "peer", {"m": Served(handler, concurrency)}, standing, held)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(session.run)
        yield Raw(theirs, standing, session)
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def connected(handler: Handler) -> AsyncIterator[Session]:
    """The calling session of two that are honest."""
    theirs, ours = pipe()
    standing = Standing(trio.current_time)
    caller = Session(theirs, "server", {}, standing)
    server = Session(ours, "caller", {"m": Served(handler, 10)}, standing)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(caller.run)
        nursery.start_soon(server.run)
        yield caller
        nursery.cancel_scope.cancel()
    assert standing.points("server") == standing.points("caller") == 0
    assert (caller.held.count, server.held.count) == (0, 0)


def opening(call: int, milliseconds: int = 0, payload: bytes = b"") -> Frame:
    return Frame(Kind.OPEN, call, open_body(Opening("m", payload, milliseconds)))


async def wait(_call: CallEnd) -> None:
    await trio.sleep_forever()


async def raising_in_a_nursery(error: Exception) -> None:
    async def fail() -> None:
        raise error

    async with trio.open_nursery() as nursery:
        nursery.start_soon(fail)
        await trio.sleep_forever()


async def test_a_failure_inside_a_handlers_nursery_keeps_its_word() -> None:
    async def handler(_call: CallEnd) -> None:
        await raising_in_a_nursery(CallError("not-serving", "no such model"))

    async with served(handler) as peer:
        await peer.send(opening(1))
        assert await peer.fails() == "not-serving"


async def test_a_fault_of_ours_is_told_as_such_and_no_more() -> None:
    async def handler(_call: CallEnd) -> None:
        await raising_in_a_nursery(ValueError("secret path"))

    async with served(handler) as peer:
        await peer.send(opening(1))
        frame = await peer.receive()
        assert read_fail_body(frame.body) == ("internal", "the handler failed")


async def test_the_callers_deadline_ends_the_handler_too(autojump_clock: trio.testing.MockClock) -> None:
    ended_at: list[float] = []

    async def handler(call: CallEnd) -> None:
        try:
            await wait(call)
        finally:
            ended_at.append(trio.current_time())

    async with served(handler) as peer:
        started = trio.current_time()
        await peer.send(opening(1, milliseconds=2500))
        assert await peer.fails() == "deadline"
        assert ended_at[0] - started == pytest.approx(2.5, abs=0.01)


async def test_streams_tell_their_deadline() -> None:
    seen: list[float] = []

    async def handler(call: CallEnd) -> None:
        seen.append(call.cancel_scope.deadline - trio.current_time())

    async with connected(handler) as caller:
        async with caller.call("m", b"", deadline_seconds=7) as call:
            with pytest.raises(trio.EndOfChannel):
                await call.receive()
        async with caller.call("m", b"") as call:
            with pytest.raises(trio.EndOfChannel):
                await call.receive()
    assert seen == [pytest.approx(7, abs=0.1), pytest.approx(session_module.HANDLER_SECONDS_MAX, abs=0.1)]


async def test_a_flood_of_bytes_is_cut_off_before_it_is_held() -> None:
    async with served(wait) as peer:
        await peer.send(opening(1))
        for _ in range(2 * CALL_CREDIT_BYTES // BODY_BYTES_MAX + 1):
            try:
                await peer.send(Frame(Kind.DATA, 1, bytes(BODY_BYTES_MAX)))
            except trio.BrokenResourceError:
                break
        assert await peer.is_cut_off("overflow")


async def test_chunks_to_no_call_are_cut_off_but_late_ones_are_forgiven() -> None:
    async def short(_call: CallEnd) -> None:
        return

    async with served(short) as peer:
        await peer.send(opening(1))
        assert (await peer.receive()).kind is Kind.END
        await peer.send(Frame(Kind.DATA, 1, bytes(BODY_BYTES_MAX)))  # it did not know yet
        await trio.sleep(1)
        assert peer.session.is_open
        for _ in range(3):
            await peer.send(Frame(Kind.DATA, 99, bytes(BODY_BYTES_MAX)))
        assert await peer.is_cut_off("overflow")


@pytest.mark.parametrize(
    "frames",
    [
        [Frame(Kind.OPEN, 1, b"")],
        [opening(1), opening(1)],
        [opening(1), Frame(Kind.CREDIT, 1, b"123")],
        [Frame(Kind.PING, 0, bytes(65))],
    ],
)
async def test_malformed_frames_end_the_session_and_are_blamed(frames: list[Frame]) -> None:
    async with served(wait) as peer:
        await peer.send(*frames)
        assert await peer.is_cut_off("malformed")


async def test_an_unknown_kind_of_frame_ends_the_session_and_is_blamed() -> None:
    async with served(wait) as peer:
        await peer.end.write((5).to_bytes(4) + b"\x63" + bytes(4))
        assert await peer.is_cut_off("malformed")


async def test_credit_that_was_not_spent_cannot_be_granted() -> None:
    async with served(wait) as peer:
        await peer.send(opening(1), Frame(Kind.CREDIT, 1, credit_body(1)))
        assert await peer.is_cut_off("overflow")


async def test_what_all_peers_together_make_us_hold_is_bounded_and_other_calls_go_on() -> None:
    asked: list[int] = []

    async def handler(call: CallEnd) -> None:
        if call.number == 1:
            await wait(call)
        asked.append(call.number)

    async with served(handler, held=HeldBytes(100_000)) as peer:
        await peer.send(opening(1), Frame(Kind.DATA, 1, bytes(90_000)))
        await peer.send(opening(2, payload=bytes(50_000)))
        assert await peer.fails() == "busy"
        await peer.send(Frame(Kind.DATA, 1, bytes(20_000)))
        assert await peer.fails() == "overload"
        await peer.send(opening(3, payload=bytes(50_000)))
        assert (await peer.receive()).kind is Kind.END
    assert asked == [3]


async def test_calls_beyond_the_bound_are_refused_and_the_rest_is_served() -> None:
    async with served(wait, concurrency=1000) as peer:
        for number in range(INBOUND_CALLS_MAX):
            await peer.send(opening(number))
        await peer.send(opening(9999))
        assert await peer.fails() == "busy"


async def test_a_peer_that_does_not_read_its_answers_is_cut_off() -> None:
    theirs, ours = pipe(buffer_bytes=0)
    standing = Standing(trio.current_time)
    session = Session(ours, "peer", {}, standing)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(session.run)
        ping = encode_frame(Frame(Kind.PING, 0, b"x"))
        with pytest.raises(trio.BrokenResourceError), trio.fail_after(5):
            while True:
                await theirs.write(ping * 100)
        with trio.fail_after(5):
            while standing.points("peer") == 0:
                await trio.sleep(0.1)
        nursery.cancel_scope.cancel()


async def test_a_peer_that_is_frozen_is_given_up_and_its_calls_are_lost(autojump_clock: trio.testing.MockClock) -> None:
    _theirs, ours = pipe()
    session = Session(ours, "peer", {}, Standing(trio.current_time))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(session.run)
        started = trio.current_time()
        with pytest.raises(CallError, match="lost"):
            async with session.call("m", b"") as call:
                await call.receive()
        assert trio.current_time() - started <= session_module.PING_DEADLINE_SECONDS + 1
        nursery.cancel_scope.cancel()


async def test_a_reader_that_pauses_for_long_loses_nothing(autojump_clock: trio.testing.MockClock) -> None:
    """The pinned library resets a writer whose reader stalls for five seconds."""

    async def handler(call: CallEnd) -> None:
        for number in range(100):
            await call.send(number.to_bytes(2) + bytes(20_000))

    async with connected(handler) as caller, caller.call("m", b"") as call:
        numbers = []
        with pytest.raises(trio.EndOfChannel):
            while True:
                numbers.append(int.from_bytes((await call.receive())[:2]))
                if len(numbers) == 3:
                    await trio.sleep(600)
    assert numbers == list(range(100))


async def test_chunks_sent_at_once_keep_their_order_and_their_credit(autojump_clock: trio.testing.MockClock) -> None:
    waited = 0

    async def handler(call: CallEnd) -> None:
        nonlocal waited
        for number in range(200):
            data = number.to_bytes(2) + bytes(5000)
            if call.may_send_now and number % 5:
                call.send_now(data)
            else:
                waited += 1
                await call.send(data)

    async with connected(handler) as caller, caller.call("m", b"") as call:
        numbers = []
        with pytest.raises(trio.EndOfChannel):
            while True:
                await trio.sleep(0.1)
                numbers.append(int.from_bytes((await call.receive())[:2]))
    assert numbers == list(range(200))
    assert waited > 40  # credit and what may wait to be written ended before the chunks did


async def test_nothing_is_sent_at_once_when_the_other_end_is_gone() -> None:
    seen: list[bool] = []

    async def handler(call: CallEnd) -> None:
        seen.append(call.may_send_now)
        try:
            await trio.sleep_forever()
        finally:
            seen.append(call.may_send_now)

    async with connected(handler) as caller:
        async with caller.call("m", b""):
            while not seen:
                await trio.sleep(0.01)
        with trio.fail_after(5):
            while len(seen) < 2:
                await trio.sleep(0.01)
    assert seen == [True, False]


async def test_leaving_a_call_cancels_its_handler_and_frees_what_was_held() -> None:
    cancelled = trio.Event()

    async def handler(call: CallEnd) -> None:
        try:
            while True:
                await call.send(bytes(10_000))
        finally:
            cancelled.set()

    async with connected(handler) as caller:
        async with caller.call("m", b"payload") as call:
            await call.receive()
        with trio.fail_after(5):
            await cancelled.wait()


async def test_a_handler_that_fails_and_is_cancelled_as_its_caller_leaves_is_no_fault_of_ours() -> None:
    """What fails in the moment of the cancellation is in one group with it, and that group is no CallError."""
    ended = trio.Event()

    async def handler(call: CallEnd) -> None:
        async def speak() -> None:
            with trio.CancelScope(shield=True):
                while not call.cancel_scope.cancel_called:
                    await trio.sleep(0.01)
            try:
                await call.send(b"too late")
            except CallError as error:
                raise RuntimeError("it has left") from error

        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(speak)
                await trio.sleep_forever()
        finally:
            ended.set()

    with structlog.testing.capture_logs() as logs:
        async with served(handler) as peer:
            await peer.send(opening(1), Frame(Kind.CANCEL, 1))
            assert await peer.fails() == "cancelled"
            await ended.wait()
    assert [entry for entry in logs if entry["log_level"] == "error"] == []


@pytest.mark.parametrize("code", ["no-method", "busy"])
async def test_a_refused_call_does_not_disturb_the_others(code: str) -> None:
    answer: Callable[[CallEnd], Awaitable[None]] = wait
    async with served(answer, concurrency=1) as peer:
        await peer.send(opening(1))
        refused = opening(2) if code == "busy" else Frame(Kind.OPEN, 2, open_body(Opening("absent", b"")))
        await peer.send(refused, Frame(Kind.DATA, 2, b"it could not know"), Frame(Kind.CANCEL, 2))
        assert await peer.fails() == code
        await peer.send(Frame(Kind.CANCEL, 1))
        frame = await peer.receive()
        assert (frame.kind, frame.call) == (Kind.FAIL, 1)
        assert peer.standing.points("peer") == 0


async def counting(call: CallEnd) -> None:
    """Sends a chunk for each that comes."""
    while True:
        number = int(await call.receive())
        await call.send(str(number).encode())


async def test_chunks_are_taken_at_once_in_order_and_only_while_somebody_waits_for_them() -> None:
    taken: list[bytes] = []
    read: list[bytes] = []

    def take_now(data: bytes) -> bool:
        if int(data) % 3 == 0:
            return False
        taken.append(data)
        return True

    with trio.fail_after(10):
        async with connected(counting) as session, session.call("m", b"") as call:
            call.take_now = take_now
            for number in range(1, 5):
                await call.send(str(number).encode())
            await trio.testing.wait_all_tasks_blocked(0.05)
            assert taken == []  # nobody waits: all are kept for whoever will
            while len(read) < 4:
                read.append(await call.receive())
            async with trio.open_nursery() as nursery:

                async def send_more() -> None:
                    for number in range(5, 10):
                        await call.send(str(number).encode())
                        await trio.testing.wait_all_tasks_blocked(0.02)

                nursery.start_soon(send_more)
                while len(read) < 6:
                    read.append(await call.receive())
            assert [int(data) for data in read] == [1, 2, 3, 4, 6, 9]
            assert [int(data) for data in taken] == [5, 7, 8]


async def test_chunks_that_are_taken_at_once_earn_their_sender_new_credit() -> None:
    size, count, seen = 8 * 1024, 200, 0

    async def pouring(call: CallEnd) -> None:
        for _ in range(count):
            await call.send(bytes(size))

    def take_now(_data: bytes) -> bool:
        nonlocal seen
        seen += 1
        return True

    assert size * count > 4 * CALL_CREDIT_BYTES
    with trio.fail_after(20):
        async with connected(pouring) as session, session.call("m", b"") as call:
            call.take_now = take_now
            rest = 0
            with pytest.raises(trio.EndOfChannel):
                while True:
                    await call.receive()
                    rest += 1
    assert seen + rest == count
    assert seen > 0


async def test_a_fault_in_taking_a_chunk_ends_its_call_and_no_other() -> None:
    def fail(_data: bytes) -> bool:
        raise ValueError("a fault of ours")

    with trio.fail_after(10):
        async with connected(counting) as session, session.call("m", b"") as other:
            async with session.call("m", b"") as call:
                call.take_now = fail
                async with trio.open_nursery() as nursery:

                    async def send_soon() -> None:
                        await trio.testing.wait_all_tasks_blocked(0.02)
                        await call.send(b"1")

                    nursery.start_soon(send_soon)
                    with pytest.raises(CallError, match="internal"):
                        await call.receive()
            await other.send(b"2")
            assert await other.receive() == b"2"
