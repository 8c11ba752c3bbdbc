"""Our Yamux: streams carry what they should; a peer that breaks a rule costs us little and itself the connection."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st
from libp2p.stream_muxer.exceptions import (
    MuxedConnUnavailable,
    MuxedStreamClosed,
    MuxedStreamEOF,
    MuxedStreamError,
    MuxedStreamReset,
)

from p2p.standing import Offence
from p2p.yamux import connection as connection_module
from p2p.yamux import stream as stream_module
from p2p.yamux.budget import Budget
from p2p.yamux.connection import STREAMS_INBOUND_MAX, Yamux
from p2p.yamux.stream import WINDOW_BYTES_MAX, WINDOW_SLACK_BYTES
from p2p.yamux.wire import (
    HEADER_BYTES,
    WINDOW_BYTES_INITIAL,
    Flag,
    Header,
    Type,
    WireError,
    decode_header,
    encode_header,
)
from tests.unit.p2p.pipes import PipeEnd, pipe

SYN, ACK, FIN, RST = Flag.SYN, Flag.ACK, Flag.FIN, Flag.RST


class Book:
    """Remembers who was blamed for what."""

    def __init__(self) -> None:
        self.offences: list[Offence] = []

    def blame(self, _peer: str, offence: Offence, _detail: str) -> None:
        self.offences.append(offence)


@asynccontextmanager
async def both(book: Book | None = None) -> AsyncIterator[tuple[Yamux, Yamux]]:
    """Two of ours, the dialling one first."""
    ends = pipe()
    book = book or Book()
    one, other = (Yamux(end, "peer", blame=book.blame) for end in ends)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(one.start)
        nursery.start_soon(other.start)
        yield one, other
        nursery.cancel_scope.cancel()


class Raw:
    """A peer that has dialled ours and sends what it likes."""

    def __init__(self, end: PipeEnd, ours: Yamux, book: Book) -> None:
        self.end, self.ours, self.book = end, ours, book
        self._buffer = bytearray()

    async def send(self, kind: int, flags: int, stream: int, length: int, data: bytes = b"") -> None:
        await self.end.write(encode_header(Type(kind), flags, stream, length) + data)

    async def flood(self, kind: int, flags: int, stream: int, data: bytes, times: int) -> None:
        for _ in range(times):
            try:
                await self.send(kind, flags, stream, len(data), data)
            except trio.BrokenResourceError:
                return

    async def receive(self) -> Header:
        """The next frame that is no ping."""
        while True:
            while len(self._buffer) < HEADER_BYTES:
                self._buffer += await self.end.read()
            header = decode_header(self._buffer)
            del self._buffer[:HEADER_BYTES]
            if header.type is not Type.PING or header.flags & ACK:
                return header

    async def is_cut_off(self, *offences: Offence) -> bool:
        """Whether the connection ends, with just these offences on the book."""
        with trio.fail_after(5):
            await self.ours.event_closed.wait()
        assert self.book.offences == list(offences)
        assert self.ours.budget.held_bytes == 0
        return True


@asynccontextmanager
async def raw(budget: Budget | None = None) -> AsyncIterator[Raw]:
    theirs, ours = pipe()
    book = Book()
    muxed = Yamux(ours, "peer", blame=book.blame, budget=budget)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(muxed.start)
        yield Raw(theirs, muxed, book)
        nursery.cancel_scope.cancel()


@given(st.binary(min_size=HEADER_BYTES, max_size=HEADER_BYTES))
def test_any_twelve_bytes_are_a_header_or_refused(data: bytes) -> None:
    try:
        header = decode_header(data)
    except WireError:
        return
    assert encode_header(header.type, header.flags, header.stream, header.length) == data


async def test_streams_carry_megabytes_both_ways_at_once() -> None:
    data = bytes(range(256)) * 16_000

    async def echo(stream: Any) -> None:
        try:
            while True:
                await stream.write(await stream.read(50_000))
        except MuxedStreamEOF:
            await stream.close()

    async with both() as (one, other), trio.open_nursery() as nursery:
        results: dict[int, bytes] = {}

        async def ask(index: int) -> None:
            stream = await one.open_stream()
            received = bytearray()
            async with trio.open_nursery() as inner:

                async def send() -> None:
                    await stream.write(data)
                    await stream.close()

                inner.start_soon(send)
                while len(received) < len(data):
                    received += await stream.read()
            results[index] = bytes(received)

        async def serve() -> None:
            while True:
                nursery.start_soon(echo, await other.accept_stream())

        nursery.start_soon(serve)
        with trio.fail_after(30):
            async with trio.open_nursery() as asking:
                for index in range(3):
                    asking.start_soon(ask, index)
        assert all(result == data for result in results.values())
        assert (one.budget.held_bytes, other.budget.held_bytes) == (0, 0)
        nursery.cancel_scope.cancel()


async def test_ended_streams_leave_nothing_behind() -> None:
    async with both() as (one, other):
        for _ in range(600):  # more than may be open at once
            stream = await one.open_stream()
            await stream.write(b"question")
            theirs = await other.accept_stream()
            assert await theirs.read() == b"question"
            await theirs.write(b"answer")
            await theirs.close()
            await stream.close()
            assert await stream.read() == b"answer"
            with pytest.raises(MuxedStreamEOF):
                await stream.read()
            with pytest.raises(MuxedStreamEOF):
                await theirs.read()
            with pytest.raises(MuxedStreamClosed):
                await stream.write(b"more")
        await trio.testing.wait_all_tasks_blocked()
        assert (one.streams, other.streams) == ({}, {})


async def test_a_reset_reaches_both_ends_and_frees_what_was_unread() -> None:
    async with both() as (one, other):
        stream = await one.open_stream()
        await stream.write(bytes(100_000))
        theirs = await other.accept_stream()
        await trio.testing.wait_all_tasks_blocked()
        assert other.budget.held_bytes == 100_000
        await stream.reset()
        await trio.testing.wait_all_tasks_blocked()
        assert other.budget.held_bytes == 0
        for end in (stream, theirs):
            with pytest.raises(MuxedStreamReset):
                await end.read()
            with pytest.raises(MuxedStreamReset):
                await end.write(b"x")


async def test_little_that_came_just_before_a_reset_can_still_be_read_and_is_counted_no_more() -> None:
    async with both() as (one, other):
        stream = await one.open_stream()
        await stream.write(b"no")
        await stream.reset()
        theirs = await other.accept_stream()
        await trio.testing.wait_all_tasks_blocked()
        assert other.budget.held_bytes == 0
        assert await theirs.read() == b"no"
        with pytest.raises(MuxedStreamReset):
            await theirs.read()


async def test_what_arrived_before_the_connection_ended_can_still_be_read() -> None:
    async with both() as (one, other):
        stream = await one.open_stream()
        await stream.write(b"last words")
        await one.close()
        theirs = await other.accept_stream()
        with trio.fail_after(5):
            await other.event_closed.wait()
        assert await theirs.read() == b"last words"
        with pytest.raises(MuxedStreamReset):
            await theirs.read()
        with pytest.raises(MuxedConnUnavailable):
            await other.accept_stream()
        with pytest.raises(MuxedStreamError):
            await other.open_stream()
        assert other.budget.held_bytes == 0


async def test_a_cancelled_writer_leaves_whole_frames_behind() -> None:
    async with both() as (one, other):
        first, second = await one.open_stream(), await one.open_stream()
        with trio.move_on_after(0.05):
            while True:
                await first.write(bytes(10_000_000))
        await second.write(b"still readable")
        await other.accept_stream()
        theirs = await other.accept_stream()
        with trio.fail_after(5):
            assert await theirs.read() == b"still readable"


async def test_a_reader_may_pause_for_long_but_not_for_ever(autojump_clock: trio.testing.MockClock) -> None:
    async with both() as (one, other):
        stream = await one.open_stream()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(stream.write, bytes(WINDOW_BYTES_INITIAL + 1))
            theirs = await other.accept_stream()
            await trio.sleep(stream_module.STALL_SECONDS_MAX - 5)
            await theirs.read()
        with pytest.raises(MuxedStreamError, match="took nothing"):
            await stream.write(bytes(10 * WINDOW_BYTES_MAX))


async def test_more_than_the_window_ends_the_connection_before_it_is_held() -> None:
    async with raw() as peer:
        await peer.send(Type.WINDOW, SYN, 1, 0)
        await peer.flood(Type.DATA, 0, 1, bytes(60_000), 1000)
        assert await peer.is_cut_off(Offence.OVERFLOW)


@pytest.mark.parametrize("stream", [1, 3])
async def test_a_frame_that_announces_more_than_its_window_is_refused_unread(stream: int) -> None:
    async with raw() as peer:
        await peer.send(Type.WINDOW, SYN, 1, 0)
        await peer.send(Type.DATA, 0, stream, WINDOW_BYTES_INITIAL + WINDOW_SLACK_BYTES + 1)
        assert await peer.is_cut_off(Offence.OVERFLOW)


async def test_data_under_way_to_a_stream_that_was_reset_here_is_no_offence() -> None:
    async with raw() as peer:
        await peer.send(Type.DATA, SYN, 1, 5, b"hello")
        stream = await peer.ours.accept_stream()
        await stream.reset()
        await peer.flood(Type.DATA, 0, 1, bytes(50_000), 5)
        await peer.send(Type.PING, SYN, 0, 77)
        while (header := await peer.receive()).type is not Type.PING:
            pass
        assert header.length == 77
        assert peer.book.offences == []
        await peer.flood(Type.DATA, 0, 1, bytes(50_000), 5)
        assert await peer.is_cut_off(Offence.OVERFLOW)


async def test_a_window_grows_for_a_reader_that_keeps_up_and_never_past_its_bound() -> None:
    async with raw() as peer:
        await peer.send(Type.WINDOW, SYN, 1, 0)
        stream = await peer.ours.accept_stream()
        for _ in range(400):
            await peer.send(Type.DATA, 0, 1, 60_000, bytes(60_000))
            while not await stream.read(60_000):
                pass
        assert WINDOW_BYTES_INITIAL < stream.window <= WINDOW_BYTES_MAX
        assert peer.book.offences == []


async def test_streams_beyond_the_bound_are_reset_and_the_others_go_on() -> None:
    async with raw() as peer:
        for number in range(STREAMS_INBOUND_MAX + 1):
            await peer.send(Type.WINDOW, SYN, 2 * number + 1, 0)
        answers = [await peer.receive() for _ in range(STREAMS_INBOUND_MAX + 1)]
        assert [answer.flags for answer in answers] == [ACK] * STREAMS_INBOUND_MAX + [RST]
        assert len(peer.ours.streams) == STREAMS_INBOUND_MAX
        await peer.send(Type.WINDOW, RST, 1, 0)
        await peer.send(Type.WINDOW, SYN, 9999, 0)
        assert (await peer.receive()).flags == ACK


async def test_streams_opened_and_reset_without_end_are_slowed_and_blamed() -> None:
    async with raw() as peer:
        for number in range(1000):
            await peer.send(Type.WINDOW, SYN | RST, 2 * number + 1, 0)
        await trio.testing.wait_all_tasks_blocked()
        assert peer.book.offences == [Offence.FLOOD]
        assert len(peer.ours.streams) == 0


@pytest.mark.parametrize(
    "frame",
    [
        b"\x01" + bytes(11),
        b"\x00\x04" + bytes(10),
        encode_header(Type.WINDOW, 0x10, 1, 0),
        encode_header(Type.DATA, 0, 0, 0),
        encode_header(Type.PING, SYN, 5, 0),
        encode_header(Type.WINDOW, SYN, 2, 0),
        encode_header(Type.WINDOW, SYN, 1, 0) * 2,
    ],
    ids=["version", "type", "flags", "data without stream", "ping with stream", "our number", "open twice"],
)
async def test_what_no_implementation_sends_ends_the_connection(frame: bytes) -> None:
    async with raw() as peer:
        await peer.end.write(frame)
        assert await peer.is_cut_off(Offence.MALFORMED)


async def test_empty_frames_are_slowed_and_blamed(autojump_clock: trio.testing.MockClock) -> None:
    async with raw() as peer:
        await peer.send(Type.WINDOW, SYN, 1, 0)
        started = trio.current_time()
        for _ in range(3):
            await peer.flood(Type.WINDOW, 0, 1, b"", connection_module.SMALL_FRAMES_PER_SECOND)
        await peer.send(Type.PING, SYN, 0, 5)
        while (await peer.receive()).type is not Type.PING:
            pass
        assert trio.current_time() - started >= 2
        assert set(peer.book.offences) == {Offence.FLOOD}


async def test_one_connection_and_one_host_hold_a_bounded_amount() -> None:
    budget = Budget(bytes_max=3 * 200_000)
    async with raw(budget) as light, raw(budget) as heavy:
        await light.send(Type.WINDOW, SYN, 1, 0)
        await light.send(Type.DATA, 0, 1, 100_000, bytes(100_000))
        for stream in (1, 3, 5):
            await heavy.send(Type.WINDOW, SYN, stream, 0)
            await heavy.flood(Type.DATA, 0, stream, bytes(200_000), 1)
        with trio.fail_after(5):
            await heavy.ours.event_closed.wait()
        assert budget.held_bytes == 100_000
        assert not light.ours.is_closed
        assert heavy.book.offences == []  # it stayed within its windows; its readers are ours


async def test_a_silent_peer_is_given_up(autojump_clock: trio.testing.MockClock) -> None:
    async with raw() as peer:
        started = trio.current_time()
        await peer.ours.event_closed.wait()
        silence = connection_module.SILENCE_SECONDS_MAX
        assert silence <= trio.current_time() - started <= silence + 2 * connection_module.PING_SECONDS


async def test_a_peer_that_does_not_read_is_given_up(autojump_clock: trio.testing.MockClock) -> None:
    theirs, ours = pipe(buffer_bytes=0)
    muxed = Yamux(ours, "peer", blame=Book().blame)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(muxed.start)
        stream = await muxed.open_stream()
        with pytest.raises(MuxedStreamError):
            await stream.write(bytes(1000))
        assert muxed.is_closed
        assert trio.current_time() < 2 * connection_module.WRITE_SECONDS_MAX
        nursery.cancel_scope.cancel()
    await theirs.close()


async def test_a_stream_that_its_peer_never_ends_is_forgotten(autojump_clock: trio.testing.MockClock) -> None:
    async with both() as (one, other):
        stream = await one.open_stream()
        await stream.write(b"and then nothing")
        theirs = await other.accept_stream()
        await theirs.close()  # unread, and never ended by the peer
        await trio.sleep(connection_module.HALF_CLOSED_SECONDS_MAX + 2 * connection_module.PING_SECONDS)
        assert (one.streams, other.streams, other.budget.held_bytes) == ({}, {}, 0)


async def test_the_round_trip_is_measured() -> None:
    async with both() as (one, other):
        with trio.fail_after(5):
            while not (one.rtt() and other.rtt()):
                await trio.sleep(0.01)


async def test_the_end_is_told_once_and_start_returns() -> None:
    told = 0

    async def on_close() -> None:
        nonlocal told
        told += 1
        raise RuntimeError("whoever is told may fail")

    theirs, ours = pipe()
    muxed = Yamux(ours, "peer")
    muxed.on_close = on_close
    async with trio.open_nursery() as nursery:
        nursery.start_soon(muxed.start)
        await muxed.event_started.wait()
        await theirs.close()
    await muxed.close()
    assert told == 1
