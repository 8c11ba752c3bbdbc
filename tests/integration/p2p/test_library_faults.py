"""Each fault of the pinned libp2p that concerns hosts, connections and streams: shown on it, then mended by us.

The first half of each test fails on the day upstream has mended the fault: then our repair can go. Gossip has its own.
"""

import gc
import socket
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing
from libp2p import new_host
from libp2p.custom_types import TProtocol
from libp2p.identity.identify.pb.identify_pb2 import Identify
from libp2p.network.config import ConnectionConfig
from libp2p.network.connection.swarm_connection import SwarmConn
from libp2p.network.exceptions import SwarmException
from libp2p.peer.id import ID
from libp2p.peer.peerinfo import info_from_p2p_addr
from libp2p.stream_muxer.yamux.yamux import Yamux as StockYamux
from libp2p.utils import encode_delim, encode_uvarint, encode_varint_prefixed
from multiaddr import Multiaddr

from p2p import doorkeeper
from p2p.host import PortInUseError, open_host
from p2p.identity import Identity
from p2p.repairs.swarm import DIAL_AGAIN_SECONDS
from p2p.standing import Offence, Standing
from p2p.yamux.connection import SILENCE_SECONDS_MAX, STREAMS_INBOUND_MAX, Yamux
from p2p.yamux.wire import HEADER_BYTES, WINDOW_BYTES_INITIAL, Flag, Type, WireError, decode_header, encode_header
from tests.unit.p2p.pipes import PipeEnd, pipe

ANYWHERE = "/ip4/127.0.0.1/tcp/0"
PROTOCOL = TProtocol("/test/1")
STOCK_WINDOW_MAX = 16 * 1024 * 1024
MULTISTREAM = encode_delim(b"/multistream/1.0.0")


def identity(number: int) -> Identity:
    return Identity(bytes([number]) * 32)


class Book(Standing):
    """Remembers every blame."""

    def __init__(self) -> None:
        super().__init__(trio.current_time)
        self.offences: list[tuple[str, Offence]] = []

    def blame(self, peer: str, offence: Offence, detail: str) -> None:
        self.offences.append((peer, offence))
        super().blame(peer, offence, detail)


def stock_host(number: int = 100, **settings: Any) -> Any:
    """A host as the library makes it."""
    config = ConnectionConfig(min_connections=0, low_watermark=0, **settings)
    return new_host(key_pair=identity(number).key_pair, connection_config=config)


@asynccontextmanager
async def unguarded(number: int = 100, **settings: Any) -> AsyncIterator[Any]:
    """A running host as the library makes it."""
    host: Any = stock_host(number, **settings)
    async with host.run([Multiaddr(ANYWHERE)]):
        try:
            yield host
        finally:
            with trio.CancelScope(shield=True):
                await host.close()


@asynccontextmanager
async def ours(number: int = 101, standing: Standing | None = None) -> AsyncIterator[Any]:
    async with open_host(identity(number), [ANYWHERE], [], standing=standing) as host:
        yield host


async def connect(host: Any, other: Any) -> Any:
    """Connect, and return the multiplexed connection."""
    info = info_from_p2p_addr(Multiaddr(f"{other.get_addrs()[0]}"))
    host.get_network().unblock_peer(info.peer_id)
    with trio.fail_after(10):
        await host.connect(info)
    return host.get_network().get_connections(info.peer_id)[0].muxed_conn


def port_of(host: Any) -> int:
    return int(str(host.get_addrs()[0].value_for_protocol("tcp")))


async def becomes(condition: Callable[[], object], seconds: float = 10) -> bool:
    """Whether `condition` comes true within some time."""
    with trio.move_on_after(seconds):
        while not condition():
            await trio.sleep(0.02)
        return True
    return bool(condition())


async def hold(stream: Any) -> None:
    """A handler that reads nothing."""
    await trio.sleep_forever()


async def is_alive(host: Any, visitor: int = 90) -> bool:
    """Whether a newcomer is answered."""
    try:
        async with ours(visitor) as guest:
            await connect(guest, host)
            return True
    except Exception:
        return False


async def test_a_handler_that_raises_ends_an_unguarded_host_but_not_ours() -> None:
    async def fail(_stream: Any) -> None:
        raise ValueError("a peer sent nonsense")

    with pytest.raises(BaseExceptionGroup) as caught:
        async with ours(1) as attacker, unguarded() as victim:
            victim.set_stream_handler(PROTOCOL, fail)
            await connect(attacker, victim)
            await attacker.new_stream(victim.get_id(), [PROTOCOL])
            await trio.sleep(10)
            pytest.fail("upstream has mended this")
    assert caught.group_contains(ValueError, match="nonsense")

    async with ours(1) as attacker, ours() as victim:
        victim.set_stream_handler(PROTOCOL, fail)
        await connect(attacker, victim)
        await attacker.new_stream(victim.get_id(), [PROTOCOL])
        await trio.sleep(0.5)
        assert await is_alive(victim)


async def test_a_peer_pushes_past_its_window_into_an_unguarded_host_but_not_into_ours() -> None:
    async def push(attacker: Any, victim: Any) -> None:
        victim.set_stream_handler(PROTOCOL, hold)
        muxed = await connect(attacker, victim)
        stream = await attacker.new_stream(victim.get_id(), [PROTOCOL])
        number = stream.muxed_stream.stream_id
        with trio.move_on_after(20):
            for _ in range(100):
                if muxed.is_closed:
                    return
                frame = encode_header(Type.DATA, 0, number, 50_000) + bytes(50_000)
                try:
                    await muxed.secured_conn.write(frame)
                except Exception:
                    return

    async with ours(1) as attacker, unguarded() as victim:
        await push(attacker, victim)

        def held() -> int:
            (connection,) = victim.get_network().get_connections()
            return sum(map(len, connection.muxed_conn.stream_buffers.values()))

        assert await becomes(lambda: held() > 10 * WINDOW_BYTES_INITIAL), "upstream has mended this"

    book = Book()
    async with ours(1) as attacker, ours(standing=book) as victim:
        budget = victim.get_network().upgrader._budget
        await push(attacker, victim)
        assert await becomes(lambda: not victim.get_network().get_connections())
        assert budget.held_bytes == 0
    assert book.offences == [(identity(1).peer_id, Offence.OVERFLOW)]


async def test_a_reader_that_pauses_resets_its_writer_in_an_unguarded_host_but_not_in_ours() -> None:
    async def pause(stream: Any) -> None:
        await trio.sleep(6)
        while True:
            await stream.read(65536)

    async def write_into(writer: Any, reader: Any) -> bool:
        reader.set_stream_handler(PROTOCOL, pause)
        await connect(writer, reader)
        stream = await writer.new_stream(reader.get_id(), [PROTOCOL])
        try:
            await stream.write(bytes(STOCK_WINDOW_MAX + 1))
        except Exception:
            return False
        return True

    results: dict[str, bool] = {}

    async def of_the_library() -> None:
        async with unguarded(1) as writer, unguarded(2) as reader:
            results["stock"] = await write_into(writer, reader)

    async def of_ours() -> None:
        async with ours(3) as writer, ours(4) as reader:
            results["ours"] = await write_into(writer, reader)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(of_the_library)
        nursery.start_soon(of_ours)
    assert not results["stock"], "upstream has mended this"
    assert results["ours"]


async def test_a_frozen_peer_is_never_noticed_by_an_unguarded_connection_but_by_ours(
    autojump_clock: trio.testing.MockClock,
) -> None:
    _frozen, stock_end = pipe()
    _frozen_too, our_end = pipe()
    peer: Any = ID.from_base58(identity(1).peer_id)
    stock = StockYamux(stock_end, peer)  # type: ignore[arg-type]
    own = Yamux(our_end, peer)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(stock.start)
        nursery.start_soon(own.start)
        await trio.sleep(2 * SILENCE_SECONDS_MAX)
        assert own.is_closed
        await trio.sleep(3600)
        assert not stock.is_closed, "upstream has mended this"
        nursery.cancel_scope.cancel()


async def test_a_cancelled_writer_corrupts_an_unguarded_connection_but_not_ours(
    autojump_clock: trio.testing.MockClock,
) -> None:
    class Wire:
        """Takes each write in two halves."""

        is_initiator = True

        def __init__(self) -> None:
            self.carried = b""

        async def read(self, _n: int | None = None) -> bytes:
            await trio.sleep_forever()
            raise AssertionError

        async def write(self, data: bytes) -> None:
            self.carried += data[:20]
            await trio.sleep(0.1)
            self.carried += data[20:]

        async def close(self) -> None:
            return

    async def carried_by(make: Any) -> bytes:
        wire = Wire()
        muxed = make(wire, ID.from_base58(identity(1).peer_id))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(muxed.start)
            cancelled, other = await muxed.open_stream(), await muxed.open_stream()
            await trio.sleep(1)  # pings are through
            with trio.move_on_after(0.05):
                await cancelled.write(bytes(100))
            await other.write(b"readable")
            nursery.cancel_scope.cancel()
        return wire.carried

    assert not is_frames(await carried_by(StockYamux)), "upstream has mended this"
    assert is_frames(await carried_by(Yamux))


def is_frames(data: bytes) -> bool:
    """Whether bytes are whole Yamux frames."""
    while len(data) >= HEADER_BYTES:
        try:
            header = decode_header(data)
        except WireError:
            return False
        data = data[HEADER_BYTES:]
        if header.type is Type.DATA:
            if len(data) < header.length:
                return False
            data = data[header.length :]
    return not data


async def test_an_unguarded_host_is_deaf_after_enough_connections_have_come_and_gone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def visit(host: Any, number: int) -> bool:
        try:
            async with ours(number) as guest:
                await connect(guest, host)
                return True
        except BaseExceptionGroup:
            return False

    async with unguarded(max_connections=3, high_watermark=3) as host:
        assert [await visit(host, number) for number in range(1, 4)] == [True] * 3
        assert await becomes(lambda: not host.get_network().get_connections())
        assert not await visit(host, 4), "upstream has mended this"

    monkeypatch.setattr(doorkeeper, "CONNECTIONS_INBOUND_MAX", 3)
    async with ours() as host:
        for number in range(1, 7):
            assert await visit(host, number)
            assert await becomes(lambda: host.get_network().doorkeeper.connections == 0)


async def test_a_connection_that_ends_while_it_is_registered_is_not_listed_for_ever(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The library relies on a connection taking a tenth of a second to close; ours takes none."""
    start = SwarmConn.start

    async def start_late(connection: Any) -> None:
        await connection.event_closed.wait()  # the event loop may take its turns in this order
        await start(connection)

    class Ending(PipeEnd):
        """Ends after the library has looked whether it has."""

        async def read(self, n: int | None = None) -> bytes:
            await trio.sleep(0.05)
            raise EOFError("the other end has hung up")

    monkeypatch.setattr(SwarmConn, "start", start_late)
    async with ours() as host:
        near, _far = pipe()
        muxed: Any = Yamux(Ending(near._stream, is_initiator=False), ID.from_base58(identity(1).peer_id))
        with pytest.raises(SwarmException, match="at once"), trio.fail_after(5):
            await host.get_network().add_conn(muxed, "inbound")
        await trio.sleep(0.3)
        assert host.get_network().get_connections() == []


async def test_a_line_without_end_is_read_whole_by_an_unguarded_host_but_not_by_ours() -> None:
    async def is_read(port: int) -> bool:
        """Whether four megabytes of one line are taken before anybody was encrypted or named."""
        stream = await trio.open_tcp_stream("127.0.0.1", port)
        async with stream:
            await stream.send_all(MULTISTREAM + encode_uvarint(2**26))
            try:
                for _ in range(64):
                    await stream.send_all(bytes(65536))
                with trio.move_on_after(1):
                    while await stream.receive_some():
                        pass
                    return False
            except trio.BrokenResourceError:
                return False
            return True

    async with unguarded() as stock, ours() as own:
        assert await is_read(port_of(stock)), "upstream has mended this"
        assert not await is_read(port_of(own))
        assert await is_alive(own)


async def test_an_unguarded_host_speaks_plain_text_with_whoever_asks_but_ours_does_not() -> None:
    async def answer(port: int, protocol: bytes) -> bytes:
        stream = await trio.open_tcp_stream("127.0.0.1", port)
        async with stream:
            await stream.send_all(MULTISTREAM + encode_delim(protocol))
            received = b""
            with trio.fail_after(10):
                while received.count(b"\n") < 2:
                    received += await stream.receive_some()
            return received.split(b"\n")[1][1:]

    async with unguarded() as stock, ours() as own:
        assert await answer(port_of(stock), b"/plaintext/2.0.0") == b"/plaintext/2.0.0", "upstream has mended this"
        for protocol in (b"/plaintext/2.0.0", b"/secio/1.0.0", b"/tls/1.0.0"):
            assert await answer(port_of(own), protocol) == b"na"
        assert await answer(port_of(own), b"/noise") == b"/noise"


async def test_one_peer_takes_every_place_of_an_unguarded_host_but_three_of_ours() -> None:
    async def take(host: Any) -> int:
        async with ours(1) as greedy:
            network = greedy.get_network()
            address = Multiaddr(str(host.get_addrs()[0]))
            kept = []
            for _ in range(6):
                raw = await network.transport_manager.transport_for_dialing(address).dial(address)
                try:
                    secured = await network.upgrader.upgrade_security(raw, True, host.get_id())
                    muxed = await network.upgrader.upgrade_connection(secured, host.get_id())
                    network.manager.run_task(muxed.start)
                    kept.append(muxed)
                except Exception:
                    await raw.close()
            with trio.move_on_after(1):
                await becomes(lambda: len(host.get_network().get_connections(greedy.get_id())) > 3, 1)
            return len([c for c in host.get_network().get_connections(greedy.get_id()) if not c.is_closed])

    async with unguarded() as stock, ours() as own:
        assert await take(stock) > 3, "upstream has mended this"
        assert await take(own) == 3


async def test_one_peer_opens_streams_without_end_in_an_unguarded_host_but_not_in_ours() -> None:
    count = 3 * STREAMS_INBOUND_MAX

    async def flood(attacker: Any, victim: Any) -> int:
        muxed = await connect(attacker, victim)
        for number in range(count):
            frame = encode_header(Type.WINDOW, Flag.SYN, 1001 + 2 * number, 0)
            async with muxed._write_lock:
                await muxed.secured_conn.write(frame)
        (connection,) = victim.get_network().get_connections()
        await becomes(lambda: len(connection.muxed_conn.streams) >= count, 2)
        return len(connection.muxed_conn.streams)

    async with ours(1) as attacker, unguarded() as victim:
        assert await flood(attacker, victim) >= count, "upstream has mended this"
    async with ours(1) as attacker, ours() as victim:
        assert await flood(attacker, victim) <= STREAMS_INBOUND_MAX + 8  # and the few that the victim opened itself
        assert await is_alive(victim)


async def test_two_unguarded_hosts_share_a_port_but_ours_do_not() -> None:
    async with unguarded(1) as first:
        address = Multiaddr(f"/ip4/127.0.0.1/tcp/{port_of(first)}")
        second: Any = stock_host(2)
        async with second.run([address]):
            assert port_of(second) == port_of(first), "upstream has mended this"
            await second.close()

    async with ours(1) as first:
        address = Multiaddr(f"/ip4/127.0.0.1/tcp/{port_of(first)}")
        with pytest.raises(PortInUseError, match="in use"):
            async with open_host(identity(2), [str(address)], []):
                pass
        stock: Any = stock_host(2)
        async with stock.run([address]):  # whoever asks for sharing may still share: no daemon of ours does
            await stock.close()
        with pytest.raises(PortInUseError, match="in use"):
            async with open_host(identity(2), [str(address)], []):
                pass


async def test_ports_are_free_again_at_once_and_two_daemons_that_start_together_do_not_both_win() -> None:
    async with ours(1) as first, ours(5) as guest:
        address = f"/ip4/127.0.0.1/tcp/{port_of(first)}"
        await connect(guest, first)
    started: list[int] = []

    async def start(number: int) -> None:
        try:
            async with open_host(identity(number), [address], []):
                started.append(number)
                await trio.sleep(1)
        except PortInUseError:
            return

    async with trio.open_nursery() as nursery:
        for number in range(1, 5):
            nursery.start_soon(start, number)
    assert len(started) == 1


async def test_an_unguarded_host_dials_whom_it_ever_heard_of_but_ours_does_not() -> None:
    async with ours(1) as stranger:
        info = info_from_p2p_addr(stranger.get_addrs()[0])

        async def is_dialled_by(host: Any) -> bool:
            host.get_peerstore().add_addrs(info.peer_id, info.addrs, 3600)
            async with host.run([Multiaddr(ANYWHERE)]):
                dialled = await becomes(lambda: host.get_network().get_connections(), 5)
                await host.close()
            return dialled

        assert await is_dialled_by(stock_host(2)), "upstream has mended this"
        async with ours(3) as own:
            own.get_peerstore().add_addrs(info.peer_id, info.addrs, 3600)
            await own.get_network().auto_connector.maybe_connect()
            assert not await becomes(lambda: own.get_network().get_connections(), 1)


async def test_an_unguarded_host_remembers_a_mebibyte_of_each_peer_but_ours_does_not() -> None:
    def remembered(store: Any, peer: Any) -> int:
        protocols, addresses = store.get_protocols(peer), store.addrs(peer)
        return sum(map(len, protocols)) + sum(len(address.to_bytes()) for address in addresses)

    async def identify(victim: Any, number: int) -> int:
        """Have a peer say much of itself; return how much of it is kept."""
        async with ours(number) as talker:

            async def boast(stream: Any) -> None:
                message = Identify(
                    protocols=[f"/{n}/" + "x" * 1000 for n in range(500)] + [f"/short/{n}" for n in range(5000)],
                    listen_addrs=[Multiaddr(f"/ip4/203.0.113.7/tcp/{n + 1}").to_bytes() for n in range(1000)],
                )
                await stream.write(encode_varint_prefixed(message.SerializeToString()))
                await stream.close()

            talker.set_stream_handler(TProtocol("/ipfs/id/1.0.0"), boast)
            await connect(talker, victim)
            peer, store = talker.get_id(), victim.get_peerstore()
            await victim._identify_peer(peer, reason="test")
            return remembered(store, peer)

    async with unguarded() as stock, ours() as own:
        assert await identify(stock, 1) > 500_000, "upstream has mended this"
        assert 0 < await identify(own, 2) < 20_000


async def test_hosts_that_were_opened_and_closed_leave_no_socket_and_no_thread_behind() -> None:
    def open_files() -> int:
        gc.collect()
        return len(list(Path("/proc/self/fd").iterdir()))

    async def once(number: int) -> None:
        async with ours(number) as one, ours(number + 1) as other:
            other.set_stream_handler(PROTOCOL, hold)
            await connect(one, other)
            await one.new_stream(other.get_id(), [PROTOCOL])
            stuck = socket.create_connection(("127.0.0.1", port_of(other)))  # in its handshake when the host closes
            assert await becomes(lambda: other.get_network().doorkeeper.half_open == 1)
        stuck.close()

    await once(10)  # what libraries keep for ever is there after the first time
    files, threads, tasks = open_files(), threading.active_count(), trio.lowlevel.current_statistics().tasks_living
    for round_number in range(5):
        await once(20 + 2 * round_number)
    assert await becomes(lambda: open_files() <= files)
    assert threading.active_count() <= threads
    assert await becomes(lambda: trio.lowlevel.current_statistics().tasks_living <= tasks)


async def test_ours_and_an_unguarded_host_understand_each_other_both_ways() -> None:
    """Ours is another implementation of the same protocols, not another protocol."""
    data = bytes(range(256)) * 8000

    async def echo(stream: Any) -> None:
        received = bytearray()
        while len(received) < len(data):
            received += await stream.read(65536)
        await stream.write(bytes(received))
        await stream.close()

    async def ask(host: Any, other: Any) -> None:
        other.set_stream_handler(PROTOCOL, echo)
        await connect(host, other)
        stream = await host.new_stream(other.get_id(), [PROTOCOL])
        answer = bytearray()
        with trio.fail_after(20):
            await stream.write(data)
            while len(answer) < len(data):
                answer += await stream.read(65536)
        assert bytes(answer) == data

    both: list[tuple[Callable[[int], Any], Callable[[int], Any]]] = [(unguarded, ours), (ours, unguarded)]
    for asking, answering in both:
        async with asking(1) as host, answering(2) as other:
            await ask(host, other)


async def test_a_banned_peer_is_cut_off_not_let_in_and_not_dialled() -> None:
    book = Book()
    async with ours(1) as liar, ours(standing=book) as host:
        await connect(liar, host)
        assert await becomes(lambda: host.get_network().get_connections())
        name = identity(1).peer_id
        book.ban(name, "lies", 100)
        assert await becomes(lambda: not host.get_network().get_connections())
        assert await becomes(lambda: not liar.get_network().get_connections())
        await _is_refused(lambda: connect(liar, host))
        assert await becomes(lambda: not host.get_network().get_connections())
        await _is_refused(lambda: connect(host, liar))
        book.pardon(name)
        await connect(liar, host)
    assert book.offences == []


async def _is_refused(connecting: Callable[[], Awaitable[Any]]) -> None:
    try:
        muxed = await connecting()
    except Exception:
        return
    assert await becomes(lambda: muxed.is_closed)


async def test_a_peer_that_restarts_is_not_dialled_for_a_minute_by_an_unguarded_host_but_by_ours() -> None:
    async def reaches_who_came_back(host: Any, number: int) -> bool:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        address = Multiaddr(f"/ip4/127.0.0.1/tcp/{port}/p2p/{identity(number).peer_id}")
        with pytest.raises(SwarmException):
            await host.connect(info_from_p2p_addr(address))
        async with open_host(identity(number), [f"/ip4/127.0.0.1/tcp/{port}"], []):
            await trio.sleep(DIAL_AGAIN_SECONDS)
            try:
                await host.connect(info_from_p2p_addr(address))
            except SwarmException:
                return False
            return True

    async with unguarded() as plain:
        assert not await reaches_who_came_back(plain, 95)
    async with ours() as host:
        assert await reaches_who_came_back(host, 96)
