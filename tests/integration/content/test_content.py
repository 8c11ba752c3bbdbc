"""Content over real sockets: what arrives is what the CID names, whoever gives it, however they behave."""

import os
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from types import SimpleNamespace

import httpx
import pytest
import trio

from node.models.content import FREE_BYTES_MIN, ContentAdapter, open_content
from node.ports import BadContentError, ContentNotHeldError, ContentUnavailableError, Provider
from node.protocol.identifiers import Cid as CidText
from node.protocol.identifiers import EpochNumber
from p2p.content import blockstore
from p2p.content.blockstore import BlockStore, StoreFullError
from p2p.content.cid import Cid, Codec
from p2p.content.gateway.server import GatewayPortError
from p2p.content.gateway_source import GatewaySource
from p2p.content.retrieval.nodes import FetchFailedError, fetch_nodes
from p2p.content.retrieval.race import BlockRace
from p2p.standing import Standing

MIB = 1024 * 1024


@asynccontextmanager
async def peer(directory: Path) -> AsyncIterator[ContentAdapter]:
    async with open_content(directory, host="127.0.0.1", port=0, cache_bytes_max=0) as content:
        yield content


def provider(content: ContentAdapter) -> Provider:
    return Provider("127.0.0.1", content.port)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    directory = tmp_path / "model"
    (directory / "sub").mkdir(parents=True)
    (directory / "weights").write_bytes(os.urandom(9 * MIB + 17))
    (directory / "sub" / "small.json").write_text("{}")
    (directory / "empty").write_bytes(b"")
    return directory


@asynccontextmanager
async def server_of(answer: Callable[[str], tuple[int, bytes] | None]) -> AsyncIterator[Provider]:
    """A provider that answers as `answer` says; None stalls for ever."""

    async def handle(stream: trio.SocketStream) -> None:
        request = b""
        while b"\r\n\r\n" not in request:
            data = await stream.receive_some()
            if not data:
                return
            request += data
        reply = answer(request.split()[1].decode())
        if reply is None:
            await trio.sleep_forever()
        else:
            status, body = reply
            head = f"HTTP/1.1 {status} X\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
            await stream.send_all(head.encode() + body)

    async def forgiving(stream: trio.SocketStream) -> None:
        with suppress(trio.BrokenResourceError):
            await handle(stream)

    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, forgiving, listeners)
        yield Provider("127.0.0.1", listeners[0].socket.getsockname()[1])
        nursery.cancel_scope.cancel()


async def test_a_directory_is_fetched_from_two_peers_and_is_the_same(tmp_path: Path, model: Path) -> None:
    async with peer(tmp_path / "a") as one, peer(tmp_path / "b") as two, peer(tmp_path / "c") as three:
        cid, size = await one.import_directory(model)
        assert (await two.import_directory(model))[0] == cid
        seen: list[tuple[int, int | None]] = []
        destination = tmp_path / "out"
        await three.ensure_directory(
            cid, [provider(one), provider(two)], destination, progress=lambda *step: seen.append(step)
        )
        for path in sorted(model.rglob("*")):
            if path.is_file():
                assert (destination / path.relative_to(model)).read_bytes() == path.read_bytes()
        assert size == 9 * MIB + 17 + 2
        assert all(three.fetched_bytes[f"127.0.0.1:{content.port}"] > 0 for content in (one, two))
        assert one.served_bytes + two.served_bytes == sum(three.fetched_bytes.values())
        assert seen[-1][0] == seen[-1][1]
        assert await three.has(cid)


@pytest.mark.parametrize("host", ["a\nb", "a\rb", "a\0b", "ü", "a..b", "x" * 64, "a b"])
async def test_a_host_that_nobody_can_ask_stops_no_fetch_and_says_nothing_of_the_content(
    tmp_path: Path, host: str
) -> None:
    async with peer(tmp_path / "a") as honest, peer(tmp_path / "c") as fetcher, peer(tmp_path / "d") as other:
        cid = await honest.add_bytes(b"a vote bundle")
        nobody = Provider(host, 4802)
        with trio.fail_after(20):
            with pytest.raises(ContentUnavailableError):
                await fetcher.read_bytes(cid, [nobody], limit_bytes=MIB)
            assert await fetcher.read_bytes(cid, [nobody, provider(honest)], limit_bytes=MIB) == b"a vote bundle"
            await other.fetch_tree(cid, [nobody, provider(honest)], limit_bytes=MIB, with_leaves=True)
        assert await other.has(cid)


async def test_only_what_is_no_file_or_too_large_is_bad_content(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with peer(tmp_path / "a") as honest, peer(tmp_path / "c") as fetcher:
        directory, _ = await honest.import_directory(model)
        file = await honest.add_bytes(b"a vote bundle")
        garbage = CidText(str(honest.store.put(Codec.DAG_PB, b"\xff no node")))
        for cid, limit in ((directory, MIB), (file, 5), (garbage, MIB), (CidText("no CID"), MIB)):
            with pytest.raises(BadContentError):
                await fetcher.read_bytes(cid, [provider(honest)], limit_bytes=limit)

        def faulty(*_arguments: object) -> GatewaySource:
            raise ValueError("a fault of a source")

        unread = await honest.add_bytes(b"another bundle")
        with monkeypatch.context() as patched:
            patched.setattr(fetcher, "source", faulty)
            with pytest.raises(ContentUnavailableError, match="a fault of a source"):
                await fetcher.read_bytes(unread, [provider(honest)], limit_bytes=MIB)
        assert await fetcher.read_bytes(unread, [provider(honest)], limit_bytes=MIB) == b"another bundle"


async def test_a_liar_is_dropped_and_the_honest_peer_gives_everything(tmp_path: Path, model: Path) -> None:
    async with peer(tmp_path / "a") as honest, peer(tmp_path / "c") as fetcher:
        cid, _ = await honest.import_directory(model)
        async with server_of(lambda _path: (200, b"lies")) as liar:
            await fetcher.ensure_directory(cid, [liar, provider(honest)], tmp_path / "out")
        assert (tmp_path / "out" / "weights").read_bytes() == (model / "weights").read_bytes()
        assert f"127.0.0.1:{liar.port}" not in fetcher.fetched_bytes


async def test_a_staller_does_not_stop_the_others_and_is_blamed(tmp_path: Path, model: Path) -> None:
    async with peer(tmp_path / "a") as honest, server_of(lambda _path: None) as staller:
        cid, _ = await honest.import_directory(model)
        standing = Standing(time.time)
        sources = [GatewaySource(p.host, p.port) for p in (staller, provider(honest))]
        race = BlockRace(sources, standing=standing, block_seconds=0.5)
        store = BlockStore(tmp_path / "store")
        with trio.fail_after(20):
            await fetch_nodes(store, race, Cid.parse(cid), bytes_max=100 * MIB, with_leaves=True)
        await race.aclose()
        assert set(race.counts.fetched_bytes) == {f"127.0.0.1:{honest.port}"}
        assert "no block within" in race.counts.reasons[f"127.0.0.1:{staller.port}"]


async def test_a_broken_fetch_goes_on_where_it_stopped(tmp_path: Path, model: Path) -> None:
    async with peer(tmp_path / "a") as one, peer(tmp_path / "c") as fetcher:
        cid, _ = await one.import_directory(model)
        taken: list[int] = []

        def stop(held: int, _total: int | None) -> None:
            taken.append(held)
            if held > 4 * MIB:
                raise RuntimeError("the process dies here")

        with pytest.raises(RuntimeError):
            await fetcher.ensure_directory(cid, [provider(one)], tmp_path / "out", progress=stop)
        assert not (tmp_path / "out").exists()
        before = sum(fetcher.fetched_bytes.values())
        await fetcher.ensure_directory(cid, [provider(one)], tmp_path / "out")
        again = sum(fetcher.fetched_bytes.values()) - before
        assert before > 4 * MIB
        assert again < 6 * MIB


async def test_content_nobody_has_is_named_as_such(tmp_path: Path) -> None:
    async with peer(tmp_path / "a") as one, peer(tmp_path / "b") as two:
        absent = await one.add_bytes(b"only here")
        async with server_of(lambda _path: (404, b"")) as empty:
            with pytest.raises(ContentUnavailableError, match="missing"):
                await two.read_bytes(absent, [empty], limit_bytes=100)
        with pytest.raises(ContentUnavailableError, match="nobody has it"):
            await two.read_bytes(absent, [], limit_bytes=100)
        assert await two.read_bytes(absent, [provider(one)], limit_bytes=9) == b"only here"


@pytest.mark.parametrize(("pinned_mib", "files"), [(60, 1), (46, 4), (61, 4)])
async def test_a_fetch_for_which_the_store_has_no_room_blames_nobody_else(
    tmp_path: Path, pinned_mib: int, files: int
) -> None:
    """It does not evict what it fetched itself, nor what others fetch beside it, until its rounds are over."""
    limit = 64 * MIB
    giving = open_content(tmp_path / "a", host="127.0.0.1", port=0, cache_bytes_max=0)
    taking = open_content(tmp_path / "b", host="127.0.0.1", port=0, cache_bytes_max=limit)
    outcomes: list[str] = []
    async with giving as one, taking as two:
        await two.keep(await two.add_bytes(os.urandom(pinned_mib * MIB)), EpochNumber(9))
        cids = [await one.add_bytes(os.urandom(8 * MIB)) for _ in range(files)]

        async def fetch(cid: CidText) -> None:
            try:
                outcomes.append(f"{len(await two.read_bytes(cid, [provider(one)], limit_bytes=8 * MIB))} bytes")
            except ContentUnavailableError as error:
                outcomes.append(type(error).__name__)

        async with trio.open_nursery() as nursery:
            for cid in cids:
                nursery.start_soon(fetch, cid)
        assert len(outcomes) == files
        if pinned_mib + 9 > 64:
            assert set(outcomes) == {"ContentNotHeldError"}
        else:  # what failed makes room, and one alone has enough of it
            assert set(outcomes) <= {f"{8 * MIB} bytes", "ContentNotHeldError"}
            assert len(await two.read_bytes(cids[0], [provider(one)], limit_bytes=8 * MIB)) == 8 * MIB


async def test_a_fetch_for_which_the_disk_has_no_room_blames_nobody_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    room = 60 * MIB

    def disk_usage(path: Path) -> SimpleNamespace:
        used = sum(file.stat().st_size for file in (tmp_path / "b").glob("??/*"))
        return SimpleNamespace(free=FREE_BYTES_MIN + (room - used if path == tmp_path / "b" else room))

    monkeypatch.setattr(blockstore, "shutil", SimpleNamespace(disk_usage=disk_usage))
    async with peer(tmp_path / "a") as one, peer(tmp_path / "b") as two:
        await two.keep(await two.add_bytes(os.urandom(50 * MIB)), EpochNumber(9))
        small, large = [await one.add_bytes(os.urandom(size * MIB)) for size in (6, 14)]
        assert len(await two.read_bytes(small, [provider(one)], limit_bytes=6 * MIB)) == 6 * MIB
        with pytest.raises(ContentNotHeldError, match="cannot be stored here"):
            await two.read_bytes(large, [provider(one)], limit_bytes=14 * MIB)


async def test_content_over_the_limit_is_refused(tmp_path: Path) -> None:
    async with peer(tmp_path / "a") as one, peer(tmp_path / "b") as two:
        cid = await one.add_bytes(bytes(3 * MIB))
        with pytest.raises(ValueError, match="limit"):
            await two.read_bytes(cid, [provider(one)], limit_bytes=MIB)


async def test_what_is_kept_stays_through_its_epoch_and_goes_after_it(tmp_path: Path) -> None:
    async with peer(tmp_path / "a") as one, peer(tmp_path / "b") as two:
        proof = await one.add_bytes(os.urandom(2 * MIB))
        other = await one.add_bytes(b"an answer")
        await one.keep(proof, EpochNumber(7))
        absent = CidText("bafkreifzjut3te7nhyekklss27nh3k72ysco7y32koao5eei66wof36n5e")
        await one.keep(absent, EpochNumber(7))
        await two.read_bytes(proof, [provider(one)], limit_bytes=3 * MIB)
        await two.read_bytes(other, [provider(one)], limit_bytes=100)
        await two.keep(other, EpochNumber(8))
        await one.forget(EpochNumber(7), [proof, other])
        assert await one.has(proof)
        assert await one.has(other)  # made here, for something else
        named = [CidText("not a CID"), proof, other]
        await two.forget(EpochNumber(8), named)
        assert not await two.has(proof)  # no verdict rests on it any more
        assert await two.has(other)
        await one.forget(EpochNumber(8), [])
        assert not await one.has(proof)
        assert one.store.pins() == ()
        assert one.store.usage().block_bytes == len(b"an answer")


async def test_a_full_disk_says_nothing_of_the_content_and_it_comes_when_there_is_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_store: BlockStore, _needed: int) -> None:
        raise StoreFullError("the disk is full")

    async with peer(tmp_path / "a") as one, peer(tmp_path / "b") as two:
        for size in (100, 3 * MIB):
            cid = await one.add_bytes(os.urandom(size))
            with monkeypatch.context() as patched:
                patched.setattr(BlockStore, "_make_room", full)
                with pytest.raises(ContentNotHeldError, match="the disk is full"):
                    await two.read_bytes(cid, [provider(one)], limit_bytes=4 * MIB)
                with pytest.raises(StoreFullError):
                    await two.add_bytes(b"a proof")
            assert len(await two.read_bytes(cid, [provider(one)], limit_bytes=4 * MIB)) == size


async def test_a_block_damaged_on_disk_is_fetched_again(tmp_path: Path) -> None:
    async with peer(tmp_path / "a") as one, peer(tmp_path / "b") as two:
        cid = await one.add_bytes(b"precious")
        assert await two.read_bytes(cid, [provider(one)], limit_bytes=100) == b"precious"
        (block,) = (tmp_path / "b").glob("??/*")
        block.write_bytes(b"rotten")
        assert await two.read_bytes(cid, [provider(one)], limit_bytes=100) == b"precious"


async def test_a_peer_never_gives_a_damaged_block(tmp_path: Path) -> None:
    async with peer(tmp_path / "a") as one, httpx.AsyncClient() as client:
        cid = await one.add_bytes(b"precious")
        (block,) = (tmp_path / "a").glob("??/*")
        block.write_bytes(b"rotten")
        reply = await client.get(f"http://127.0.0.1:{one.port}/ipfs/{cid}?format=raw")
        assert reply.status_code == 404


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/ipfs/nonsense?format=raw", 400),
        ("GET", "/ipfs/bafkreigh2akiscaildcqabsyg3dfr6chu3fgpregiymsck7e7aqa4s52zy?format=raw", 404),
        ("GET", "/ipfs/bafkreigh2akiscaildcqabsyg3dfr6chu3fgpregiymsck7e7aqa4s52zy", 400),
        ("GET", "/../etc/passwd", 404),
        ("DELETE", "/ipfs/x", 405),
    ],
)
async def test_what_the_gateway_does_not_give(tmp_path: Path, method: str, path: str, status: int) -> None:
    async with peer(tmp_path / "a") as one, httpx.AsyncClient() as client:
        reply = await client.request(method, f"http://127.0.0.1:{one.port}{path}")
        assert reply.status_code == status


async def test_nonsense_on_the_gateways_port_ends_that_connection_only(tmp_path: Path) -> None:
    async with peer(tmp_path / "a") as one, httpx.AsyncClient() as client:
        for nonsense in (b"\x00\xff" * 20_000, b"GET / HTTP/1.1\r\n\r\n", b"GET /" + b"a" * 20_000):
            stream = await trio.open_tcp_stream("127.0.0.1", one.port)
            async with stream:
                try:
                    await stream.send_all(nonsense)
                    with trio.fail_after(5):
                        while await stream.receive_some():
                            pass
                except trio.BrokenResourceError:
                    pass
        cid = await one.add_bytes(b"fine")
        reply = await client.get(f"http://127.0.0.1:{one.port}/ipfs/{cid}?format=raw")
        assert reply.content == b"fine"


async def test_a_port_in_use_is_named(tmp_path: Path) -> None:
    async with peer(tmp_path / "a") as one:
        with pytest.raises(GatewayPortError, match="in use"):
            async with open_content(tmp_path / "b", host="127.0.0.1", port=one.port, cache_bytes_max=0):
                pass


async def test_a_fetch_without_sources_fails_at_once(tmp_path: Path) -> None:
    absent = Cid.parse("bafkreigh2akiscaildcqabsyg3dfr6chu3fgpregiymsck7e7aqa4s52zy")
    with pytest.raises(FetchFailedError):
        await fetch_nodes(BlockStore(tmp_path), BlockRace(()), absent, bytes_max=100, with_leaves=True)
