"""Calls from threads: all are made, in order, and the event loop is woken once for those that came meanwhile."""

import threading

import trio
import trio.testing

from p2p.content.loop_calls import LoopCalls

SECONDS_MAX = 10


async def test_all_are_made_in_order_in_the_thread_of_the_event_loop() -> None:
    made: list[tuple[int, int]] = []
    calls, is_made = LoopCalls(), trio.Event()

    def from_thread() -> None:
        for number in range(3):
            calls.make(lambda number=number: made.append((number, threading.get_ident())))
        calls.make(is_made.set)

    with trio.fail_after(SECONDS_MAX):
        await trio.to_thread.run_sync(from_thread)
        await is_made.wait()
        assert made == [(number, threading.get_ident()) for number in range(3)]


def test_nothing_happens_when_the_event_loop_has_ended() -> None:
    async def main() -> LoopCalls:
        return LoopCalls()

    calls = trio.run(main)
    made: list[int] = []
    calls.make(lambda: made.append(1))
    assert not made
