"""Streams over the own Noise session over TCP: nothing is lost or mixed when writes are cut short or cancelled."""

import random
import socket
from typing import Any

import pytest
import trio
import trio.testing
from libp2p.crypto.x25519 import create_new_key_pair
from libp2p.network.connection.raw_connection import RawConnection
from libp2p.security.noise.transport import Transport
from libp2p.stream_muxer.exceptions import MuxedStreamError, MuxedStreamReset

from p2p.noise_session import NoiseSession
from p2p.repairs.tcp import BufferedTcpStream
from p2p.yamux.connection import Yamux
from p2p.yamux.stream import YamuxStream
from tests.unit.p2p.test_noise_session import DIALLER, LISTENER, peer_id_of

SOCKET_BYTES = 8192
"""Small: the socket takes part of most frames, and the rest has to wait."""
STREAMS = 25
STREAM_BYTES_MAX = 300_000
LARGE = bytes(range(256)) * 8192


class CountingTcpStream(BufferedTcpStream):
    """Counts the writes of which the socket took some, but not all."""

    cut_short = 0

    def write_at_once(self, data: bytes) -> int:
        sent = super().write_at_once(data)
        self.cut_short += 0 < sent < len(data)
        return sent


async def over_tcp() -> tuple[NoiseSession, NoiseSession, CountingTcpStream]:
    """Return two ends of a secured connection over loopback, the dialler's first, and the dialler's socket."""
    listener = trio.socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SOCKET_BYTES)
    await listener.bind(("127.0.0.1", 0))
    listener.listen(1)
    near = trio.socket.socket()
    near.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SOCKET_BYTES)
    await near.connect(listener.getsockname())
    far, _ = await listener.accept()
    listener.close()
    far.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SOCKET_BYTES)
    counted = CountingTcpStream(trio.SocketStream(near))
    secured: dict[bool, NoiseSession] = {}

    async def dial() -> None:
        session: Any = await transport_of(DIALLER).secure_outbound(RawConnection(counted, True), peer_id_of(LISTENER))
        secured[True] = NoiseSession(session)

    async def accept() -> None:
        raw = RawConnection(BufferedTcpStream(trio.SocketStream(far)), False)
        session: Any = await transport_of(LISTENER).secure_inbound(raw)
        secured[False] = NoiseSession(session)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(dial)
        nursery.start_soon(accept)
    return secured[True], secured[False], counted


def transport_of(identity: Any) -> Transport:
    return Transport(identity.key_pair, noise_privkey=create_new_key_pair().private_key)


async def echo(stream: YamuxStream, choose: random.Random) -> None:
    try:
        while True:
            await stream.write(await stream.read(choose.choice([10, 1000, 65536])))
    except (MuxedStreamError, EOFError):
        return  # reset by the other end


async def use(connection: Yamux, choose: random.Random, *, is_cancelled: bool) -> int:
    """Send bytes in pieces of all sizes and take their echo; return how many came back, all of them right."""
    stream = await connection.open_stream()
    data = choose.randbytes(choose.randint(STREAM_BYTES_MAX // 2, STREAM_BYTES_MAX))
    got = bytearray()

    async def write(scope: trio.CancelScope) -> None:
        with trio.CancelScope() as writing:
            if is_cancelled:
                writing.deadline = trio.current_time() + choose.random() * 0.05
            sent = 0
            while sent < len(data):
                piece = data[sent : sent + choose.choice([1, 50, 3000, 100_000])]
                await stream.write(piece)
                sent += len(piece)
        if writing.cancelled_caught:
            await stream.reset()
            scope.cancel()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(write, nursery.cancel_scope)
        while len(got) < len(data):
            try:
                got += await stream.read(choose.choice([None, 7, 5000]))
            except MuxedStreamReset:
                assert is_cancelled
                break
            assert data.startswith(got)
    return len(got) if got == data else 0


@pytest.mark.parametrize("seed", range(2))
async def test_cancelled_writers_and_short_writes_leave_all_other_streams_whole(seed: int) -> None:
    choose = random.Random(seed)
    near, far, counted = await over_tcp()
    dialled, accepted = Yamux(near, peer_id_of(LISTENER)), Yamux(far, peer_id_of(DIALLER))
    whole: list[int] = []

    async def use_one(number: int) -> None:
        is_cancelled = number % 3 == 0
        count = await use(dialled, choose, is_cancelled=is_cancelled)
        if not is_cancelled:
            whole.append(count)

    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(dialled.start)
            nursery.start_soon(accepted.start)

            async def accept() -> None:
                while True:
                    nursery.start_soon(echo, await accepted.accept_stream(), choose)

            nursery.start_soon(accept)
            await dialled.event_started.wait()
            async with trio.open_nursery() as users:
                for number in range(STREAMS):
                    users.start_soon(use_one, number)
            assert dialled.is_established
            assert accepted.is_established
            nursery.cancel_scope.cancel()
    assert len(whole) == STREAMS - len(range(0, STREAMS, 3))
    assert all(whole)
    assert counted.cut_short > 0


async def test_a_frame_of_which_half_has_left_is_sent_whole_although_its_writer_is_cancelled() -> None:
    near, far, _ = await over_tcp()
    dialled, accepted = Yamux(near, peer_id_of(LISTENER)), Yamux(far, peer_id_of(DIALLER))
    writing = trio.CancelScope()

    async def write(stream: YamuxStream) -> None:
        with writing:
            await stream.write(LARGE)

    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(dialled.start)
            await dialled.event_started.wait()
            cancelled, other = await dialled.open_stream(), await dialled.open_stream()
            nursery.start_soon(write, cancelled)
            await trio.testing.wait_all_tasks_blocked()
            writing.cancel()  # nobody reads yet, and the socket holds a part of the frame
            await trio.testing.wait_all_tasks_blocked()

            nursery.start_soon(accepted.start)
            first, second = await accepted.accept_stream(), await accepted.accept_stream()
            got = bytes(await first.read(1))
            await other.write(b"whole")
            assert await second.read(5) == b"whole"
            assert LARGE.startswith(got)
            assert accepted.is_established
            nursery.cancel_scope.cancel()
    assert writing.cancelled_caught


async def test_a_write_that_was_begun_keeps_every_other_away_until_it_is_ended() -> None:
    near, far, _ = await over_tcp()
    rest = near.begin_write(LARGE)
    assert rest
    with pytest.raises(RuntimeError, match="not been ended"):
        near.begin_write(b"between")
    with pytest.raises(RuntimeError, match="not been ended"):
        await near.write(b"between")
    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(near.end_write, rest)
            assert await far.read(len(LARGE)) == LARGE
        assert near.begin_write(b"after") == b""
        assert await far.read(5) == b"after"


async def test_no_write_begins_beside_another() -> None:
    near, far, _ = await over_tcp()
    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(near.write, LARGE)
            await trio.testing.wait_all_tasks_blocked()
            with pytest.raises(RuntimeError, match="beside another"):
                near.begin_write(b"between")
            assert await far.read(len(LARGE)) == LARGE
        await near.write(b"after")
        assert await far.read(5) == b"after"
