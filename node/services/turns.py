"""Work for which something may not be to be had yet: it is tried again and again, and holds up nothing meanwhile."""

import heapq
from collections.abc import Awaitable, Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import trio

from node.ports import ContentUnavailableError

Task = TypeVar("Task")


@dataclass(frozen=True, slots=True)
class Wait:
    """What several tasks wait for."""

    what: Hashable
    """Equal for all who wait for the same."""
    is_over: Callable[[], bool]


class NotNowError(Exception):
    """Something other than content is missing for now."""

    def __init__(self, reason: str, wait: Wait | None = None) -> None:
        """`wait` where it can be told when it is there: ten thousand tasks then ask once."""
        super().__init__(reason)
        self.wait = wait


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
    less often before others, and else in the given order. Those who wait for the same are called again when it is
    there, and not before. Returns when nothing is left, which may be never.
    """
    ready = [(rank, 0, place) for rank, tasks in enumerate((first, then)) for place in range(len(tasks))]
    count, left = trio.Semaphore(len(ready)), len(ready)
    waiting: dict[Hashable, list[tuple[int, int, int]]] = {}

    async def again(turn: tuple[int, int, int]) -> None:
        await trio.sleep(retry_seconds)
        give_back(turn)

    async def again_after(wait: Wait) -> None:
        while True:
            await trio.sleep(retry_seconds)
            if wait.is_over():
                break
        for turn in waiting.pop(wait.what):
            give_back(turn)

    def give_back(turn: tuple[int, int, int]) -> None:
        heapq.heappush(ready, turn)
        count.release()

    async def work() -> None:
        nonlocal left
        while True:
            await count.acquire()
            rank, tries, place = heapq.heappop(ready)
            try:
                await attempt((first, then)[rank][place])
            except (ContentUnavailableError, NotNowError) as error:
                turn = rank, tries + 1, place
                wait = error.wait if isinstance(error, NotNowError) else None
                if wait is None:
                    nursery.start_soon(again, turn)
                elif wait.what in waiting:
                    waiting[wait.what].append(turn)
                else:
                    waiting[wait.what] = [turn]
                    nursery.start_soon(again_after, wait)
                continue
            left -= 1
            if not left:
                nursery.cancel_scope.cancel()

    if not ready:
        return
    async with trio.open_nursery() as nursery:
        for _ in range(at_once):
            nursery.start_soon(work)
