"""Calls from threads: all are made, in order, and those that may wait are made with others."""

import trio
import trio.testing

from p2p.content.loop_calls import LoopCalls

SECONDS_MAX = 10


async def test_what_may_wait_is_made_with_the_next_that_may_not() -> None:
    made: list[int] = []
    calls, is_made = LoopCalls(), trio.Event()

    def from_thread() -> None:
        calls.make(lambda: made.append(1), may_wait=True)
        calls.make(lambda: made.append(2), may_wait=True)

    with trio.fail_after(SECONDS_MAX):
        await trio.to_thread.run_sync(from_thread)
        await trio.testing.wait_all_tasks_blocked()
        assert made == []
        await trio.to_thread.run_sync(calls.make, is_made.set)
        await is_made.wait()
        assert made == [1, 2]


async def test_what_waits_is_made_when_somebody_hurries() -> None:
    calls, is_made = LoopCalls(), trio.Event()
    with trio.fail_after(SECONDS_MAX):
        await trio.to_thread.run_sync(lambda: calls.make(is_made.set, may_wait=True))
        calls.hurry()
        await is_made.wait()
        calls.hurry()  # nothing waits: nothing happens
