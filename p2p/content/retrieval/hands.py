"""Threads that do blocking work on blocks, in order of asking, with as few wake-ups as the work allows.

Waking a thread costs as much as hashing 50 kB, and trio's own threads are woken for each call. These take the next
piece of work when they have finished one. Under load hardly anybody is ever asleep.
"""

import threading
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import trio

from p2p.content.loop_calls import LoopCalls

_T = TypeVar("_T")


@dataclass(slots=True, eq=False)
class _Errand:
    task: trio.lowlevel.Task
    work: Callable[[], None]
    error: BaseException | None = None


class Hands:
    """Up to so many threads. Made by `open_hands`; `do` is for the tasks of one event loop."""

    def __init__(self, count: int, nursery: trio.Nursery) -> None:
        self._to_begin = count
        """Threads that there is no need of yet."""
        self._nursery = nursery
        self._limiter = trio.CapacityLimiter(count)
        self._calls = LoopCalls()
        self._changed = threading.Condition(threading.Lock())
        # Behind the condition's lock:
        self._waiting: deque[_Errand] = deque()
        self._is_closed = False

    @property
    def waiting(self) -> int:
        """Pieces of work that no thread has begun."""
        return len(self._waiting)

    async def do(self, work: Callable[[], _T]) -> _T:
        """Have a thread run `work`; return or raise what it does. Cancelled only before it is begun."""
        if self._to_begin:
            self._to_begin -= 1
            self._nursery.start_soon(lambda: trio.to_thread.run_sync(self._work, limiter=self._limiter))
        results: list[_T] = []
        errand = _Errand(trio.lowlevel.current_task(), lambda: results.append(work()))
        with self._changed:
            self._waiting.append(errand)
            self._changed.notify()

        def abort(_: object) -> trio.lowlevel.Abort:
            with self._changed:
                if errand not in self._waiting:
                    return trio.lowlevel.Abort.FAILED
                self._waiting.remove(errand)
            return trio.lowlevel.Abort.SUCCEEDED

        await trio.lowlevel.wait_task_rescheduled(abort)
        if errand.error is not None:
            raise errand.error
        return results[0]

    def _work(self) -> None:
        """Be one of the threads, until `close`."""
        while True:
            with self._changed:
                while not self._waiting:
                    if self._is_closed:
                        return
                    self._changed.wait()
                errand = self._waiting.popleft()
            try:
                errand.work()
            except BaseException as error:
                errand.error = error
            self._calls.make(partial(trio.lowlevel.reschedule, errand.task))

    def close(self) -> None:
        """Let the threads end when nothing waits."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()


@asynccontextmanager
async def open_hands(count: int) -> AsyncIterator[Hands]:
    """Have up to `count` threads until the context is left. Whoever calls `do` must have ended by then."""
    async with trio.open_nursery() as nursery:
        hands = Hands(count, nursery)
        try:
            yield hands
        finally:
            hands.close()
