"""Signals end the daemon in order once, and at once when they are repeated or nobody heeds them."""

import os
import signal

import trio

from node.process import stopped_by_signals
from node.stopping import StopRequest


async def test_the_first_signal_asks_and_the_second_does_not() -> None:
    stop = StopRequest()
    stop.heeded = True
    reached = False
    with trio.fail_after(20):
        async with stopped_by_signals(stop):
            os.kill(os.getpid(), signal.SIGTERM)
            await stop.asked.wait()
            reached = True
            os.kill(os.getpid(), signal.SIGTERM)
            await trio.sleep_forever()
    assert reached


async def test_a_signal_that_nobody_heeds_ends_at_once() -> None:
    stop = StopRequest()
    with trio.fail_after(20):
        async with stopped_by_signals(stop):
            os.kill(os.getpid(), signal.SIGINT)
            await trio.sleep_forever()
    assert not stop.asked.is_set()
