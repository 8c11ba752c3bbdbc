"""Nodes find their network again, and are not sent where strangers want them."""

import json
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
import trio
from libp2p.peer.id import ID
from multiaddr import Multiaddr

from p2p.discovery.addresses import PeerAddress, Surroundings, parse_address
from p2p.discovery.dialer import Dialer, DialError
from p2p.discovery.peerbook import UNREACHED_PER_SOURCE_MAX, Origin, PeerBook
from p2p.discovery.service import DiscoveryOptions
from p2p.host import open_host
from p2p.identity import Identity
from p2p.peering import DIALS_AT_ONCE, Peering
from p2p.standing import Standing
from p2p.streams import Streams
from tests.integration.p2p.nodes import open_node

ON_LOOPBACK = Surroundings(loopback=True)


async def test_a_restarted_node_finds_its_network_without_its_bootstrap_list(tmp_path: Path) -> None:
    path = tmp_path / "peers.json"
    remembering = DiscoveryOptions(peers_file=path)
    async with open_node(1) as first, open_node(2, first.addresses) as second:
        async with open_node(3, first.addresses, discovery=remembering) as third:
            with trio.fail_after(30):
                while len(third.peers()) < 2 or str(second.peer_id) not in path.read_text():
                    await trio.sleep(0.1)
            left_by_a_kill = path.read_text()
        path.write_text(left_by_a_kill)
        async with open_node(3, discovery=remembering) as again:
            with trio.fail_after(30):
                while {peer.peer_id for peer in again.peers()} != {first.peer_id, second.peer_id}:
                    await trio.sleep(0.1)


async def test_a_host_does_not_dial_where_a_stranger_sends_it_and_does_where_the_operator_does() -> None:
    stranger = Identity(b"\1" * 32)
    here = Identity(b"\2" * 32)
    async with (
        open_host(stranger, ["/ip4/127.0.0.1/tcp/0"], []) as other,
        open_host(here, ["/ip4/127.0.0.1/tcp/0"], []) as host,
    ):
        address = parse_address(str(other.get_addrs()[0]))
        book = PeerBook(here.peer_id, time.time)
        dialer = Dialer(host, book, Surroundings(loopback=False))
        book.learn(address, Origin.TOLD, "liar")
        with pytest.raises(DialError, match="no address of it is known that may be dialled"):
            await dialer.connect(stranger.peer_id)
        # The library's own way round us: an address in its store, dialled when a stream is wanted.
        host.get_peerstore().add_addrs(ID.from_base58(stranger.peer_id), [Multiaddr(address.transport)], 60)
        with pytest.raises(Exception):  # noqa: B017 - the library raises several kinds
            await host.new_stream(ID.from_base58(stranger.peer_id), ["/ipfs/ping/1.0.0"])
        assert not dialer.connected()
        book.learn(address, Origin.OPERATOR)
        await dialer.connect(stranger.peer_id)
        assert dialer.connected() == [stranger.peer_id]
        (known,) = book.known(stranger.peer_id)
        assert known.reached_at > 0


async def test_a_peer_that_is_not_there_is_reported_with_its_address() -> None:
    here = Identity(b"\2" * 32)
    gone = PeerAddress(Identity(b"\1" * 32).peer_id, "ip4", "127.0.0.1", 1)
    async with open_host(here, ["/ip4/127.0.0.1/tcp/0"], []) as host:
        book = PeerBook(here.peer_id, time.time)
        with pytest.raises(DialError, match=str(gone)):
            await Dialer(host, book, Surroundings(loopback=True)).connect(gone.peer_id, [gone])


async def test_an_operator_may_name_a_peer_by_dns_and_a_stranger_may_not() -> None:
    there, here = Identity(b"\1" * 32), Identity(b"\2" * 32)
    async with (
        open_host(there, ["/ip4/127.0.0.1/tcp/0"], []) as other,
        open_host(here, ["/ip4/127.0.0.1/tcp/0"], []) as host,
    ):
        port = parse_address(str(other.get_addrs()[0])).port
        address = PeerAddress(there.peer_id, "dns4", "localhost", port)
        book = PeerBook(here.peer_id, time.time)
        dialer = Dialer(host, book, Surroundings(loopback=False))
        book.learn(address, Origin.TOLD, "liar")
        with pytest.raises(DialError, match="may be dialled"):
            await dialer.connect(there.peer_id)
        book.learn(address, Origin.OPERATOR)
        await dialer.connect(there.peer_id)
        (known,) = book.known(there.peer_id)
        assert known.reached_at
        assert not dialer.allows(PeerAddress(there.peer_id, "ip4", "127.0.0.1", port))


async def test_a_liar_cannot_make_a_node_dial_many_places_at_once() -> None:
    """A peer tells 128 addresses of others: a bounded number enters the book, and few are dialled at a time."""
    dialled: list[str] = []
    running = most = 0

    class Slow(Dialer):
        async def connect(self, peer_id: str, hints: Sequence[PeerAddress] = ()) -> None:
            nonlocal running, most
            dialled.append(peer_id)
            running += 1
            most = max(most, running)
            try:
                await trio.sleep(0.3)
            finally:
                running -= 1
            raise DialError("nobody there")

    here = Identity(b"\2" * 32)
    liar = Identity(b"\3" * 32).peer_id
    async with open_host(here, ["/ip4/127.0.0.1/tcp/0"], []) as host, trio.open_nursery() as nursery:
        book = PeerBook(here.peer_id, time.time)
        peering = Peering(host, Streams(host, nursery, Standing(time.time)), book, Slow(host, book, ON_LOOPBACK), [])
        told = [
            str(PeerAddress(Identity(number.to_bytes(32)).peer_id, "ip4", "127.0.0.1", number))
            for number in range(100, 300)
        ]
        peering._learn(liar, json.dumps(told).encode(), others=True)
        assert len(book) == UNREACHED_PER_SOURCE_MAX
        nursery.start_soon(peering.run)
        with trio.fail_after(20):
            while len(dialled) < 2 * DIALS_AT_ONCE:
                await trio.sleep(0.05)
        assert most <= DIALS_AT_ONCE
        nursery.cancel_scope.cancel()
