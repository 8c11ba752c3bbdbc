"""Virtual time and a seeded scheduler: one seed, one run.

Trio wakes runnable tasks in an order it shuffles on purpose. For the simulator that order must follow from the seed:
`run_deterministically` seeds the shuffle and sorts each batch by task number first (trio's own switch for this).
"""

import gc
import random
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import trio
import trio._core._run as trio_run
import trio.testing

from netsim.shared_work import shared_work

VIRTUAL_EPOCH_UNIX_SECONDS = 1_800_000_000
"""UNIX time at the start of every simulation; any fixed value does."""

RARELY = (200_000, 50, 50)
"""How often Python looks for cycles: what a simulation holds has none, and looking at it took a third of the time."""

Result = TypeVar("Result")


def wall_clock() -> int:
    """UNIX seconds of virtual time: the WallClock handed to services."""
    return VIRTUAL_EPOCH_UNIX_SECONDS + int(trio.current_time())


def run_deterministically(main: Callable[[], Awaitable[Result]], seed: int) -> Result:
    """Run `main` under a virtual clock that jumps when all tasks wait; the schedule follows from `seed`.

    What all nodes would find out alike is found out once (shared_work.py).
    """
    trio_run._ALLOW_DETERMINISTIC_SCHEDULING = True  # type: ignore[misc]
    trio_run._r = random.Random(seed)
    with shared_work(), _few_collections():
        return trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


@contextmanager
def _few_collections() -> Iterator[None]:
    usual = gc.get_threshold()
    gc.set_threshold(*RARELY)
    try:
        yield
    finally:
        gc.set_threshold(*usual)
