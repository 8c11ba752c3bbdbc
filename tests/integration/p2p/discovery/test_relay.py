"""Nodes that nobody can dial are reached through relays, whose service is bounded."""

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any

import base58
import pytest
import trio
from libp2p.peer.id import ID
from libp2p.peer.peerinfo import PeerInfo
from libp2p.relay.circuit_v2.config import RelayConfig, RelayRole
from libp2p.relay.circuit_v2.protocol import CircuitV2Protocol
from libp2p.relay.circuit_v2.transport import CircuitV2Transport
from libp2p.tools.anyio_service import background_trio_service
from multiaddr import Multiaddr

from p2p.discovery import relay_client
from p2p.discovery.addresses import PeerAddress, Surroundings, parse_address
from p2p.discovery.connections import connections_of, has_direct_connection, is_relayed, remote_ip
from p2p.discovery.control_streams import ControlError, open_stream, receive_message, send_message
from p2p.discovery.dialer import Dialer, DialError
from p2p.discovery.peerbook import Origin, PeerBook
from p2p.discovery.relay_client import RelayClient, RelayError
from p2p.discovery.relay_protocol import HOP_PROTOCOL, STOP_PROTOCOL, HopMessage, Peer, Status, StopMessage
from p2p.discovery.relay_server import RelayLimits, RelayServer
from p2p.host import open_host
from p2p.identity import Identity

ECHO = "/test/echo/1"


@dataclass
class Node:
    host: Any
    book: PeerBook
    dialer: Dialer
    client: RelayClient

    @property
    def peer_id(self) -> str:
        return str(self.host.get_id())

    @property
    def address(self) -> PeerAddress:
        return parse_address(str(self.host.get_addrs()[0]))

    async def join(self, other: "Node") -> None:
        self.book.learn(other.address, Origin.OPERATOR)
        await self.dialer.connect(other.peer_id)


async def echo(stream: Any) -> None:
    while data := await stream.read(65536):
        await stream.write(data)


@asynccontextmanager
async def open_node(number: int) -> AsyncIterator[Node]:
    identity = Identity(number.to_bytes(32))
    async with open_host(identity, ["/ip4/127.0.0.1/tcp/0"], []) as host:
        book = PeerBook(identity.peer_id, time.time)
        dialer = Dialer(host, book, Surroundings(loopback=True))
        client = RelayClient(host, book, dialer)
        host.set_stream_handler(ECHO, echo)
        yield Node(host, book, dialer, client)


@asynccontextmanager
async def relayed_pair(limits: RelayLimits | None = None) -> AsyncIterator[tuple[Node, Node, Node, RelayServer]]:
    """A relay, a hidden node with a place at it, and one that wants to reach the hidden node."""
    async with open_node(1) as relay, open_node(2) as hidden, open_node(3) as seeker:
        server = RelayServer(relay.host, limits=limits)
        server.start()
        await hidden.join(relay)
        reservation = await hidden.client.reserve(relay.peer_id)
        (address,) = reservation.addresses
        seeker.book.learn(address, Origin.TOLD, "somebody")
        yield relay, hidden, seeker, server


async def ask_echo(node: Node, peer_id: str, data: bytes) -> bytes:
    with trio.fail_after(20):
        async with open_stream(node.host, peer_id, ECHO, deadline_seconds=10) as stream:
            await stream.write(data)
            received = b""
            while len(received) < len(data):
                received += await stream.read(65536)
            return received


async def test_a_node_that_nobody_can_dial_is_reached_through_its_relay_only() -> None:
    async with relayed_pair() as (relay, hidden, seeker, server):
        assert server.reservations == 1
        await seeker.dialer.connect(hidden.peer_id)
        assert not has_direct_connection(seeker.host, hidden.peer_id)
        assert await ask_echo(seeker, hidden.peer_id, b"hello" * 10_000) == b"hello" * 10_000
        assert await ask_echo(hidden, seeker.peer_id, b"back") == b"back"
        assert all(map(is_relayed, connections_of(hidden.host, seeker.peer_id)))
        assert server.circuits == 1
        assert server.relayed_bytes > 100_000
        (known,) = seeker.book.known(hidden.peer_id)
        assert known.reached_at
        assert str(known.address) == f"{relay.address}/p2p-circuit/p2p/{hidden.peer_id}"


async def test_a_place_is_found_kept_and_lost_with_the_relay() -> None:
    async with open_node(1) as relay, open_node(2) as hidden, trio.open_nursery() as nursery:
        RelayServer(relay.host).start()
        await hidden.join(relay)
        nursery.start_soon(hidden.client.run, lambda: True)
        with trio.fail_after(30):
            while not hidden.client.addresses:
                await trio.sleep(0.1)
            await hidden.host.disconnect(ID.from_base58(relay.peer_id))
            while hidden.client.addresses:
                await trio.sleep(0.1)
        nursery.cancel_scope.cancel()


async def test_a_reservation_is_renewed_in_its_last_quarter() -> None:
    async with relayed_pair() as (relay, hidden, _seeker, _server):
        (reservation,) = hidden.client.reservations
        length = reservation.until - reservation.made_at
        assert not reservation.due(reservation.made_at + 0.7 * length)
        assert reservation.due(reservation.made_at + 0.8 * length)
        old = replace(reservation, made_at=reservation.made_at - 3600, until=time.time() + 60)
        hidden.client._reservations[relay.peer_id] = old
        async with trio.open_nursery() as nursery:
            nursery.start_soon(hidden.client.run, lambda: True)
            with trio.fail_after(20):
                while hidden.client.reservations[0].until < time.time() + 600:
                    await trio.sleep(0.05)
            nursery.cancel_scope.cancel()


async def test_without_a_reservation_nobody_is_reached() -> None:
    async with open_node(1) as relay, open_node(2) as hidden, open_node(3) as seeker:
        RelayServer(relay.host).start()
        await hidden.join(relay)
        address = replace(relay.address, peer_id=hidden.peer_id, relay=relay.peer_id)
        seeker.book.learn(address, Origin.OPERATOR)
        with pytest.raises(DialError, match="no reservation"):
            await seeker.dialer.connect(hidden.peer_id)


async def test_a_peer_reserves_for_itself_only() -> None:
    async with open_node(1) as relay, open_node(2) as greedy:
        server = RelayServer(relay.host)
        server.start()
        await greedy.join(relay)
        for number in range(10, 14):
            named = Peer(id=base58.b58decode(Identity(number.to_bytes(32)).peer_id))
            async with open_stream(greedy.host, relay.peer_id, HOP_PROTOCOL, deadline_seconds=5) as stream:
                message = HopMessage(type=HopMessage.RESERVE, peer=named)
                await send_message(stream, message, deadline_seconds=5)
                answer = await receive_message(stream, HopMessage, bytes_max=4096, deadline_seconds=5)
            assert answer.status == Status.OK
        assert server.reservations == 1


async def test_reservations_and_circuits_are_bounded() -> None:
    limits = RelayLimits(reservations_max=1, circuits_per_peer_max=1)
    async with relayed_pair(limits) as (relay, hidden, seeker, _server):
        await seeker.dialer.connect(hidden.peer_id)
        with pytest.raises(RelayError, match="reservation refused"):
            await seeker.client.reserve(relay.peer_id)
        async with open_node(4) as another:
            (address,) = hidden.client.addresses
            another.book.learn(address, Origin.TOLD, "somebody")
            with pytest.raises(DialError, match="resource limit exceeded"):
                await another.dialer.connect(hidden.peer_id)


async def test_a_circuit_ends_when_its_bytes_are_used_up() -> None:
    async with relayed_pair(RelayLimits(circuit_bytes=200_000)) as (_relay, hidden, seeker, server):
        await seeker.dialer.connect(hidden.peer_id)
        with pytest.raises(Exception):  # noqa: B017 - whatever the library raises when its connection is cut
            await ask_echo(seeker, hidden.peer_id, bytes(400_000))
        with trio.fail_after(10):
            while server.circuits or seeker.peer_id in hidden.dialer.connected():
                await trio.sleep(0.05)
        assert server.relayed_bytes <= 200_000


async def test_a_silent_circuit_ends_when_its_time_is_over() -> None:
    async with relayed_pair(RelayLimits(circuit_seconds=2)) as (_relay, hidden, seeker, server):
        await seeker.dialer.connect(hidden.peer_id)
        with trio.fail_after(15):
            while server.circuits or hidden.peer_id in seeker.dialer.connected():
                await trio.sleep(0.05)


async def test_a_guest_through_a_relay_is_not_known_by_the_relays_address() -> None:
    """Else a ban of the guest would be blamed on the relay."""
    async with relayed_pair() as (_relay, hidden, seeker, _server):
        await seeker.dialer.connect(hidden.peer_id)
        (connection,) = connections_of(hidden.host, seeker.peer_id)
        assert connection.muxed_conn.get_remote_address() is None
        assert remote_ip(hidden.host, seeker.peer_id) is None


async def test_a_relay_brings_a_bounded_number_of_guests(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relay_client, "RELAYED_MAX", 1)
    async with relayed_pair() as (_relay, hidden, seeker, _server), open_node(4) as another:
        await seeker.dialer.connect(hidden.peer_id)
        (address,) = hidden.client.addresses
        another.book.learn(address, Origin.TOLD, "somebody")
        with pytest.raises(DialError, match="connection failed"):
            await another.dialer.connect(hidden.peer_id)


async def test_a_relay_without_our_reservation_brings_nobody() -> None:
    async with open_node(1) as relay, open_node(2) as hidden:
        await hidden.join(relay)
        offer = StopMessage(type=StopMessage.CONNECT, peer=Peer(id=base58.b58decode(Identity(b"\7" * 32).peer_id)))
        async with open_stream(relay.host, hidden.peer_id, STOP_PROTOCOL, deadline_seconds=5) as stream:
            await send_message(stream, offer, deadline_seconds=5)
            answer = await receive_message(stream, StopMessage, bytes_max=4096, deadline_seconds=5)
        assert answer.status == Status.PERMISSION_DENIED


@pytest.mark.parametrize("data", [b"\xff" * 11, b"\x03\xff\xff\xff", b"\x02\x08\x01", b"\x02\x08\x02", b"\x80\x80\x04"])
@pytest.mark.parametrize("protocol", [HOP_PROTOCOL, STOP_PROTOCOL])
async def test_malformed_requests_end_their_stream_and_nothing_else(data: bytes, protocol: str) -> None:
    async with relayed_pair() as (relay, hidden, seeker, server):
        target = relay if protocol == HOP_PROTOCOL else hidden
        liar = seeker if protocol == HOP_PROTOCOL else relay
        if liar is seeker:
            await seeker.join(relay)
        async with open_stream(liar.host, target.peer_id, protocol, deadline_seconds=5) as stream:
            await stream.write(data)
            try:
                answer = await receive_message(stream, HopMessage, bytes_max=4096, deadline_seconds=20)
                assert answer.status != Status.OK
            except ControlError:
                pass
        assert server.reservations == 1
        await seeker.dialer.connect(hidden.peer_id)


async def test_the_librarys_client_and_ours_share_our_relay() -> None:
    """An independent implementation of the client: it reserves at our relay, and our node reaches it there."""
    async with open_node(1) as relay, open_node(3) as seeker:
        server = RelayServer(relay.host)
        server.start()
        async with open_host(Identity(b"\5" * 32), ["/ip4/127.0.0.1/tcp/0"], []) as host:
            protocol = CircuitV2Protocol(host, allow_hop=False)
            config = RelayConfig(roles=RelayRole.STOP | RelayRole.CLIENT)
            transport = CircuitV2Transport(host, protocol, config)
            async with background_trio_service(protocol):
                with trio.fail_after(20):
                    await protocol.event_started.wait()
                    own = relay.address
                    await host.connect(PeerInfo(ID.from_base58(own.peer_id), [Multiaddr(own.transport)]))
                    stream = await host.new_stream(ID.from_base58(relay.peer_id), [HOP_PROTOCOL])
                    async with trio.open_nursery() as nursery:
                        assert await transport.reserve(stream, ID.from_base58(relay.peer_id), nursery)
                        nursery.cancel_scope.cancel()
                    assert server.reservations == 1
                    theirs = str(host.get_id())
                    seeker.book.learn(replace(own, peer_id=theirs, relay=relay.peer_id), Origin.TOLD, "somebody")
                    await seeker.dialer.connect(theirs)
                assert not has_direct_connection(seeker.host, theirs)
