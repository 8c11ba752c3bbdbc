"""NAT: what peers find when they dial back, what a router maps, and connections through relays made direct.

There is no router here. UPnP runs against a stand-in that speaks its protocol; hole punching runs between hosts on
loopback, where every dial gets through: that shows the protocol and its effect, not what a real router lets through.
"""

import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest
import trio
from libp2p.host.autonat.pb import autonat_pb2
from multiaddr import Multiaddr

from p2p.discovery.addresses import PeerAddress, Surroundings, parse_address
from p2p.discovery.announced import AddressOrigin, Reachability
from p2p.discovery.connections import connections_of, has_direct_connection, is_relayed
from p2p.discovery.control_streams import ControlError, open_stream, receive_message, send_message
from p2p.discovery.dialer import Dialer
from p2p.discovery.hole_punching import HolePuncher
from p2p.discovery.local_network import LocalNetwork
from p2p.discovery.peerbook import Origin, PeerBook
from p2p.discovery.port_mapping import PortMapper, PortMappingError, UpnpRouter
from p2p.discovery.reachability import PROTOCOL, DialBackServer, ReachabilityProbe
from p2p.discovery.service import DhtMode, Discovery, DiscoveryOptions
from p2p.host import open_host
from p2p.identity import Identity
from tests.integration.p2p.discovery.upnp_router import HERE, multicast_works, upnp_router

LISTEN = ["/ip4/127.0.0.1/tcp/0"]
Message: Any = autonat_pb2.Message
needs_multicast = pytest.mark.skipif(not multicast_works(), reason="this machine has no multicast on loopback")


class Node:
    def __init__(self, host: Any) -> None:
        self.host = host
        self.peer_id = str(host.get_id())
        self.book = PeerBook(self.peer_id, time.time)
        self.dialer = Dialer(host, self.book, Surroundings(loopback=True))
        self.address = parse_address(str(host.get_addrs()[0]))

    async def join(self, other: "Node") -> None:
        self.book.learn(other.address, Origin.OPERATOR)
        await self.dialer.connect(other.peer_id)


@asynccontextmanager
async def open_node(number: int) -> AsyncIterator[Node]:
    async with open_host(Identity(number.to_bytes(32)), LISTEN, []) as host:
        node = Node(host)
        DialBackServer(host, node.dialer).start()
        yield node


@asynccontextmanager
async def open_discovery(number: int, options: DiscoveryOptions) -> AsyncIterator[tuple[Any, Discovery]]:
    async with (
        open_host(Identity(number.to_bytes(32)), LISTEN, []) as host,
        trio.open_nursery() as nursery,
    ):
        discovery = Discovery(host, LISTEN, [], options)
        nursery.start_soon(discovery.run)
        yield host, discovery
        nursery.cancel_scope.cancel()


async def test_a_node_that_peers_can_dial_learns_that_it_is_public() -> None:
    async with open_node(1) as node, open_node(2) as one, open_node(3) as other:
        await node.join(one)
        await node.join(other)
        probe = ReachabilityProbe(node.host, node.dialer, lambda: [node.address])
        with trio.fail_after(30):
            while await probe.check() is Reachability.UNKNOWN:
                await trio.sleep(0.2)
        assert probe.state is Reachability.PUBLIC
        assert probe.answers == 2


async def test_a_node_that_nobody_can_dial_learns_it_although_it_is_connected() -> None:
    """The library's AutoNAT would answer from the open connection and call it public."""
    async with open_node(1) as node, open_node(2) as one, open_node(3) as other:
        await node.join(one)
        await node.join(other)
        closed = replace(node.address, port=1)
        probe = ReachabilityProbe(node.host, node.dialer, lambda: [closed])
        with trio.fail_after(30):
            while await probe.check() is Reachability.UNKNOWN:
                await trio.sleep(0.2)
        assert probe.state is Reachability.PRIVATE


async def test_an_address_where_somebody_else_answers_is_not_ours() -> None:
    async with open_node(1) as node, open_node(2) as server, open_node(3) as somebody:
        await node.join(server)
        probe = ReachabilityProbe(node.host, node.dialer, lambda: [])
        claimed = replace(somebody.address, peer_id=node.peer_id)
        with trio.fail_after(20):
            assert not await probe.ask(server.peer_id, [claimed])


async def test_nobody_is_dialled_on_behalf_of_another_nor_elsewhere_nor_again_at_once() -> None:
    async with open_node(1) as node, open_node(2) as server, open_node(3) as victim:
        await node.join(server)
        probe = ReachabilityProbe(node.host, node.dialer, lambda: [])
        with trio.fail_after(20):
            elsewhere = PeerAddress(node.peer_id, "ip4", "8.8.8.8", 25)
            with pytest.raises(ControlError, match="none of these addresses"):
                await probe.ask(server.peer_id, [elsewhere])
            with pytest.raises(ControlError, match="too often"):
                await probe.ask(server.peer_id, [node.address])
            await victim.join(server)
            question = Message(type=Message.DIAL)
            question.dial.peer.id = node.host.get_id().to_bytes()
            question.dial.peer.addrs.append(Multiaddr(node.address.transport).to_bytes())
            async with open_stream(victim.host, server.peer_id, PROTOCOL, deadline_seconds=5) as stream:
                await send_message(stream, question, deadline_seconds=5)
                answer = await receive_message(stream, Message, bytes_max=8192, deadline_seconds=10)
        assert answer.dialResponse.statusText == "ask for yourself"


@asynccontextmanager
async def relayed_connection() -> AsyncIterator[tuple[Any, Discovery, Any, Discovery]]:
    """A hidden node and one that reached it through a relay; no hole is punched by itself."""
    quiet = DiscoveryOptions(dht=DhtMode.OFF, reachability=False)
    async with (
        open_discovery(1, replace(quiet, relay_server=True)) as (relay_host, _relay),
        open_discovery(2, quiet) as (hidden_host, hidden),
        open_discovery(3, quiet) as (seeker_host, seeker),
    ):
        relay_address = parse_address(str(relay_host.get_addrs()[0]))
        hidden.book.learn(relay_address, Origin.OPERATOR)
        await hidden.dialer.connect(relay_address.peer_id)
        with trio.fail_after(60):
            while not (places := [a for a in hidden.addresses if a.origin is AddressOrigin.RELAYED]):
                await trio.sleep(0.1)
            assert str(places[0].address) in map(str, hidden_host.get_addrs())
            seeker.book.learn(places[0].address, Origin.TOLD, "somebody")
            await seeker.dialer.connect(hidden.own_id)
        yield hidden_host, hidden, seeker_host, seeker


async def test_a_connection_through_a_relay_becomes_direct_and_the_relay_is_left() -> None:
    """On loopback, without a router: see the top of this file."""
    async with relayed_connection() as (_hidden_host, hidden, seeker_host, _seeker):
        with trio.fail_after(60):
            while not has_direct_connection(seeker_host, hidden.own_id) or not hidden.status().holes_punched:
                await trio.sleep(0.05)
            while any(map(is_relayed, connections_of(seeker_host, hidden.own_id))):
                await trio.sleep(0.05)
        assert has_direct_connection(seeker_host, hidden.own_id)
        assert hidden.status().holes_tried == 1


async def test_two_ends_that_dial_each_other_at_the_same_moment_get_a_direct_connection(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The exchange of DCUtR itself, where dialling plainly did not help."""

    async def in_vain(_puncher: HolePuncher, _peer_id: str) -> bool:
        return False

    monkeypatch.setattr(HolePuncher, "_dial_plainly", in_vain)
    async with relayed_connection() as (_hidden_host, hidden, seeker_host, _seeker):
        assert not has_direct_connection(seeker_host, hidden.own_id)
        with trio.fail_after(60):
            while not hidden.status().holes_punched:
                await trio.sleep(0.05)
        assert has_direct_connection(seeker_host, hidden.own_id)


@needs_multicast
async def test_a_upnp_router_maps_the_port_for_a_lease_and_gets_it_back() -> None:
    """The router is a stand-in that speaks SSDP and SOAP; miniupnpc is the real one."""
    with upnp_router() as stand_in:
        assert stand_in is not None
        mapper = PortMapper(Identity(b"\1" * 32).peer_id, lambda: 4801, UpnpRouter(HERE))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(mapper.run)
            with trio.fail_after(30):
                while mapper.mapping is None and not mapper.last_error:
                    await trio.sleep(0.05)
            assert (mapper.last_error, stand_in.mapped) == ("", {4801: (HERE, 4801, 3600)})
            assert [str(each.ip) for each in mapper.addresses] == ["8.8.8.8"]
            nursery.cancel_scope.cancel()
        assert stand_in.mapped == {}


@needs_multicast
async def test_a_router_that_knows_no_leases_maps_for_good() -> None:
    with upnp_router() as stand_in:
        assert stand_in is not None
        stand_in.permanent_only = True
        router = UpnpRouter(HERE)
        assert await trio.to_thread.run_sync(router.find) == "8.8.8.8"
        await trio.to_thread.run_sync(router.map, 4801, 4801, 3600)
        assert stand_in.mapped[4801][2] == 0


async def test_without_a_router_the_operator_is_told_so() -> None:
    router = UpnpRouter(HERE)
    with pytest.raises(PortMappingError, match="no router answers"):
        await trio.to_thread.run_sync(router.find)


@needs_multicast
async def test_nodes_of_one_local_network_find_each_other_and_leave_no_threads() -> None:
    before = threading.active_count()
    identities = [Identity(number.to_bytes(32)) for number in (1, 2)]
    books = [PeerBook(identity.peer_id, time.time) for identity in identities]
    here = Surroundings(loopback=True)
    async with trio.open_nursery() as nursery:
        for identity, book in zip(identities, books, strict=True):
            own = PeerAddress(identity.peer_id, "ip4", HERE, 4801)
            local = LocalNetwork(identity.peer_id, book, here, lambda own=own: [own], interfaces=[HERE])
            nursery.start_soon(local.run)
        with trio.fail_after(30):
            while any(len(book) < 1 for book in books):
                await trio.sleep(0.1)
        assert books[0].addresses(identities[1].peer_id) == (PeerAddress(identities[1].peer_id, "ip4", HERE, 4801),)
        nursery.cancel_scope.cancel()
    with trio.fail_after(10):
        while [t for t in threading.enumerate() if "zeroconf" in t.name.lower()]:
            await trio.sleep(0.05)
    assert threading.active_count() <= before + 4  # trio keeps idle worker threads for a while
