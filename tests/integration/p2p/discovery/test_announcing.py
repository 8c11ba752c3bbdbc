"""What a node keeps whole is announced, and found by others together with a connection to it."""

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import trio

from node.network.announcing import CHECKED_PER_ROUND, ContentAnnouncer, connect_providers
from node.protocol.identifiers import Cid
from p2p.content.cid import Cid as BlockCid
from p2p.content.cid import Codec
from p2p.discovery.addresses import parse_address
from p2p.discovery.peerbook import Origin
from p2p.discovery.service import Discovery, DiscoveryOptions
from p2p.host import open_host
from p2p.identity import Identity

LISTEN = ["/ip4/127.0.0.1/tcp/0"]


def cid(number: int) -> Cid:
    return Cid(str(BlockCid.of(Codec.DAG_PB, number.to_bytes(4))))


@asynccontextmanager
async def open_discovery(number: int) -> AsyncIterator[tuple[Any, Discovery]]:
    async with (
        open_host(Identity(number.to_bytes(32)), LISTEN, []) as host,
        trio.open_nursery() as nursery,
    ):
        discovery = Discovery(host, LISTEN, [], DiscoveryOptions(reachability=False), clock=time.time)
        nursery.start_soon(discovery.run)
        yield host, discovery
        nursery.cancel_scope.cancel()


async def test_what_is_pinned_and_whole_is_found_by_a_stranger_who_is_then_connected() -> None:
    pins, whole = [cid(1), cid(2)], {cid(1)}

    async def is_whole(asked: Cid) -> bool:
        return asked in whole

    async with (
        open_discovery(1) as (middle_host, middle),
        open_discovery(2) as (keeper_host, keeper),
        open_discovery(3) as (_seeker_host, seeker),
    ):
        address = parse_address(str(middle_host.get_addrs()[0]))
        for each in (keeper, seeker):
            each.book.learn(address, Origin.OPERATOR)
            await each.dialer.connect(address.peer_id)
        announcer = ContentAnnouncer(keeper, lambda: pins, is_whole)
        await announcer.follow()
        with trio.fail_after(60):
            while middle.status().dht.records < 1:  # type: ignore[union-attr]
                await trio.sleep(0.1)
        keeper_id = str(keeper_host.get_id())
        assert keeper_id not in seeker.dialer.connected()
        assert await connect_providers(seeker, cid(1)) == [keeper_id]
        assert keeper_id in seeker.dialer.connected()
        assert await connect_providers(seeker, cid(2)) == []
        pins.remove(cid(1))
        whole.add(cid(2))
        await announcer.follow()
        assert keeper.status().dht.provided == 1  # type: ignore[union-attr]


async def test_trees_that_are_not_whole_do_not_keep_others_from_being_announced() -> None:
    pins = [cid(number) for number in range(3 * CHECKED_PER_ROUND)]

    async def is_whole(asked: Cid) -> bool:
        return asked == cid(0)  # the oldest: looked at last

    async with open_discovery(1) as (_host, discovery):
        announcer = ContentAnnouncer(discovery, lambda: pins, is_whole)
        for _ in range(3):
            await announcer.follow()
        assert discovery.status().dht.provided == 1  # type: ignore[union-attr]
