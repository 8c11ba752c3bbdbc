"""Waiting by the millisecond: two hundred nodes that wait for as long share one timer, the dearest part of waiting."""

import math

import trio

TICKS_PER_SECOND = 1000

_timers: trio.lowlevel.RunVar[dict[int, trio.Event] | None] = trio.lowlevel.RunVar("timers", default=None)
"""Of those who sleep, by tick."""


def tick_after(seconds: float) -> int:
    """Return the first tick that is `seconds` from now or later."""
    return math.ceil((trio.current_time() + seconds) * TICKS_PER_SECOND)


async def until_tick(tick: int) -> None:
    """Sleep until a tick."""
    await trio.sleep_until(tick / TICKS_PER_SECOND)


async def sleep(seconds: float) -> None:
    """Sleep until the first tick that is `seconds` from now or later."""
    timers = _timers.get()
    if timers is None:
        timers = {}
        _timers.set(timers)
    tick = tick_after(seconds)
    timer = timers.get(tick)
    if timer is None:
        timer = timers[tick] = trio.Event()
        trio.lowlevel.spawn_system_task(_ring, timers, tick)
    await timer.wait()


async def _ring(timers: dict[int, trio.Event], tick: int) -> None:
    await until_tick(tick)
    timers.pop(tick).set()
