"""Nodes find their network again, and are not sent where strangers want them."""

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
from coincurve import PrivateKey
from libp2p.peer.id import ID
from multiaddr import Multiaddr

from node.network.adapter import LibP2PNetwork, open_network
from node.protocol.signatures import address_of, sign
from p2p.discovery.addresses import PeerAddress, Surroundings, parse_address
from p2p.discovery.dialer import Dialer, DialError
from p2p.discovery.peerbook import Origin, PeerBook
from p2p.discovery.service import DiscoveryOptions
from p2p.host import open_host
from p2p.identity import Identity


@asynccontextmanager
async def node(number: int, peers_file: Path | None, bootstrap: tuple[str, ...] = ()) -> AsyncIterator[LibP2PNetwork]:
    key = PrivateKey(number.to_bytes(32))
    async with open_network(
        seed=bytes([number]) * 32,
        listen=["/ip4/127.0.0.1/tcp/0"],
        announce=[],
        bootstrap=bootstrap,
        network_id="test",
        account=address_of(key.public_key),
        sign=lambda digest: sign(key, digest),
        wall_clock=lambda: int(time.time()),
        discovery=DiscoveryOptions(peers_file=peers_file),
    ) as network:
        yield network


async def test_a_restarted_node_finds_its_network_without_its_bootstrap_list(tmp_path: Path) -> None:
    path = tmp_path / "peers.json"
    async with node(1, None) as first, node(2, None, first.addresses) as second:
        async with node(3, path, first.addresses) as third:
            with trio.fail_after(30):
                while len(third.peers()) < 2 or str(second.peer_id) not in path.read_text():
                    await trio.sleep(0.1)
            left_by_a_kill = path.read_text()
        path.write_text(left_by_a_kill)
        async with node(3, path) as again:
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
