"""A gateway as a source in a race, over real sockets: its time, what it holds of ours, and what is left of it."""

import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
import trio

from p2p.content.cid import Cid, Codec
from p2p.content.gateway_source import GatewaySource
from p2p.content.retrieval.race import BlockRace
from p2p.content.source import SourceFailedError
from p2p.standing import Offence, Standing
from tests.integration.content.hostile import Converse, provider_that, reply

SECONDS_MAX = 20
BLOCK_SECONDS = 0.5
BLOCK = b"block" * 1000
CID = Cid.of(Codec.RAW, BLOCK)


def deliver(_cid: Cid, _data: bytes | bytearray) -> None:
    return None


@asynccontextmanager
async def source_to(converse: Converse) -> AsyncIterator[GatewaySource]:
    async with provider_that(converse) as gateway:
        yield GatewaySource(gateway.host, gateway.port)


@pytest.mark.parametrize("hangs_up", [True, False])
async def test_a_gateway_that_refuses_just_before_its_time_is_over_gets_no_new_time_and_is_blamed(
    hangs_up: bool,
) -> None:
    requests = 0

    async def almost_stall(stream: trio.SocketStream, _target: str) -> None:
        nonlocal requests
        requests += 1
        await trio.sleep(0.8 * BLOCK_SECONDS)
        if hangs_up:
            await stream.aclose()
        else:
            await stream.send_all(reply(503, b""))

    now = 1_000_000.0
    standing, expected = Standing(lambda: now), Standing(lambda: now)
    with trio.fail_after(SECONDS_MAX):
        async with source_to(almost_stall) as source:
            race = BlockRace([source], standing=standing, block_seconds=BLOCK_SECONDS)
            assert await race.run([CID], deliver) == [CID]
            await race.aclose()
    assert requests <= 2
    assert "no block within" in race.counts.reasons[source.name]
    expected.blame(source.name, Offence.STALLED, "")
    assert standing.points(source.name) == expected.points(source.name)


async def test_time_that_our_disk_takes_does_not_count_for_a_block_that_has_to_be_asked_again() -> None:
    is_held, let_go = threading.Event(), threading.Event()
    given: list[str] = []

    async def one_each(stream: trio.SocketStream, _target: str) -> None:
        await stream.send_all(reply(200, BLOCK, "Connection: close"))

    def held_up(_cid: Cid, _body: bytearray) -> None:
        is_held.set()
        let_go.wait(SECONDS_MAX)

    def note(_cid: Cid, _body: bytearray) -> None:
        given.append("behind it")

    async def get(work: Callable[[Cid, bytearray], None]) -> None:
        assert not await source.handle([CID], work, bytes_max=len(BLOCK), seconds_max=BLOCK_SECONDS)

    with trio.fail_after(SECONDS_MAX):
        async with provider_that(one_each) as gateway:
            source = GatewaySource(gateway.host, gateway.port, connections_max=1)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(get, held_up)
                await trio.lowlevel.checkpoint()  # it is the first in line
                nursery.start_soon(get, note)
                await trio.to_thread.run_sync(is_held.wait, SECONDS_MAX)
                await trio.sleep(3 * BLOCK_SECONDS)
                let_go.set()  # it is not too slow: the nursery ends without an error
            await source.aclose()
    assert given == ["behind it"]


async def test_connections_that_a_fetch_has_too_many_of_are_closed_when_they_have_nothing_under_way() -> None:
    def threads() -> int:
        return sum(thread.name == "content connection" for thread in threading.enumerate())

    async def answer(stream: trio.SocketStream, _target: str) -> None:
        await is_open.wait()
        await stream.send_all(reply(200, BLOCK))

    async def get() -> None:
        assert await source.get(CID, bytes_max=len(BLOCK)) == BLOCK

    before, is_open = threads(), trio.Event()
    with trio.fail_after(SECONDS_MAX):
        async with source_to(answer) as source:
            for wanted, window in ((1, 8), (3, 24), (9, 24)):
                source.use_threads(wanted)
                assert source.window == window
                async with trio.open_nursery() as nursery:
                    for _ in range(6):
                        nursery.start_soon(get)
                    while threads() < before + min(wanted, 3):
                        await trio.sleep(0.01)
                    if wanted == 9:
                        source.use_threads(1)  # nothing is broken off
                    is_open.set()
                is_open = trio.Event()
            while threads() > before + 1:
                await trio.sleep(0.01)
            is_open.set()
            await get()
            assert threads() == before + 1
            await source.aclose()


async def test_a_gateway_that_is_dropped_keeps_no_thread_while_the_fetch_goes_on() -> None:
    async def lie(stream: trio.SocketStream, _target: str) -> None:
        await stream.send_all(reply(200, b"lies"))

    def threads() -> int:
        return sum(thread.name == "content connection" for thread in threading.enumerate())

    before = threads()
    with trio.fail_after(SECONDS_MAX):
        async with source_to(lie) as source:
            race = BlockRace([source])
            assert await race.run([CID], deliver) == [CID]
            while threads() > before:
                await trio.sleep(0.01)
            with pytest.raises(SourceFailedError):  # nothing is opened again either
                await source.get(CID, bytes_max=len(BLOCK))
            await race.aclose()


async def test_of_several_blocks_only_those_without_an_answer_are_asked_for_again() -> None:
    blocks = [bytes([number]) * 100 for number in range(6)]
    cids = [Cid.of(Codec.RAW, block) for block in blocks]
    numbers = {f"/ipfs/{cid}?format=raw": number for number, cid in enumerate(cids)}
    asked: list[int] = []

    async def answer(stream: trio.SocketStream, target: str) -> None:
        number = numbers[target]
        is_first = number not in asked
        asked.append(number)
        if number == 1:
            await stream.send_all(reply(404, b""))
        elif number == 2 and is_first:
            await stream.send_all(reply(503, b""))
        elif number == 4 and is_first:
            await stream.aclose()
        else:
            await stream.send_all(reply(200, blocks[number]))

    handled: dict[Cid, bytes] = {}

    def handle(cid: Cid, body: bytearray) -> None:
        assert cid not in handled
        handled[cid] = bytes(body)

    with trio.fail_after(SECONDS_MAX):
        async with source_to(answer) as source:
            assert await source.handle(cids, handle, bytes_max=100, seconds_max=SECONDS_MAX) == [cids[1]]
            await source.aclose()
    assert handled == {cid: block for cid, block in zip(cids, blocks, strict=True) if cid != cids[1]}
    # The fifth was behind the one that hung up, and may have been read by then.
    assert [asked.count(number) for number in range(5)] == [1, 1, 2, 1, 2]


async def test_blocks_that_came_before_a_gateway_broke_the_protocol_were_handled() -> None:
    async def answer(stream: trio.SocketStream, _target: str) -> None:
        nonlocal answered
        answered += 1
        await stream.send_all(reply(200, BLOCK) if answered == 1 else b"nonsense\r\n\r\n")

    answered = 0
    handled: list[Cid] = []
    with trio.fail_after(SECONDS_MAX):
        async with source_to(answer) as source:
            with pytest.raises(SourceFailedError):
                await source.handle(
                    [CID] * 3, lambda cid, _body: handled.append(cid), bytes_max=len(BLOCK), seconds_max=SECONDS_MAX
                )
            await source.aclose()
    assert handled == [CID]
