"""Reads many sockets in one task: what has come for any of them is taken in turns of a few milliseconds.

*Purpose.* A server with many streams sends each a few hundred bytes at a time. To wake a task for each of those costs
several times what it takes to read them, and what leaves in many small turns cannot leave together.

*Detail.* There is no task of its own. Of the tasks that wait for their sockets one *leads*: it waits for all of them
and hands out what has come, in its own turn, by plain calls. When it has what it waited for, or is cancelled, another
one leads. After each turn the leader rests for a moment, so that more can come together. What comes after a silence is
the beginning of a step's burst: an engine gives all its streams a token with each step, and its server sends them one
after the other. The leader waits for as long as that takes, and so has the whole step in one turn; if all have
something, it does not wait. How long a step takes need not be known, and streams that keep no step lose nothing: while
they run there is no silence.
"""

import contextlib
import math
import os
import select
from collections.abc import Callable

import trio

RECEIVE_BYTES = 32 * 1024
"""Taken from a socket in one turn. More is taken in the next one, so that no socket keeps the others waiting."""
TURN_SECONDS = 0.012
"""From the beginning of one turn to that of the next. Nobody who reads an answer sees twelve milliseconds. A turn costs
a wake-up and a write here and a reading at the other end, and each finds the processor's caches cold: the first token
of a turn takes ten times as long as the others. First tokens do not wait for a turn (node/engine/plain_http.py).
"""
REST_SECONDS_MIN = 0.006
"""Between turns where they take long: a machine that is busy is not to have more of them."""
BURST_SECONDS_EACH, BURST_SECONDS_MAX = 0.0001, 0.006
"""How long a step's burst may go on, for each socket that has nothing yet and in all: vLLM's server takes about 70
microseconds for each (benchmarks/steps.py). What is later comes with the next turn.
"""
CAN_POLL = hasattr(select, "epoll")
"""Elsewhere than on Linux a task waits for each socket."""

Take = Callable[[bytes], bool]
"""Told what has come, nothing at the end of the connection; returns whether it wants more. May raise."""


class _Source:
    """A socket that is read, and how that ended."""

    def __init__(self, take: Take) -> None:
        self.take = take
        self.heard_at = trio.current_time()
        self.is_done = False
        self.error: Exception | None = None
        self.changed = trio.lowlevel.ParkingLot()

    def end(self, error: Exception | None = None) -> None:
        self.is_done = True
        self.error = self.error or error
        self.changed.unpark_all()


class ReadySockets:
    """The sockets of one server. Bounded by the requests that run; nothing is kept of a socket that is not read."""

    def __init__(self) -> None:
        self._sources: dict[int, _Source] = {}
        self._poll: select.epoll | None = None
        self._leader: _Source | None = None
        self._leading = trio.CancelScope()

    async def read(self, descriptor: int, take: Take, *, silence_seconds: float) -> None:
        """Hand what comes at a non-blocking socket to `take` until it wants no more.

        `take` is called in whichever task leads, and must not block. Raises what it raises, OSError, and
        trio.TooSlowError if nothing came for so long.
        """
        if descriptor < 0:
            raise trio.ClosedResourceError("the connection was closed here")
        source = self._sources[descriptor] = _Source(take)
        try:
            self._register(descriptor)
            while not source.is_done:
                with trio.move_on_at(source.heard_at + silence_seconds) as limit:
                    await self._lead_or_wait(source)
                if limit.cancelled_caught and trio.current_time() >= source.heard_at + silence_seconds:
                    raise trio.TooSlowError
        finally:
            if self._sources.get(descriptor) is source:
                self._remove(descriptor)
            self._hand_over()
        if source.error is not None:
            raise source.error

    def forget(self, descriptor: int) -> None:
        """A socket is about to be closed: whoever reads it gets trio.ClosedResourceError."""
        source = self._sources.get(descriptor)
        if source is not None:
            self._remove(descriptor)
            source.end(trio.ClosedResourceError("the connection was closed here"))
            if source is self._leader:
                self._leading.cancel()

    async def _lead_or_wait(self, source: _Source) -> None:
        if self._leader is not None:
            await source.changed.park()
            return
        if self._poll is None:
            raise RuntimeError("there is nothing to poll for a socket that is read")
        self._leader = source
        try:
            with trio.CancelScope() as self._leading:
                await self._lead(source, self._poll)
        finally:
            self._leader = None

    async def _lead(self, source: _Source, poll: select.epoll) -> None:
        next_turn, is_calm = -math.inf, True
        while not source.is_done:
            if is_calm:
                await trio.lowlevel.wait_readable(poll.fileno())
                is_calm = trio.current_time() >= next_turn
                next_turn = max(next_turn, self._burst_end(poll))
            if trio.current_time() < next_turn:
                await trio.sleep_until(next_turn)
            began = trio.current_time()
            ready = poll.poll(0)
            for descriptor, _ in ready:
                self._read_one(descriptor, began)
            is_calm = is_calm or not ready  # else more comes while it rests, and need not wake it
            next_turn = max(began + TURN_SECONDS, trio.current_time() + REST_SECONDS_MIN) if ready else began

    def _burst_end(self, poll: select.epoll) -> float:
        """Say when a burst that begins now has come whole: at once, if nothing is missing."""
        missing = len(self._sources) - len(poll.poll(0))
        return trio.current_time() + min(missing * BURST_SECONDS_EACH, BURST_SECONDS_MAX)

    def _read_one(self, descriptor: int, now: float) -> None:
        source = self._sources.get(descriptor)
        if source is None:
            return  # what came before it in this turn has ended it
        try:
            data = os.read(descriptor, RECEIVE_BYTES)
            source.heard_at = now
            goes_on = source.take(data) and bool(data)
        except BlockingIOError:
            return
        except Exception as error:  # whose socket it is, is told in its own task
            source.error = error
            goes_on = False
        if not goes_on:
            self._remove(descriptor)
            source.end()

    def _register(self, descriptor: int) -> None:
        if self._poll is None:
            self._poll = select.epoll()
        self._poll.register(descriptor, select.EPOLLIN)

    def _remove(self, descriptor: int) -> None:
        del self._sources[descriptor]
        if self._poll is not None:
            with contextlib.suppress(OSError):  # it was never registered
                self._poll.unregister(descriptor)

    def _hand_over(self) -> None:
        """Have another task lead, if nobody does; the last one puts out the light."""
        if self._leader is not None:
            return
        if self._sources:
            next(iter(self._sources.values())).changed.unpark_all()
        elif self._poll is not None:
            self._poll.close()
            self._poll = None
