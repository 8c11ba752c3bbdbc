"""libp2p's own Bitswap, an independent implementation, and ours give blocks to each other."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import trio
from libp2p.bitswap import BitswapClient, MemoryBlockStore

from p2p.content.bitswap.source import BitswapSource
from p2p.content.cid import Cid, Codec
from p2p.host import open_host
from p2p.identity import Identity
from tests.integration.interop.peers import LOOPBACK, ours

KIB = 1024


@asynccontextmanager
async def library_peer() -> AsyncIterator[tuple[Any, Any]]:
    async with open_host(Identity(b"\6" * 32), [LOOPBACK], []) as host, trio.open_nursery() as nursery:
        client = BitswapClient(host, MemoryBlockStore())
        client.set_nursery(nursery)
        await client.start()
        yield client, host
        await client.stop()
        nursery.cancel_scope.cancel()


async def test_the_librarys_client_gets_our_blocks(tmp_path: Path) -> None:
    async with ours(tmp_path) as node, library_peer() as (client, host):
        data = [os.urandom(size) for size in (1, 1000, 256 * KIB)]
        cids = [node.store.put(Codec.RAW, block) for block in data]
        await node.connect(str(host.get_addrs()[0]))
        with trio.fail_after(30):
            got = [await client.new_session().get_block(cid.to_bytes(), node.host.get_id()) for cid in cids]
        assert got == data
        assert node.standing.bans() == ()


async def test_we_get_the_librarys_blocks_and_are_told_what_it_lacks(tmp_path: Path) -> None:
    async with ours(tmp_path) as node, library_peer() as (client, host):
        data = [os.urandom(size) for size in (1, 1000, 256 * KIB)]
        cids = [Cid.of(Codec.RAW, block) for block in data]
        for cid, block in zip(cids, data, strict=True):
            await client.add_block(cid.to_bytes(), block)
        source = BitswapSource(node.bitswap, await node.connect(str(host.get_addrs()[0])))
        with trio.fail_after(30):
            assert [await source.get(cid, bytes_max=512 * KIB) for cid in cids] == data
            assert await source.get(Cid.of(Codec.RAW, b"absent"), bytes_max=KIB) is None
        assert node.bitswap.counters.unsolicited_blocks == 0
