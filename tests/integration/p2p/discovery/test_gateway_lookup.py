"""A content that is known by its CID only is found in the DHT and comes from its holder's gateway, not over libp2p."""

import os
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import trio

from node.models.content import ContentAdapter, open_content
from node.models.ipfs_exchange import open_ipfs_exchange
from node.network.adapter import LibP2PNetwork
from node.network.gateway_lookup import GatewayLookup, read_port
from p2p.content import provider_search
from p2p.content.cid import Cid
from p2p.content.source import BlockSource
from p2p.discovery.service import DiscoveryOptions
from p2p.standing import Standing
from tests.integration.p2p.nodes import dht_of, open_node
from tests.waiting import until


@dataclass
class Node:
    network: LibP2PNetwork
    content: ContentAdapter


@asynccontextmanager
async def node(directory: Path, number: int, bootstrap: tuple[str, ...] = ()) -> AsyncIterator[Node]:
    standing = Standing(time.time)
    async with (
        open_content(directory, host="127.0.0.1", port=0, cache_bytes_max=0) as content,
        open_node(
            number,
            bootstrap,
            standing=standing,
            discovery=DiscoveryOptions(reachability=False, relay_client=False),
        ) as network,
    ):
        lookup = GatewayLookup(network, content.port)

        async def find_gateways(peers: Sequence[str]) -> list[BlockSource]:
            return [content.source(provider) for provider in await lookup.find(peers)]

        async with open_ipfs_exchange(
            content,
            network.host,
            standing,
            bitswap=True,
            finder=network.discovery,
            connect=network.discovery.dialer.connect,
            find_gateways=find_gateways,
        ):
            yield Node(network, content)


async def test_a_model_known_by_its_cid_alone_comes_from_the_holders_gateway(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(provider_search, "LOOK_SECONDS", 0.2)
    model = tmp_path / "model"
    model.mkdir()
    (model / "weights").write_bytes(os.urandom(5_000_000))
    async with node(tmp_path / "a", 1) as holder, node(tmp_path / "b", 2, holder.network.addresses) as seeker:
        root, _ = await holder.content.import_directory(model)
        holder.content.store.pin(Cid.parse(root), "published")
        with trio.fail_after(60):
            await until(lambda: dht_of(seeker.network.discovery).records, 60)
            await seeker.content.ensure_directory(root, [], tmp_path / "fetched")
        assert (tmp_path / "fetched" / "weights").read_bytes() == (model / "weights").read_bytes()
        gateway = f"127.0.0.1:{holder.content.port}"
        assert seeker.content.fetched_bytes[gateway] >= 5_000_000
        assert seeker.content.fetched_bytes.total() == seeker.content.fetched_bytes[gateway]


async def test_a_peer_that_does_not_know_the_method_is_passed_over(tmp_path: Path) -> None:
    async with node(tmp_path / "a", 1) as one, open_node(2, one.network.addresses) as other:
        lookup = GatewayLookup(other, 0)
        with trio.fail_after(30):
            await until(other.peers, 30)
            assert await lookup.find([one.network.peer_id, "12D3KooWGRUVh7FcjoRbUKBdTvRFDxDHDkJXaJ1gMBoRyGWHAJhV"])


@pytest.mark.parametrize("data", [b"", b"x", b"-1", b"0", b"65536", b"000000", b"1\n", "٤".encode()])
def test_what_is_no_port_is_none(data: bytes) -> None:
    assert read_port(data) == 0


def test_a_port_is_read() -> None:
    assert read_port(b"4802") == 4802
