"""Why parts of libp2p 0.8.1 are not used: each test fails when upstream has mended the fault, and says so by that."""

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import base58
import trio
from libp2p.host.autonat.autonat import AutoNATService
from libp2p.kad_dht import KadDHT
from libp2p.kad_dht.kad_dht import DHTMode
from libp2p.peer.id import ID
from libp2p.peer.peerinfo import PeerInfo
from libp2p.relay.circuit_v2.protocol import CircuitV2Protocol
from libp2p.relay.circuit_v2.resources import RelayLimits
from libp2p.tools.anyio_service import background_trio_service
from multiaddr import Multiaddr

from p2p.discovery.addresses import PeerAddress, Surroundings, parse_address
from p2p.discovery.connections import connected_peers
from p2p.discovery.dialer import Dialer
from p2p.discovery.peerbook import PeerBook
from p2p.discovery.relay_client import RelayClient
from p2p.host import open_host
from p2p.identity import Identity

LISTEN = ["/ip4/127.0.0.1/tcp/0"]


@asynccontextmanager
async def two_hosts() -> AsyncIterator[tuple[Any, Any]]:
    """Connected: the second dialled the first."""
    async with (
        open_host(Identity(b"\1" * 32), LISTEN, []) as one,
        open_host(Identity(b"\2" * 32), LISTEN, []) as other,
    ):
        address = parse_address(str(one.get_addrs()[0]))
        await other.connect(PeerInfo(ID.from_base58(address.peer_id), [Multiaddr(address.transport)]))
        with trio.fail_after(10):
            while not one.get_connected_peers():
                await trio.sleep(0.01)
        yield one, other


async def test_the_librarys_dht_ignores_its_protocol_prefix_and_would_join_the_public_network() -> None:
    async with two_hosts() as (one, _other):
        KadDHT(one, DHTMode.SERVER, protocol_prefix="/quern")  # type: ignore[arg-type]
        protocols = one.get_mux().get_protocols()
        assert "/ipfs/kad/1.0.0" in protocols
        assert not any(str(protocol).startswith("/quern") for protocol in protocols)


async def test_the_librarys_dht_keeps_providers_of_any_number_of_contents() -> None:
    async with two_hosts() as (one, other):
        store = KadDHT(one, DHTMode.SERVER).provider_store
        liar = PeerInfo(other.get_id(), [Multiaddr("/ip4/127.0.0.1/tcp/1")])
        for number in range(20_000):
            store.add_provider(number.to_bytes(34), liar)
        assert store.size() == 20_000


async def test_the_librarys_relay_holds_a_silent_circuit_beyond_its_time() -> None:
    async with two_hosts() as (relay, hidden), open_host(Identity(b"\3" * 32), LISTEN, []) as seeker:
        limits = RelayLimits(duration=1, data=1 << 20, max_circuit_conns=8, max_reservations=8)
        protocol = CircuitV2Protocol(relay, limits=limits, allow_hop=True)
        async with background_trio_service(protocol):
            await protocol.event_started.wait()
            address = parse_address(str(relay.get_addrs()[0]))
            clients = []
            for host in (hidden, seeker):
                book = PeerBook(str(host.get_id()), time.time)
                clients.append(RelayClient(host, book, Dialer(host, book, Surroundings(loopback=True))))
            await clients[0].reserve(address.peer_id)
            hidden_id = str(hidden.get_id())
            await clients[1].dial(replace(address, peer_id=hidden_id, relay=address.peer_id))
            await trio.sleep(4)
            assert hidden_id in connected_peers(seeker)


async def test_the_librarys_autonat_takes_an_open_connection_for_a_dial_back() -> None:
    async with two_hosts() as (server, hidden):
        service = AutoNATService(server, serve=False)
        closed = replace(parse_address(str(hidden.get_addrs()[0])), port=1)
        reached = await service._try_dial(hidden.get_id(), [Multiaddr(closed.transport).to_bytes()])
        assert reached is not None


async def test_the_library_cannot_announce_an_address_through_a_relay() -> None:
    identity, relay = Identity(b"\1" * 32), Identity(b"\2" * 32).peer_id
    through = PeerAddress(identity.peer_id, "ip4", "8.8.8.8", 4801, relay)
    async with open_host(identity, LISTEN, [through.transport]) as host:
        assert [str(address) for address in host.get_addrs()] != [str(through)]


async def test_a_lookup_of_the_librarys_dht_takes_over_any_address_that_a_peer_tells() -> None:
    """The library fills the host's store, which is dialled when a stream is wanted; ours guards the transport."""
    async with two_hosts() as (one, other):
        target = Identity(b"\7" * 32)
        told = Multiaddr("/ip4/169.254.169.254/tcp/80")
        one.get_peerstore().add_addrs(ID.from_base58(target.peer_id), [told], 600)
        theirs, ours = KadDHT(one, DHTMode.SERVER), KadDHT(other, DHTMode.CLIENT)
        await theirs.routing_table.add_peer(PeerInfo(ID.from_base58(target.peer_id), [told]))
        started = time.monotonic()
        with trio.move_on_after(3):
            await ours.peer_routing.find_closest_peers_network(base58.b58decode(target.peer_id))
        assert time.monotonic() - started < 10
        assert told in other.get_peerstore().addrs(ID.from_base58(target.peer_id))
