"""What daemons' gateways lack comes from the rest of IPFS: from a Bitswap peer, Kubo, a public gateway, by rank."""

import os
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

from node.models.content import ContentAdapter
from node.models.ipfs_exchange import IpfsExchange
from node.ports import ContentUnavailableError, Provider
from p2p.content.bitswap.source import BitswapSource
from p2p.content.blockstore import BlockStore
from p2p.content.cid import Cid
from p2p.content.source import Rank
from p2p.content.unixfs_import import import_path
from tests.integration.interop.peers import daemon_content, ours
from tests.integration.sources.kubo_stand_in import KuboStandIn, kubo_stand_in
from tests.integration.sources.servers import Reply, server_of
from tests.integration.sources.test_provider_search import Finder, Found

MIB = 1024 * 1024


@pytest.fixture
def model(tmp_path: Path) -> Path:
    directory = tmp_path / "model"
    (directory / "sub").mkdir(parents=True)
    (directory / "weights").write_bytes(os.urandom(5 * MIB + 17))
    (directory / "sub" / "small.json").write_text("{}")
    return directory


def same(one: Path, other: Path) -> bool:
    return contents(one) == contents(other)


def contents(directory: Path) -> dict[str, bytes]:
    return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


@asynccontextmanager
async def daemon(
    directory: Path, seed: int = 9, **options: Any
) -> AsyncIterator[tuple[ContentAdapter, IpfsExchange, Any]]:
    async with daemon_content(directory, seed, **options) as opened:
        yield opened.content, opened.exchange, opened.host


async def test_a_model_that_no_gateway_has_comes_from_a_bitswap_peer(tmp_path: Path, model: Path) -> None:
    async with ours(tmp_path / "peer") as peer, daemon(tmp_path / "ours") as (content, exchange, host):
        root = import_path(model, peer.store.put).cid
        await peer.connect(str(host.get_addrs()[0]))
        assert exchange.bitswap is not None
        with trio.fail_after(30):
            while not exchange.bitswap.speakers():  # what a peer speaks is known after it said so
                await trio.sleep(0.05)
            await content.ensure_directory(str(root), [], tmp_path / "out")
        assert same(tmp_path / "out", model)
        assert content.fetched_bytes[peer.peer_id] > 5 * MIB


async def test_a_peer_that_the_search_found_is_asked_first_and_a_failed_search_is_survived(
    tmp_path: Path, model: Path
) -> None:
    async with ours(tmp_path / "peer") as peer:
        root = import_path(model, peer.store.put).cid

        async def connect(peer_id: str, addresses: Sequence[Any]) -> None:
            assert (peer_id, addresses) == (peer.peer_id, ("an address",))
            await peer.connect(str(host.get_addrs()[0]))

        finder = Finder([Found(peer.peer_id, ("an address",))])
        async with daemon(tmp_path / "ours", finder=finder, connect=connect) as (content, _, host):
            with trio.fail_after(30):
                await content.ensure_directory(str(root), [], tmp_path / "out")
            assert same(tmp_path / "out", model)

    async def fail(_peer_id: str, _addresses: Sequence[Any]) -> None:
        raise RuntimeError("no network")

    async with daemon(tmp_path / "other", finder=finder, connect=fail) as (content, _, _):
        with trio.fail_after(30), pytest.raises(ContentUnavailableError):
            await content.ensure_directory(str(root), [], tmp_path / "nothing")


async def test_kubo_and_web_gateways_are_asked_for_what_nobody_else_has(tmp_path: Path, model: Path) -> None:
    stand_in = KuboStandIn()
    store = BlockStore(tmp_path / "store")
    root = import_path(model, store.put).cid
    asked: list[str] = []

    def web(request: Any) -> Reply:
        asked.append(request.path)
        cid = Cid.parse(request.path.removeprefix("/ipfs/"))
        return Reply(body=store.read(cid)) if store.has(cid) else Reply(404)

    async with kubo_stand_in(stand_in) as kubo_api, server_of(web) as port:
        gateways = [f"http://127.0.0.1:{port}"]
        async with daemon(tmp_path / "ours", kubo_api=kubo_api, web_gateways=gateways) as (content, exchange, _):
            with trio.fail_after(30):
                await content.ensure_directory(str(root), [], tmp_path / "from web")
            assert same(tmp_path / "from web", model)
            assert len(asked) > 5
            assert exchange.kubo is not None
            await exchange.kubo.publish(root, store.read)
        asked.clear()
        async with daemon(tmp_path / "second", kubo_api=kubo_api, web_gateways=gateways) as (content, _, _):
            with trio.fail_after(30):
                await content.ensure_directory(str(root), [], tmp_path / "from kubo")
            assert same(tmp_path / "from kubo", model)
        assert asked == []


async def test_daemons_gateways_come_first(tmp_path: Path, model: Path) -> None:
    asked: list[str] = []

    def web(request: Any) -> Reply:
        asked.append(request.path)
        return Reply(404)

    async with daemon(tmp_path / "giver", 8) as (giver, _, _), server_of(web) as port:
        root, _ = await giver.import_directory(model)
        async with daemon(tmp_path / "ours", web_gateways=[f"http://127.0.0.1:{port}"]) as (content, _, _):
            with trio.fail_after(30):
                await content.ensure_directory(root, [Provider("127.0.0.1", giver.port)], tmp_path / "out")
    assert same(tmp_path / "out", model)
    assert asked == []
    assert Rank.GATEWAY < Rank.BITSWAP < Rank.KUBO < Rank.WEB


async def test_a_daemon_whose_gateway_asks_for_a_token_gives_nothing_over_bitswap(tmp_path: Path) -> None:
    async with ours(tmp_path / "peer") as peer, daemon(tmp_path / "ours", token="secret") as (content, _, host):
        cid = Cid.parse(await content.add_bytes(b"for those we know"))
        source = BitswapSource(peer.bitswap, await peer.connect(str(host.get_addrs()[0])))
        with trio.fail_after(10):
            assert await source.get(cid, bytes_max=MIB) is None


async def test_without_bitswap_and_with_a_kubo_address_that_is_none_the_daemon_still_runs(tmp_path: Path) -> None:
    async with daemon(tmp_path / "ours", bitswap=False, kubo_api="nonsense") as (content, exchange, _):
        assert exchange == IpfsExchange(None, None)
        cid = await content.add_bytes(b"data")
        assert await content.read_bytes(cid, [], limit_bytes=100) == b"data"
