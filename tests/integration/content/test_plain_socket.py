"""A socket that waits for much at once never waits for more than there will be."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio
import trio.testing

from p2p.content.plain_socket import ENOUGH_BYTES, PlainSocket

SECONDS_MAX = 10


@asynccontextmanager
async def _pair() -> AsyncIterator[tuple[trio.SocketStream, PlainSocket]]:
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with listeners[0] as listener, await trio.open_tcp_stream(*listener.socket.getsockname()) as near:
        far = PlainSocket(await listener.accept())
        try:
            yield near, far
        finally:
            far.close()


async def _receive_while(near: trio.SocketStream, far: PlainSocket, data: bytes, room: int) -> bytes:
    """Send in small pieces what `far` already waits for with room for `room` bytes; return all of it."""
    received = bytearray()

    async def receive() -> None:
        buffer = bytearray(room)
        while len(received) < len(data):
            with memoryview(buffer) as view:
                count = await far.receive_into(view[: room - len(received)])
            received.extend(buffer[:count])

    async with trio.open_nursery() as nursery:
        nursery.start_soon(receive)
        await trio.testing.wait_all_tasks_blocked()
        for start in range(0, len(data), 1000):
            await near.send_all(data[start : start + 1000])
    return bytes(received)


async def test_a_body_that_comes_in_small_pieces_arrives_whole_and_the_next_head_is_seen_at_once() -> None:
    with trio.fail_after(SECONDS_MAX):
        async with _pair() as (near, far):
            for size in (3 * ENOUGH_BYTES // 2, 10, ENOUGH_BYTES + 1):  # the last byte comes alone
                body = bytes(number % 251 for number in range(size))
                assert await _receive_while(near, far, body, size) == body
                await near.send_all(b"h")
                assert await far.receive(100) == b"h"


async def test_whoever_waits_for_a_block_is_told_when_the_other_side_ends_within_it() -> None:
    with trio.fail_after(SECONDS_MAX):
        async with _pair() as (near, far):
            counts: list[int] = []

            async def receive() -> None:
                with memoryview(bytearray(2 * ENOUGH_BYTES)) as view:
                    while count := await far.receive_into(view):
                        counts.append(count)

            async with trio.open_nursery() as nursery:
                nursery.start_soon(receive)
                await trio.testing.wait_all_tasks_blocked()
                await near.send_all(b"few")
                await near.send_eof()
            assert sum(counts) == 3
