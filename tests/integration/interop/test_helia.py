"""Helia, the JavaScript IPFS node, and ours exchange models: same bytes, same root CID, over Bitswap and HTTP."""

import os
from pathlib import Path

import pytest
import trio

from p2p.content.bitswap.source import BitswapSource
from p2p.content.blockstore import BlockStore
from p2p.content.cid import Cid, Codec
from p2p.content.gateway.server import serve_blocks
from p2p.content.unixfs_import import import_path
from tests.integration.interop.peers import SECONDS_MAX, Lines, answer_of, daemon_content, ours, script

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
    (directory / "sub" / "ünusual näme 🦙, with spaces").write_bytes(b"")
    return directory


def same(one: Path, other: Path) -> bool:
    """Whether two directories hold the same files."""
    return contents(one) == contents(other)


def contents(directory: Path) -> dict[str, bytes]:
    return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


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
    async with daemon_content(tmp_path / "store") as node, script("helia.mjs", "serve", str(model)) as helia:
        with trio.fail_after(SECONDS_MAX):
            told = await Lines(helia).next()
            peer_id = await node.connect(told["address"])
            bitswap = node.exchange.bitswap
            assert bitswap is not None
            while not bitswap.speakers():  # what a peer speaks is known after it said so
                await trio.sleep(0.05)
            await node.content.ensure_directory(told["root"], [], tmp_path / "out")
        assert same(tmp_path / "out", model)
        assert (await node.content.import_directory(model))[0] == told["root"]
        assert node.content.fetched_bytes[peer_id] > 20 * MIB
        assert bitswap.counters.unsolicited_blocks == 0
        assert node.standing.bans() == ()


async def test_helia_is_told_that_we_lack_a_block_and_tells_us(tmp_path: Path, model: Path) -> None:
    async with ours(tmp_path / "store") as node, script("helia.mjs", "serve", str(model)) as helia:
        with trio.fail_after(SECONDS_MAX):
            told = await Lines(helia).next()
            source = BitswapSource(node.bitswap, await node.connect(told["address"]))
            assert await source.get(Cid.of(Codec.RAW, b"nobody has this"), bytes_max=MIB) is None
            assert await source.get(Cid.parse(told["root"]), bytes_max=MIB) is not None
