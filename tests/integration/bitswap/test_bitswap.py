"""Bitswap between real hosts: what honest peers get, and what liars, flooders and stallers do not achieve."""

import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import trio

from p2p.content.bitswap import exchange, wire
from p2p.content.bitswap.exchange import LIST_BYTES_MAX, STREAMS_PER_PEER_MAX
from p2p.content.bitswap.messages import PROTOCOL, Block, Message, Want, decode_message, encode_message
from p2p.content.bitswap.source import BitswapSource
from p2p.content.bitswap.wire import MessageReader
from p2p.content.cid import Cid, Codec
from p2p.content.protobuf import encode_varint
from p2p.content.source import SourceFailedError
from p2p.host import open_host
from p2p.identity import Identity
from p2p.standing import Offence
from tests.integration.interop.peers import LOOPBACK, Ours, ours
from tests.waiting import until

MIB = 1024 * 1024
SECONDS_MAX = 60
"""Until a test has failed; each takes a second alone on a machine."""
PREFIX = b"\x01\x55\x12\x20"

Reply = Callable[[Message], Message | None]


@asynccontextmanager
async def raw_peer(node: Ours, reply: Reply = lambda _message: None) -> AsyncIterator[tuple[Any, list[Message]]]:
    """A host that speaks Bitswap as badly as `reply` says; yields it, connected to `node`, and what it was told."""
    told: list[Message] = []

    async with open_host(Identity(b"\7" * 32), [LOOPBACK], []) as host:

        async def handle(stream: Any) -> None:
            reader = MessageReader(stream)
            while (length := await reader.next_length()) is not None:
                told.append(decode_message(await reader.body(length)))
                answer = reply(told[-1])
                if answer is not None:
                    back = await host.new_stream(stream.muxed_conn.peer_id, [PROTOCOL])
                    await back.write(encode_message(answer))
                    await back.close()

        host.set_stream_handler(PROTOCOL, handle)
        await node.connect(str(host.get_addrs()[0]))
        yield host, told


async def send(host: Any, node: Ours, data: bytes) -> Any:
    """Open a stream to `node` and write `data`."""
    stream = await host.new_stream(node.host.get_id(), [PROTOCOL])
    await stream.write(data)
    return stream


async def refused(host: Any, node: Ours) -> None:
    """Check that `node` takes no further stream."""
    before = node.bitswap.counters.refused_streams
    with suppress(Exception):  # the stream may be reset before it is agreed what to speak
        await host.new_stream(node.host.get_id(), [PROTOCOL])
    await until(lambda: node.bitswap.counters.refused_streams > before, SECONDS_MAX)


async def ended(stream: Any) -> None:
    """Wait until the other end is done with a stream."""
    with trio.fail_after(SECONDS_MAX), suppress(Exception):  # the library has many ways to say so
        while await stream.read(1024):
            pass


async def test_blocks_are_got_many_at_once_and_lacking_ones_are_told(tmp_path: Path) -> None:
    async with ours(tmp_path / "a", 1) as giver, ours(tmp_path / "b", 2) as taker:
        cids = [giver.store.put(Codec.RAW, os.urandom(size)) for size in (0, 1, 300_000, MIB, 2 * MIB)]
        source = BitswapSource(taker.bitswap, await taker.connect(giver.address))
        absent = Cid.of(Codec.RAW, b"absent")
        results: dict[Cid, bytes | None] = {}

        async def get(cid: Cid) -> None:
            results[cid] = await source.get(cid, bytes_max=2 * MIB)

        with trio.fail_after(SECONDS_MAX):
            async with trio.open_nursery() as nursery:
                for cid in (*cids, absent):
                    nursery.start_soon(get, cid)
        assert results.pop(absent) is None
        assert all(data is not None and cid.matches(data) for cid, data in results.items())
        assert set(results) == set(cids)
        assert taker.bitswap.counters.unsolicited_blocks == 0
        assert giver.peer_id in taker.bitswap.speakers()


async def test_a_block_damaged_on_our_disk_is_not_given(tmp_path: Path) -> None:
    async with ours(tmp_path / "a", 1) as giver, ours(tmp_path / "b", 2) as taker:
        cid = giver.store.put(Codec.RAW, b"precious")
        next((tmp_path / "a").rglob(str(cid))).write_bytes(b"rotten!!")
        source = BitswapSource(taker.bitswap, await taker.connect(giver.address))
        with trio.fail_after(SECONDS_MAX):
            assert await source.get(cid, bytes_max=MIB) is None
        assert taker.standing.bans() == ()


async def test_a_block_larger_than_there_is_room_for_is_refused(tmp_path: Path) -> None:
    async with ours(tmp_path / "a", 1) as giver, ours(tmp_path / "b", 2) as taker:
        cid = giver.store.put(Codec.RAW, bytes(1000))
        source = BitswapSource(taker.bitswap, await taker.connect(giver.address))
        with trio.fail_after(SECONDS_MAX), pytest.raises(SourceFailedError, match="1000 bytes"):
            await source.get(cid, bytes_max=999)


async def test_a_peer_that_answers_with_other_bytes_fails_at_once_and_is_blamed(tmp_path: Path) -> None:
    lies = Message(blocks=(Block(PREFIX, b"lies"),))
    async with ours(tmp_path / "a") as node, raw_peer(node, lambda _message: lies) as (liar, _):
        source = BitswapSource(node.bitswap, str(liar.get_id()))
        while not node.standing.bans():
            with trio.fail_after(SECONDS_MAX), pytest.raises(SourceFailedError, match="none we asked for"):
                await source.get(Cid.of(Codec.RAW, b"truth"), bytes_max=MIB)
        assert [ban.peer for ban in node.standing.bans()] == [str(liar.get_id())]
        with pytest.raises(SourceFailedError, match="banned"):
            await source.get(Cid.of(Codec.RAW, b"truth"), bytes_max=MIB)


async def test_a_block_that_nobody_asked_for_is_counted_and_blamed(tmp_path: Path) -> None:
    async with ours(tmp_path / "a") as node, raw_peer(node) as (host, _):
        await send(host, node, encode_message(Message(blocks=(Block(PREFIX, b"a present"),) * 3)))
        await until(lambda: node.bitswap.counters.unsolicited_blocks == 3, SECONDS_MAX)
        assert not node.store.has(Cid.of(Codec.RAW, b"a present"))


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(encode_varint(3) + b"\xff\xff\xff", id="no protobuf"),
        pytest.param(encode_varint(5 * MIB), id="a message over the limit"),
        pytest.param(b"\xff" * 12, id="an endless length"),
    ],
)
async def test_malformed_messages_end_their_stream_and_in_the_end_their_senders_connection(
    tmp_path: Path, data: bytes
) -> None:
    async with ours(tmp_path / "a") as node, raw_peer(node) as (host, _):
        while not node.standing.bans():
            before = node.bitswap.counters.malformed_messages
            await ended(await send(host, node, data))
            assert node.bitswap.counters.malformed_messages == before + 1
        assert [ban.peer for ban in node.standing.bans()] == [str(host.get_id())]
        await until(lambda: host.get_id() not in node.host.get_connected_peers(), SECONDS_MAX)


async def test_a_peer_that_owes_us_nothing_cannot_make_us_hold_much(tmp_path: Path) -> None:
    async with ours(tmp_path / "a") as node, raw_peer(node) as (host, _):
        stream = await send(host, node, encode_varint(LIST_BYTES_MAX + 1))
        await ended(stream)
        assert node.bitswap.counters.malformed_messages == 0
        for _ in range(STREAMS_PER_PEER_MAX):
            await send(host, node, encode_varint(LIST_BYTES_MAX) + b"begun")
        await refused(host, node)
        assert node.bitswap.counters.refused_streams == 1


async def test_a_want_that_got_lost_is_told_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exchange, "ASK_AGAIN_SECONDS", 0.1)
    asked: list[Message] = []

    def reply(message: Message) -> Message | None:
        asked.append(message)
        return Message(blocks=(Block(PREFIX, b"data"),)) if len(asked) == 3 else None

    async with ours(tmp_path / "a") as node, raw_peer(node, reply) as (host, _):
        source = BitswapSource(node.bitswap, str(host.get_id()))
        with trio.fail_after(SECONDS_MAX):
            assert await source.get(Cid.of(Codec.RAW, b"data"), bytes_max=MIB) == b"data"


async def test_who_no_longer_wants_a_block_says_so_and_may_still_get_it(tmp_path: Path) -> None:
    cid = Cid.of(Codec.RAW, b"data")
    async with ours(tmp_path / "a") as node, raw_peer(node) as (host, told):
        with trio.move_on_after(0.5):
            await BitswapSource(node.bitswap, str(host.get_id())).get(cid, bytes_max=MIB)
        await until(lambda: len(told) == 2, SECONDS_MAX)
        assert told[0].wants == (Want(cid.to_bytes(), send_dont_have=True),)
        assert [want.cancel for want in told[1].wants] == [True]
        stream = await send(host, node, encode_message(Message(blocks=(Block(PREFIX, b"data"),))))
        await stream.close()
        await ended(stream)
        assert node.bitswap.counters.unsolicited_blocks == 0


async def test_a_peer_that_disappears_fails_those_who_wait_for_it(tmp_path: Path) -> None:
    async with ours(tmp_path / "a") as node, raw_peer(node) as (host, told):
        source = BitswapSource(node.bitswap, str(host.get_id()))

        async def leave() -> None:
            await until(lambda: bool(told), SECONDS_MAX)
            await host.get_network().close_peer(node.host.get_id())

        with trio.fail_after(SECONDS_MAX):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(leave)
                with pytest.raises(SourceFailedError):
                    await source.get(Cid.of(Codec.RAW, b"data"), bytes_max=MIB)


async def test_a_flood_of_wants_is_read_slowly_and_an_honest_peer_is_still_answered(tmp_path: Path) -> None:
    async with ours(tmp_path / "a", 1) as node, ours(tmp_path / "b", 2) as honest, raw_peer(node) as (host, _):
        cids = [node.store.put(Codec.RAW, os.urandom(MIB)) for _ in range(5)]
        source = BitswapSource(honest.bitswap, await honest.connect(node.address))

        async def flood() -> None:
            while True:
                wants = tuple(Want(os.urandom(36), have=True) for _ in range(1000))
                with suppress(Exception):  # until it is banned
                    await send(host, node, encode_message(Message(wants=wants)))
                await trio.lowlevel.checkpoint()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(flood)
            with trio.fail_after(SECONDS_MAX):
                await until(lambda: bool(node.standing.bans()), SECONDS_MAX)
                for cid in cids:
                    assert await source.get(cid, bytes_max=MIB) is not None
            nursery.cancel_scope.cancel()
        assert [ban.peer for ban in node.standing.bans()] == [str(host.get_id())]


async def test_a_peer_that_does_not_read_its_blocks_holds_up_nobody_and_is_blamed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wire, "SEND_SECONDS_MAX", 1.0)
    blamed: list[tuple[str, Offence]] = []
    async with ours(tmp_path / "a", 1) as node, ours(tmp_path / "b", 2) as honest, raw_peer(node) as (host, _):
        monkeypatch.setattr(node.standing, "blame", lambda peer, offence, _detail: blamed.append((peer, offence)))

        async def ignore(_stream: Any) -> None:
            await trio.sleep_forever()

        host.set_stream_handler(PROTOCOL, ignore)
        cids = [node.store.put(Codec.RAW, os.urandom(MIB)) for _ in range(5)]
        await send(host, node, encode_message(Message(wants=tuple(Want(cid.to_bytes()) for cid in cids))))
        source = BitswapSource(honest.bitswap, await honest.connect(node.address))
        with trio.fail_after(SECONDS_MAX):
            for cid in cids:
                assert await source.get(cid, bytes_max=MIB) is not None
        await until(lambda: bool(blamed), SECONDS_MAX)
    assert blamed == [(str(host.get_id()), Offence.STALLED)]
