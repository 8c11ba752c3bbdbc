"""Our DHT and our relay with js-libp2p: each finds what the other provides, and is reached through our relay."""

import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import trio

from p2p.content.cid import Cid, Codec
from p2p.discovery.addresses import parse_address
from p2p.discovery.connections import has_direct_connection
from p2p.discovery.peerbook import Origin
from p2p.discovery.service import DhtMode, Discovery, DiscoveryOptions
from p2p.host import open_host
from p2p.identity import Identity
from tests.integration.interop.peers import LOOPBACK, Lines, script
from tests.integration.p2p.nodes import dht_of
from tests.waiting import until

PROTOCOL = "/quern/interop/kad/1.0.0"
OURS = str(Cid.of(Codec.DAG_PB, b"a model of ours"))
THEIRS = str(Cid.of(Codec.DAG_PB, b"a model of theirs"))


class Peer:
    """A js-libp2p node and what it was told to do."""

    def __init__(self, process: trio.Process) -> None:
        self._process = process
        self._lines = Lines(process)
        self.id = ""
        self.address = ""

    async def greet(self) -> None:
        greeting = await self._lines.next()
        self.id, self.address = greeting["id"], greeting["address"]

    async def do(self, **command: str) -> dict[str, Any]:
        assert self._process.stdin is not None
        await self._process.stdin.send_all(json.dumps(command).encode() + b"\n")
        return await self._lines.next()


@asynccontextmanager
async def js_peer(address: str) -> AsyncIterator[Peer]:
    async with script("discovery.mjs", address, PROTOCOL) as process:
        peer = Peer(process)
        with trio.fail_after(30):
            await peer.greet()
        yield peer


@asynccontextmanager
async def open_discovery(
    number: int, *, relay: bool = False, dht: DhtMode = DhtMode.AUTO
) -> AsyncIterator[tuple[Any, Discovery]]:
    options = DiscoveryOptions(dht=dht, dht_protocol=PROTOCOL, relay_server=relay, reachability=False)
    async with (
        open_host(Identity(number.to_bytes(32)), [LOOPBACK], []) as host,
        trio.open_nursery() as nursery,
    ):
        discovery = Discovery(host, [LOOPBACK], [], options, clock=time.time)
        nursery.start_soon(discovery.run)
        yield host, discovery
        nursery.cancel_scope.cancel()


async def test_the_dht_of_js_libp2p_and_ours_find_what_the_other_provides() -> None:
    async with open_discovery(1) as (host, discovery), js_peer(str(host.get_addrs()[0])) as theirs:
        with trio.fail_after(60):
            await until(lambda: dht_of(discovery).peers, 60)
            discovery.provide(OURS)
            await until(lambda: dht_of(discovery).announced, 60)
            assert (await theirs.do(find=OURS)) == {"found": [str(host.get_id())]}
            assert (await theirs.do(provide=THEIRS)) == {"provided": True}
            while not (found := await discovery.find_providers(THEIRS)):
                await trio.sleep(0.1)
        assert [each.peer_id for each in found] == [theirs.id]
        assert theirs.address in map(str, found[0].addresses)


async def test_js_libp2p_is_reached_and_reaches_others_through_our_relay() -> None:
    """Without our DHT, by which the two would find and dial each other directly."""
    off = DhtMode.OFF
    async with (
        open_discovery(1, relay=True, dht=off) as (relay_host, _relay),
        open_discovery(2, dht=off) as (hidden_host, hidden),
        js_peer(str(relay_host.get_addrs()[0])) as theirs,
    ):
        relay = parse_address(str(relay_host.get_addrs()[0]))
        hidden.book.learn(relay, Origin.OPERATOR)
        with trio.fail_after(60):
            await hidden.dialer.connect(relay.peer_id)
            reserved = await theirs.do(reserve=str(relay))
            assert any(relay.peer_id in address for address in reserved["reserved"])
            hidden.book.learn(replace(relay, peer_id=theirs.id, relay=relay.peer_id), Origin.TOLD, "somebody")
            await hidden.dialer.connect(theirs.id)
            assert not has_direct_connection(hidden_host, theirs.id)
    async with (
        open_discovery(1, relay=True, dht=off) as (relay_host, _relay),
        open_discovery(3, dht=off) as (other_host, other),
        js_peer(str(relay_host.get_addrs()[0])) as theirs,
    ):
        relay = parse_address(str(relay_host.get_addrs()[0]))
        other.book.learn(relay, Origin.OPERATOR)
        with trio.fail_after(60):
            await other.dialer.connect(relay.peer_id)
            while not (places := other.status().relay_places):
                await trio.sleep(0.1)
            assert places == (relay.peer_id,)
            own = str(other_host.get_id())
            answer = await theirs.do(dial=f"{relay}/p2p-circuit/p2p/{own}")
        assert answer == {"connected": own, "limited": True}
