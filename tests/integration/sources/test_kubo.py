"""Kubo's RPC, driven by the real ipfshttpclient against a stand-in: blocks in, blocks out, trouble told."""

import os
from pathlib import Path

import pytest
import trio

from p2p.content.blockstore import BlockStore
from p2p.content.cid import Cid, Codec
from p2p.content.kubo import Kubo, KuboError, KuboSource
from p2p.content.source import Rank, SourceFailedError
from p2p.content.unixfs_import import import_path
from tests.integration.sources.kubo_stand_in import KuboStandIn, kubo_stand_in
from tests.integration.sources.servers import Reply, server_of

MIB = 1024 * 1024


async def test_a_model_is_published_to_kubo_and_read_back_block_by_block(tmp_path: Path) -> None:
    model = tmp_path / "model"
    (model / "sub").mkdir(parents=True)
    (model / "weights").write_bytes(os.urandom(3 * MIB + 17))
    (model / "sub" / "copy").write_bytes((model / "weights").read_bytes())
    store = BlockStore(tmp_path / "store")
    root = import_path(model, store.put).cid
    stand_in = KuboStandIn()
    async with kubo_stand_in(stand_in) as address:
        kubo = Kubo(address)
        assert await kubo.version() == "0.32.1"
        sizes: list[int] = []
        count = await kubo.publish(root, store.read, sizes.append)
        assert stand_in.pins == [str(root)]
        assert count == len(stand_in.blocks) == len(sizes)
        assert sum(sizes) < 4 * MIB
        source = KuboSource(kubo)
        assert source.rank is Rank.KUBO
        for name, data in stand_in.blocks.items():
            assert Cid.parse(name).matches(data)
            assert await source.get(Cid.parse(name), bytes_max=2 * MIB) == data
        assert await source.get(Cid.of(Codec.RAW, b"absent"), bytes_max=MIB) is None
        with pytest.raises(SourceFailedError, match="more than 10 bytes"):
            await source.get(root, bytes_max=10)
        kubo.close()


async def test_a_kubo_that_names_blocks_otherwise_is_told_apart() -> None:
    async with kubo_stand_in(KuboStandIn(old=True)) as address:
        kubo = Kubo(address)
        with pytest.raises(KuboError, match="too old"):
            await kubo.put(Cid.of(Codec.RAW, b"data"), b"data")
        kubo.close()


async def test_nothing_is_pinned_unless_everything_is_there() -> None:
    stand_in = KuboStandIn()
    async with kubo_stand_in(stand_in) as address:
        kubo = Kubo(address)

        def broken(_cid: Cid) -> bytes:
            raise OSError("the disk fails")

        with pytest.raises(OSError, match="disk"):
            await kubo.publish(Cid.of(Codec.RAW, b"data"), broken)
        assert stand_in.pins == []
        with pytest.raises(KuboError, match="could not find"):
            await kubo.pin(Cid.of(Codec.RAW, b"data"))
        kubo.close()


@pytest.mark.parametrize("reply", [Reply(404), Reply(200, b"<html>"), Reply(200, b"{}"), Reply(302, b"")])
async def test_what_is_not_kubo_is_named_as_such(reply: Reply) -> None:
    async with server_of(lambda _request: reply) as port:
        kubo = Kubo(f"/ip4/127.0.0.1/tcp/{port}")
        with pytest.raises(KuboError, match="Kubo"):
            await kubo.version()
        kubo.close()


async def test_a_kubo_that_is_not_there_fails_its_source_and_says_where() -> None:
    async with server_of(lambda _request: Reply()) as port:
        pass
    kubo = Kubo(f"/ip4/127.0.0.1/tcp/{port}")
    with trio.fail_after(20), pytest.raises(SourceFailedError, match=rf"tcp/{port} cannot be used"):
        await KuboSource(kubo).get(Cid.of(Codec.RAW, b"data"), bytes_max=MIB)
    kubo.close()


async def test_a_call_that_is_given_up_does_not_wait_for_kubo() -> None:
    async with server_of(lambda _request: Reply(stall=True, headers={"Content-Length": "10"})) as port:
        kubo = Kubo(f"/ip4/127.0.0.1/tcp/{port}")
        with trio.fail_after(20):
            with trio.move_on_after(0.5) as patience:
                await kubo.get(Cid.of(Codec.RAW, b"data"), bytes_max=MIB)
            assert patience.cancelled_caught


def test_an_address_that_is_none_is_refused() -> None:
    with pytest.raises(KuboError, match="kubo_api"):
        Kubo("nonsense")
