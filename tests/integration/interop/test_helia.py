"""Helia, the JavaScript IPFS node, and ours exchange models: same bytes, same root CID, over Bitswap and HTTP."""

import os
from pathlib import Path

import pytest
import trio

from p2p.content.bitswap.source import BitswapSource
from p2p.content.blockstore import BlockStore
from p2p.content.cid import Cid, Codec
from p2p.content.dagpb import decode_node
from p2p.content.gateway.server import serve_blocks
from p2p.content.source import BlockSource
from p2p.content.unixfs_export import export
from p2p.content.unixfs_import import import_path
from tests.integration.interop.peers import Lines, answer_of, ours, script

pytestmark = pytest.mark.interop

MIB = 1024 * 1024
LIMIT_BYTES = 64 * MIB


@pytest.fixture
def model(tmp_path: Path) -> Path:
    directory = tmp_path / "model"
    (directory / "sub").mkdir(parents=True)
    (directory / "weights").write_bytes(os.urandom(20 * MIB + 17))
    (directory / "sub" / "small.json").write_text("{}")
    (directory / "empty").write_bytes(b"")
    return directory


def same(one: Path, other: Path) -> bool:
    """Whether two directories hold the same files."""
    return contents(one) == contents(other)


def contents(directory: Path) -> dict[str, bytes]:
    return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


async def fetch_tree(source: BlockSource, root: Cid, store: BlockStore) -> None:
    """Fetch everything below `root` with as many requests at once as the source wants."""
    level = [root]
    while level:
        pending, children = list(level), []

        async def work(pending: list[Cid], children: list[Cid]) -> None:
            while pending:
                cid = pending.pop()
                data = await source.get(cid, bytes_max=2 * MIB)
                assert data is not None
                assert cid.matches(bytes(data))
                store.put_verified(cid, bytes(data))
                if cid.codec is Codec.DAG_PB:
                    children += [link.cid for link in decode_node(bytes(data)).links]

        async with trio.open_nursery() as nursery:
            for _ in range(source.window):
                nursery.start_soon(work, pending, children)
        level = children


async def test_helia_reads_a_model_directory_from_us_over_bitswap(tmp_path: Path, model: Path) -> None:
    async with ours(tmp_path / "store") as node:
        root = import_path(model, node.store.put).cid
        answer = await answer_of("helia.mjs", "fetch", "bitswap", node.address, str(root), str(tmp_path / "out"))
        assert same(tmp_path / "out", model)
        assert answer["bytes"] == 20 * MIB + 17 + 2
        assert node.bitswap.counters.given_bytes >= answer["bytes"]
        assert node.standing.bans() == ()


async def test_helia_reads_a_model_directory_from_our_trustless_gateway(tmp_path: Path, model: Path) -> None:
    store = BlockStore(tmp_path / "store")
    root = import_path(model, store.put).cid
    async with serve_blocks(store, host="127.0.0.1", port=0) as (_, port):
        url = f"http://127.0.0.1:{port}"
        await answer_of("helia.mjs", "fetch", "gateway", url, str(root), str(tmp_path / "out"))
    assert same(tmp_path / "out", model)


async def test_we_read_a_model_directory_from_helia_and_its_root_is_the_one_we_give_it(
    tmp_path: Path, model: Path
) -> None:
    async with ours(tmp_path / "store") as node, script("helia.mjs", "serve", str(model)) as helia:
        with trio.fail_after(30):
            told = await Lines(helia).next()
            peer_id = await node.connect(told["address"])
            root = Cid.parse(told["root"])
            await fetch_tree(BitswapSource(node.bitswap, peer_id), root, node.store)
        export(root, node.store.read, tmp_path / "out", limit_bytes=LIMIT_BYTES)
        assert same(tmp_path / "out", model)
        assert import_path(model, BlockStore(tmp_path / "other").put).cid == root
        assert node.bitswap.counters.unsolicited_blocks == 0
        assert node.standing.bans() == ()


async def test_helia_is_told_that_we_lack_a_block_and_tells_us(tmp_path: Path, model: Path) -> None:
    async with ours(tmp_path / "store") as node, script("helia.mjs", "serve", str(model)) as helia:
        with trio.fail_after(30):
            told = await Lines(helia).next()
            source = BitswapSource(node.bitswap, await node.connect(told["address"]))
            assert await source.get(Cid.of(Codec.RAW, b"nobody has this"), bytes_max=MIB) is None
            assert await source.get(Cid.parse(told["root"]), bytes_max=MIB) is not None
