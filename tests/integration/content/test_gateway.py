"""The gateway over real sockets: what it gives, in which form, to whom, and for how long."""

import hashlib
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest
import trio

from node.models.content import ContentAdapter, ContentExchange, open_content
from p2p.content.cid import Cid, Codec
from p2p.content.gateway.admission import GatewayLimits
from p2p.content.tree import TreeReader
from p2p.content.unixfs import DirectoryNode

MIB = 1024 * 1024


@asynccontextmanager
async def gateway(directory: Path, exchange: ContentExchange | None = None) -> AsyncIterator[ContentAdapter]:
    async with open_content(directory, host="127.0.0.1", port=0, cache_bytes_max=0, exchange=exchange) as content:
        yield content


@asynccontextmanager
async def client_of(content: ContentAdapter) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{content.port}", trust_env=False) as client:
        yield client


@pytest.fixture
def model(tmp_path: Path) -> Path:
    directory = tmp_path / "model"
    (directory / "sub").mkdir(parents=True)
    (directory / "weights").write_bytes(os.urandom(5 * MIB + 17))
    (directory / "sub" / "small.json").write_text("{}")
    return directory


def entries_of(content: ContentAdapter, cid: str) -> dict[str, Cid]:
    reader = TreeReader(content.store.read, 0)
    node = reader.node(Cid.parse(cid))
    assert isinstance(node, DirectoryNode)
    return {entry.name: entry.cid for entry in reader.entries(node)}


def read_varint(data: bytes, position: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            return value, position


def car_blocks(data: bytes) -> Iterator[tuple[Cid, bytes]]:
    """Yield the verified blocks of a CAR, read by the specification and not by our writer."""
    size, position = read_varint(data, 0)
    header = data[position : position + size]
    assert header.startswith(b"\xa2\x65roots\x81\xd8\x2a\x58\x25\x00\x01")
    assert header.endswith(b"\x67version\x01")
    position += size
    while position < len(data):
        size, position = read_varint(data, position)
        cid = Cid.from_bytes(data[position : position + 36])
        block = data[position + 36 : position + size]
        assert cid.matches(block)
        yield cid, block
        position += size


async def test_a_raw_block_comes_with_what_http_wants_of_it(tmp_path: Path, model: Path) -> None:
    async with gateway(tmp_path / "a") as content, client_of(content) as client:
        cid, _ = await content.import_directory(model, in_place=True)
        weights = entries_of(content, cid)["weights"]
        reply = await client.get(f"/ipfs/{weights}?format=raw")
        assert reply.status_code == 200
        assert weights.matches(reply.content)
        assert reply.headers["content-type"] == "application/vnd.ipld.raw"
        assert "immutable" in reply.headers["cache-control"]
        assert reply.headers["x-content-type-options"] == "nosniff"
        etag = reply.headers["etag"]
        for known in (etag, f'"other", W/{etag}', "*"):
            again = await client.get(f"/ipfs/{weights}?format=raw", headers={"If-None-Match": known})
            assert (again.status_code, again.content) == (304, b"")
        by_header = await client.get(f"/ipfs/{weights}", headers={"Accept": "application/vnd.ipld.raw"})
        assert by_header.content == reply.content
        size_only = await client.head(f"/ipfs/{weights}?format=raw")
        assert (size_only.headers["content-length"], size_only.content) == (str(len(reply.content)), b"")


async def test_ranges_of_leaves_and_of_small_blocks(tmp_path: Path, model: Path) -> None:
    async with gateway(tmp_path / "a") as content, client_of(content) as client:
        root, _ = await content.import_directory(model, in_place=True)
        leaf = Cid.of(Codec.RAW, (model / "weights").read_bytes()[:MIB])
        for cid in (leaf, Cid.parse(root)):
            whole = (await client.get(f"/ipfs/{cid}?format=raw")).content
            part = await client.get(f"/ipfs/{cid}?format=raw", headers={"Range": "bytes=3-20"})
            assert (part.status_code, part.content) == (206, whole[3:21])
            assert part.headers["content-range"] == f"bytes 3-20/{len(whole)}"
            tail = await client.get(f"/ipfs/{cid}?format=raw", headers={"Range": "bytes=-5"})
            assert tail.content == whole[-5:]
            outside = await client.get(f"/ipfs/{cid}?format=raw", headers={"Range": f"bytes={len(whole)}-"})
            assert outside.status_code == 416
            assert outside.headers["content-range"] == f"bytes */{len(whole)}"


async def test_a_car_holds_the_whole_tree_depth_first(tmp_path: Path, model: Path) -> None:
    async with gateway(tmp_path / "a") as content, client_of(content) as client:
        root, _ = await content.import_directory(model, in_place=True)
        reply = await client.get(f"/ipfs/{root}?format=car")
        assert reply.status_code == 200
        assert reply.headers["content-type"].startswith("application/vnd.ipld.car; version=1; order=dfs")
        blocks = list(car_blocks(reply.content))
        assert blocks[0][0] == Cid.parse(root)
        leaves = b"".join(data for cid, data in blocks if cid.codec is Codec.RAW)
        assert leaves == b"{}" + (model / "weights").read_bytes()


async def test_scopes_and_paths_of_a_car(tmp_path: Path, model: Path) -> None:
    async with gateway(tmp_path / "a") as content, client_of(content) as client:
        root, _ = await content.import_directory(model, in_place=True)
        entries = entries_of(content, root)

        async def cids(query: str) -> list[Cid]:
            reply = await client.get(f"/ipfs/{root}{query}")
            assert reply.status_code == 200, reply.text
            return [cid for cid, _ in car_blocks(reply.content)]

        top = Cid.parse(root)
        assert await cids("?format=car&dag-scope=block") == [top]
        assert await cids("?format=car&dag-scope=entity") == [top]
        assert await cids("/sub?format=car&dag-scope=block") == [top, entries["sub"]]
        small = Cid.of(Codec.RAW, b"{}")
        assert await cids("/sub/small.json?format=car&dag-scope=entity") == [top, entries["sub"], small]
        data = (model / "weights").read_bytes()
        second = Cid.of(Codec.RAW, data[MIB : 2 * MIB])
        query = f"/weights?format=car&dag-scope=entity&entity-bytes={MIB}:{2 * MIB - 1}"
        assert await cids(query) == [top, entries["weights"], second]
        last = Cid.of(Codec.RAW, data[5 * MIB :])
        assert await cids("/weights?format=car&entity-bytes=-1:*") == [top, entries["weights"], last]
        for path in ("/absent", "/weights/x"):
            assert (await client.get(f"/ipfs/{root}{path}?format=car")).status_code == 404


async def test_a_car_of_a_tree_that_is_not_whole_is_broken_off(tmp_path: Path, model: Path) -> None:
    async with gateway(tmp_path / "a") as content, client_of(content) as client:
        root, _ = await content.import_directory(model)
        content.store.remove(Cid.of(Codec.RAW, (model / "weights").read_bytes()[MIB : 2 * MIB]))
        with pytest.raises(httpx.RemoteProtocolError):
            await client.get(f"/ipfs/{root}?format=car")
        assert (await client.get(f"/ipfs/{root}?format=raw")).status_code == 200


async def test_the_probe_is_answered(tmp_path: Path) -> None:
    async with gateway(tmp_path / "a") as content, client_of(content) as client:
        reply = await client.get("/ipfs/bafkqaaa?format=raw")
        assert (reply.status_code, reply.content) == (200, b"")
        car = (await client.get("/ipfs/bafkqaaa?format=car")).content
        assert car == bytes.fromhex("19a265726f6f747381d82a450001550000") + b"\x67version\x01" + b"\x04\x01\x55\x00\x00"


async def test_refusals_carry_their_status_and_keep_the_connection(tmp_path: Path) -> None:
    absent = "bafkreigh2akiscaildcqabsyg3dfr6chu3fgpregiymsck7e7aqa4s52zy"
    async with gateway(tmp_path / "a") as content, client_of(content) as client:
        cid = await content.add_bytes(b"x")
        for method, path, status in (
            ("GET", f"/ipfs/{absent}?format=raw", 404),
            ("GET", f"/ipfs/{absent}?format=car", 404),
            ("GET", f"/ipfs/{cid}", 400),
            ("GET", f"/ipfs/{cid}?format=zip", 406),
            ("DELETE", f"/ipfs/{cid}", 405),
            ("HEAD", f"/ipfs/{absent}?format=raw", 404),
        ):
            assert (await client.request(method, path, headers={"Accept": ""})).status_code == status
        assert (await client.get(f"/ipfs/{cid}?format=raw")).content == b"x"
        assert content.server is not None
        assert content.server.metrics.connections == 1
        assert content.server.metrics.answers[404] == 3


async def test_a_token_is_asked_for_where_there_is_one(tmp_path: Path) -> None:
    async with gateway(tmp_path / "a", ContentExchange(token="secret")) as content, client_of(content) as client:
        cid = await content.add_bytes(b"x")
        for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "Basic secret"}):
            reply = await client.get(f"/ipfs/{cid}?format=raw", headers=headers)
            assert reply.status_code == 401
            assert reply.headers["www-authenticate"] == "Bearer"
        reply = await client.get(f"/ipfs/{cid}?format=raw", headers={"Authorization": "Bearer secret"})
        assert reply.content == b"x"


async def test_connections_beyond_an_addresss_share_are_refused(tmp_path: Path) -> None:
    limits = GatewayLimits(connections_per_address_max=2)
    async with gateway(tmp_path / "a", ContentExchange(limits=limits)) as content:
        held = [await trio.open_tcp_stream("127.0.0.1", content.port) for _ in range(2)]
        for stream in held:  # counted in once it is answered
            await stream.send_all(b"GET /ipfs/bafkqaaa?format=raw HTTP/1.1\r\nHost: x\r\n\r\n")
            assert b" 200 " in await stream.receive_some()
        async with client_of(content) as client:
            reply = await client.get("/ipfs/bafkqaaa?format=raw")
            assert reply.status_code == 429
            assert int(reply.headers["retry-after"]) > 0
        await held.pop().aclose()
        with trio.fail_after(10):
            async with client_of(content) as client:
                while (await client.get("/ipfs/bafkqaaa?format=raw")).status_code == 429:
                    await trio.sleep(0.01)


async def test_requests_beyond_the_rate_are_refused(tmp_path: Path) -> None:
    limits = GatewayLimits(requests_per_second=5)
    async with gateway(tmp_path / "a", ContentExchange(limits=limits)) as content, client_of(content) as client:
        answers = [(await client.get("/ipfs/bafkqaaa?format=raw")).status_code for _ in range(40)]
        assert answers[0] == 200
        assert 429 in answers


async def test_a_reader_of_a_byte_a_second_is_cut(tmp_path: Path, model: Path) -> None:
    limits = GatewayLimits(stall_seconds_max=0.3, reader_bytes_per_second_min=1024 * MIB)
    async with gateway(tmp_path / "a", ContentExchange(limits=limits)) as content:
        root, _ = await content.import_directory(model, in_place=True)
        leaf = Cid.of(Codec.RAW, (model / "weights").read_bytes()[:MIB])
        stream = await trio.open_tcp_stream("127.0.0.1", content.port)
        async with stream:
            await stream.send_all(f"GET /ipfs/{leaf}?format=raw HTTP/1.1\r\nHost: x\r\n\r\n".encode() * 40)
            assert content.server is not None
            with trio.fail_after(20):
                while not content.server.metrics.slow_readers_cut:
                    await trio.sleep(0.01)
        assert await content.has(root)


async def test_a_head_that_never_ends_is_cut(tmp_path: Path) -> None:
    limits = GatewayLimits(head_seconds_max=0.2, idle_seconds_max=0.2)
    async with gateway(tmp_path / "a", ContentExchange(limits=limits)) as content:
        for beginning in (b"GET /ipfs/", b""):
            stream = await trio.open_tcp_stream("127.0.0.1", content.port)
            async with stream:
                if beginning:
                    await stream.send_all(beginning)
                with trio.fail_after(10):
                    assert await stream.receive_some() == b""


async def test_requests_sent_ahead_are_answered_in_order(tmp_path: Path) -> None:
    async with gateway(tmp_path / "a") as content:
        bodies = [hashlib.sha256(bytes([number])).digest() for number in range(50)]
        cids = [await content.add_bytes(body) for body in bodies]
        stream = await trio.open_tcp_stream("127.0.0.1", content.port)
        async with stream:
            for cid in cids:
                await stream.send_all(f"GET /ipfs/{cid}?format=raw HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            received = b""
            with trio.fail_after(10):
                while received.count(b"HTTP/1.1 200") < len(bodies) or not received.endswith(bodies[-1]):
                    received += await stream.receive_some()
        positions = [received.index(body) for body in bodies]
        assert positions == sorted(positions)


async def test_a_file_changed_in_place_is_no_longer_given(tmp_path: Path, model: Path) -> None:
    async with gateway(tmp_path / "a") as content, client_of(content) as client:
        await content.import_directory(model, in_place=True)
        leaf = Cid.of(Codec.RAW, (model / "weights").read_bytes()[:MIB])
        assert (await client.get(f"/ipfs/{leaf}?format=raw")).status_code == 200
        (model / "weights").write_bytes(bytes(6 * MIB))
        assert (await client.get(f"/ipfs/{leaf}?format=raw")).status_code == 404
        (model / "weights").unlink()
        assert (await client.get(f"/ipfs/{leaf}?format=raw")).status_code == 404


async def test_uploads_keep_to_their_rate(tmp_path: Path, model: Path) -> None:
    limits = GatewayLimits(bytes_per_second=2 * MIB)
    async with gateway(tmp_path / "a", ContentExchange(limits=limits)) as content, client_of(content) as client:
        root, _ = await content.import_directory(model, in_place=True)
        started = trio.current_time()
        assert (await client.get(f"/ipfs/{root}?format=car", timeout=None)).status_code == 200
        assert trio.current_time() - started > 1.5
