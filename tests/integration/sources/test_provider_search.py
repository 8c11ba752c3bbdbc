"""A model is found by its CID alone: its holder announces it in the DHT, and a stranger fetches it over Bitswap."""

import os
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from node.models.content import ContentAdapter, ContentExchange, open_content
from node.models.ipfs_exchange import open_ipfs_exchange
from p2p.content import provider_search
from p2p.content.blockstore import BlockStore
from p2p.content.cid import Cid, Codec
from p2p.content.provider_search import ANNOUNCED_MAX, CONNECT_SECONDS_MAX, ProviderSearch, RootAnnouncer
from p2p.discovery.addresses import parse_address
from p2p.discovery.dht import DhtStatus
from p2p.discovery.peerbook import Origin
from p2p.discovery.service import DhtMode, Discovery, DiscoveryOptions
from p2p.host import open_host
from p2p.identity import Identity
from p2p.standing import Standing
from tests.integration.p2p.nodes import dht_of

LISTEN = ["/ip4/127.0.0.1/tcp/0"]
OPTIONS = DiscoveryOptions(dht=DhtMode.SERVER, relay_client=False, reachability=False, hole_punching=False)
ROOT = Cid.of(Codec.RAW, b"a model")


@dataclass
class Node:
    host: Any
    discovery: Discovery
    content: ContentAdapter

    async def join(self, other: "Node") -> None:
        address = parse_address(str(other.host.get_addrs()[0]))
        self.discovery.book.learn(address, Origin.OPERATOR)
        await self.discovery.dialer.connect(address.peer_id)

    def dht(self) -> DhtStatus:
        return dht_of(self.discovery)

    def connected(self) -> list[str]:
        return self.discovery.dialer.connected()


@asynccontextmanager
async def node(directory: Path, seed: int) -> AsyncIterator[Node]:
    standing = Standing(time.time)
    exchange = ContentExchange(standing=standing)
    async with (
        open_content(directory, host="127.0.0.1", port=0, cache_bytes_max=0, exchange=exchange) as content,
        open_host(Identity(bytes([seed]) * 32), LISTEN, [], standing=standing) as host,
        trio.open_nursery() as nursery,
    ):
        discovery = Discovery(host, LISTEN, [], OPTIONS, standing=standing)
        nursery.start_soon(discovery.run)
        async with open_ipfs_exchange(
            content, host, standing, bitswap=True, finder=discovery, connect=discovery.dialer.connect
        ):
            yield Node(host, discovery, content)
        nursery.cancel_scope.cancel()


async def test_a_pinned_model_is_found_by_its_cid_and_fetched_from_a_peer_that_was_not_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(provider_search, "LOOK_SECONDS", 0.2)
    model = tmp_path / "model"
    model.mkdir()
    (model / "weights").write_bytes(os.urandom(3_000_000))
    async with node(tmp_path / "a", 1) as holder, node(tmp_path / "b", 2) as other, node(tmp_path / "c", 3) as seeker:
        root, _ = await holder.content.import_directory(model)
        holder.content.store.pin(Cid.parse(root), "published")
        await holder.join(other)
        await seeker.join(other)
        assert str(holder.host.get_id()) not in seeker.connected()
        with trio.fail_after(60):
            while not holder.dht().announced or not seeker.dht().peers:
                await trio.sleep(0.1)
            await seeker.content.ensure_directory(root, [], tmp_path / "out")
    assert (tmp_path / "out" / "weights").read_bytes() == (model / "weights").read_bytes()


@dataclass
class Finder:
    """A DHT that says what a test wants."""

    found: Sequence[Any] = ()
    provided: list[str] = field(default_factory=list)

    async def find_providers(self, cid: str, *, wanted: int) -> Sequence[Any]:
        return self.found

    def provide(self, cid: str) -> None:
        if "broken" in cid:
            raise ValueError("no CID")
        self.provided.append(cid)

    def withdraw(self, cid: str) -> None:
        self.provided.remove(cid)


@dataclass(frozen=True)
class Found:
    peer_id: str
    addresses: tuple[Any, ...] = ()


async def test_peers_that_cannot_be_reached_in_time_are_left_out(autojump_clock: MockClock) -> None:
    async def connect(peer_id: str, _addresses: Sequence[Any]) -> None:
        if peer_id == "gone":
            raise OSError("no route")
        await trio.sleep({"quick": 0, "late": 5, "stuck": 1000}[peer_id])

    finder = Finder([Found("stuck"), Found("late"), Found("gone"), Found("quick")])
    started = trio.current_time()
    assert await ProviderSearch(finder, connect)(ROOT) == ["late", "quick"]
    assert trio.current_time() - started == pytest.approx(CONNECT_SECONDS_MAX)


def test_what_is_no_longer_pinned_is_no_longer_announced(tmp_path: Path) -> None:
    finder = Finder()
    announcer = RootAnnouncer(BlockStore(tmp_path), finder)
    announcer.announce(["one", "two", "two"])
    assert sorted(finder.provided) == ["one", "two"]
    announcer.announce(["two", "three"])
    assert sorted(finder.provided) == ["three", "two"]


def test_not_more_is_announced_than_the_network_takes(tmp_path: Path) -> None:
    finder = Finder()
    RootAnnouncer(BlockStore(tmp_path), finder).announce(str(number) for number in range(ANNOUNCED_MAX + 10))
    assert len(finder.provided) == ANNOUNCED_MAX
