"""Serves many sockets in the turns of one thread: whoever can go on does so, by plain calls.

*Purpose.* A connection that is served by its own task takes a turn of the event loop whenever there is room in its
socket: the socket is watched anew, the task scheduled, its coroutines entered one by one, all with cold caches, and
every other task of the daemon waits. A turn here is one call that waits for all sockets (docs/decisions/0056).

*Detail.* The connections' own tasks sleep meanwhile, keep the deadlines, and can be cancelled. A conversation is in one
hand at a time: the thread's from when it is registered, its task's again when that has left, which waits for a turn
that is being taken. No socket is closed before that.
"""

import os
import select
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

import trio

from p2p.content.loop_calls import LoopCalls

FOR_NOTHING = 0
"""Does not go on in turns."""
FOR_BYTES = select.EPOLLIN
"""Goes on when something has come."""
FOR_ROOM = select.EPOLLOUT
"""Goes on when there is room for something to send."""

READY_MAX = 32
"""Taken from the kernel at once; others are next."""
LOOK_SECONDS = 1.0
"""How often a task looks at its conversation: a deadline may move with each block, and moves for nothing. Whoever is
overdue has up to this much more."""


class Conversation(Protocol):
    """What is done at one socket."""

    steps: int
    """Counts what the other side has made possible: with each, its time begins anew."""
    step_seconds: float
    """So much time."""

    @property
    def descriptor(self) -> int:
        """The socket's; it stays open for as long as this is served."""

    def go_on(self) -> int:
        """Do a little of what can be done at once, and return what this waits for then. May raise; must not wait."""


@dataclass(slots=True, eq=False)
class _Served:
    conversation: Conversation
    descriptor: int
    waits_for: int
    hand: threading.Lock = field(default_factory=threading.Lock)
    """Held by whoever does something with the conversation, once it is registered."""
    has_left: bool = False
    ended: trio.Event = field(default_factory=trio.Event)
    error: Exception | None = None


class Turns:
    """Those of one server; see `open_turns`."""

    def __init__(self, poll: select.epoll, bell: int) -> None:
        """`bell` is an eventfd that is in the poll; it is rung when the thread is to end."""
        self._poll = poll
        self._bell = bell
        self._calls = LoopCalls()
        self._served: dict[int, _Served] = {}
        """By descriptor. Changed by tasks only."""
        self._is_over = False

    async def serve(self, conversation: Conversation) -> None:
        """Have `go_on` called whenever it can go on, until it waits for nothing or is overdue.

        The first time it is called here. Raises what it raises. Always a checkpoint.
        """
        await trio.lowlevel.checkpoint()
        waits_for = conversation.go_on()
        if waits_for == FOR_NOTHING:
            return
        served = _Served(conversation, conversation.descriptor, waits_for)
        self._served[served.descriptor] = served
        try:
            self._poll.register(served.descriptor, waits_for)
            await _end_or_overdue(served)
        finally:
            with served.hand:
                self._leave(served)
            del self._served[served.descriptor]
        if served.error is not None:
            raise served.error

    async def take(self) -> None:
        """Have turns taken until this is cancelled; then wait for the thread."""
        async with trio.open_nursery() as nursery:
            limiter = trio.CapacityLimiter(1)  # of its own: threads for short work are not to be fewer
            nursery.start_soon(partial(trio.to_thread.run_sync, self._take, limiter=limiter))
            try:
                await trio.sleep_forever()
            finally:
                self._is_over = True
                os.eventfd_write(self._bell, 1)

    def _take(self) -> None:
        while True:
            for descriptor, _ in self._poll.poll(maxevents=READY_MAX):
                if self._is_over:
                    return
                served = self._served.get(descriptor)
                if served is None:
                    continue  # it has left since the kernel named it
                with served.hand:
                    if not served.has_left:
                        self._go_on(served)

    def _go_on(self, served: _Served) -> None:
        waits_for = FOR_NOTHING
        try:
            waits_for = served.conversation.go_on()
        except Exception as error:  # whose it is, is told in its own task
            served.error = error
        if waits_for == FOR_NOTHING:
            self._leave(served)
            self._calls.make(served.ended.set)
        elif waits_for != served.waits_for:
            self._poll.modify(served.descriptor, waits_for)
            served.waits_for = waits_for

    def _leave(self, served: _Served) -> None:
        """Take no more turns. With the lock."""
        if not served.has_left:
            served.has_left = True
            self._poll.unregister(served.descriptor)


async def _end_or_overdue(served: _Served) -> None:
    conversation = served.conversation
    steps, due = -1, 0.0
    while not served.ended.is_set():
        now = trio.current_time()
        if conversation.steps != steps:
            steps, due = conversation.steps, now + conversation.step_seconds
        elif now >= due:
            return
        with trio.move_on_at(min(due, now + LOOK_SECONDS)):
            await served.ended.wait()


@contextmanager
def open_turns() -> Iterator[Turns]:
    """Have what turns need; whoever calls `take` and `serve` must have ended when the context is left."""
    bell = os.eventfd(0)
    try:
        with select.epoll() as poll:
            poll.register(bell, select.EPOLLIN)
            yield Turns(poll, bell)
    finally:
        os.close(bell)
