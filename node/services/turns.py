"""Work for which something may not be to be had yet: it is tried again and again, and holds up nothing meanwhile."""

import heapq
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

import trio

from node.ports import ContentUnavailableError

Task = TypeVar("Task")


class NotNowError(Exception):
    """Something other than content is missing for now."""


async def take_turns(
    attempt: Callable[[Task], Awaitable[None]],
    first: Sequence[Task],
    then: Sequence[Task] = (),
    *,
    at_once: int,
    retry_seconds: float,
) -> None:
    """Have `attempt` succeed once with every task; it raises ContentUnavailableError or NotNowError to be called
    again later.

    At most `at_once` attempts run side by side, and between two of one task it holds no place: whoever withholds its
    content takes one fetch's time of each round. A place goes to a task of `first` before one of `then`, to one tried
    less often before others, and else in the given order. Returns when nothing is left, which may be never.
    """
    ready = [(rank, 0, place) for rank, tasks in enumerate((first, then)) for place in range(len(tasks))]
    count, left = trio.Semaphore(len(ready)), len(ready)

    async def again(turn: tuple[int, int, int]) -> None:
        await trio.sleep(retry_seconds)
        heapq.heappush(ready, turn)
        count.release()

    async def work() -> None:
        nonlocal left
        while True:
            await count.acquire()
            rank, tries, place = heapq.heappop(ready)
            try:
                await attempt((first, then)[rank][place])
            except (ContentUnavailableError, NotNowError):
                nursery.start_soon(again, (rank, tries + 1, place))
                continue
            left -= 1
            if not left:
                nursery.cancel_scope.cancel()

    if not ready:
        return
    async with trio.open_nursery() as nursery:
        for _ in range(at_once):
            nursery.start_soon(work)
