"""The queue that knows whether its reader waits: nothing is lost, whoever is cancelled."""

import pytest
import trio

from node.services.watched_queue import WatchedQueue


async def test_what_waits_is_not_lost_with_a_reader_that_is_cancelled() -> None:
    queue = WatchedQueue[int](4)
    queue.give_now(1)
    with trio.CancelScope() as scope:
        scope.cancel()
        await queue.take()
    assert scope.cancelled_caught
    assert await queue.take() == 1


async def test_a_reader_that_waits_is_known_and_gets_what_comes_in_order(autojump_clock: object) -> None:
    queue, got = WatchedQueue[int](4), list[int]()

    async def read() -> None:
        while True:
            got.append(await queue.take())

    async with trio.open_nursery() as nursery:
        nursery.start_soon(read)
        assert not queue.is_awaited
        await trio.sleep(1)
        assert queue.is_awaited
        for number in range(3):
            assert queue.give_now(number)
            assert not queue.is_awaited
        await trio.sleep(1)
        assert got == [0, 1, 2]
        assert queue.is_awaited
        nursery.cancel_scope.cancel()
    assert not queue.is_awaited


async def test_others_run_while_a_reader_finds_something_each_time() -> None:
    queue, turns = WatchedQueue[int](4), 0

    async def other() -> None:
        nonlocal turns
        while True:
            turns += 1
            await trio.lowlevel.checkpoint()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(other)
        for number in range(20):
            queue.give_now(number)
            assert await queue.take() == number
        nursery.cancel_scope.cancel()
    assert turns >= 10


async def test_after_the_end_there_is_what_waited_and_then_no_more() -> None:
    queue = WatchedQueue[int](4)
    queue.give_now(1)
    queue.close()
    assert await queue.take() == 1
    with pytest.raises(trio.EndOfChannel):
        await queue.take()
