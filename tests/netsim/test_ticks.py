"""Waiting in the simulator: never shorter than asked for, and no longer than a millisecond more."""

import pytest
import trio
from trio.testing import MockClock

from netsim.ticks import TICKS_PER_SECOND, sleep


@pytest.mark.parametrize("seconds", [0.0, 0.0001, 0.05, 0.0505, 1.23456])
async def test_sleep_ends_within_a_millisecond_after_its_time(seconds: float, autojump_clock: MockClock) -> None:
    await trio.sleep(0.00025)
    began = trio.current_time()
    await sleep(seconds)
    assert seconds - 1e-9 <= trio.current_time() - began < seconds + 1 / TICKS_PER_SECOND + 1e-9


async def test_who_is_cancelled_leaves_the_others_asleep(autojump_clock: MockClock) -> None:
    woken: list[float] = []

    async def wait(seconds: float) -> None:
        await sleep(seconds)
        woken.append(trio.current_time())

    async with trio.open_nursery() as nursery:
        began = trio.current_time()
        nursery.start_soon(wait, 2.0)
        nursery.start_soon(wait, 2.0)
        with trio.move_on_after(1.0):
            await sleep(2.0)
        assert trio.current_time() - began == pytest.approx(1.0, abs=0.01)
        assert woken == []
    assert [moment - began for moment in woken] == pytest.approx([2.0, 2.0], abs=0.01)
