"""How long the threads of a fetch have been at work, all together: receiving, hashing and writing blocks."""

import threading
import time
from dataclasses import dataclass, field


@dataclass(slots=True, eq=False)
class _OfThread:
    """Written by its thread alone. Whoever reads it meanwhile is wrong by one block of one thread at most."""

    thread: threading.Thread = field(default_factory=threading.current_thread)
    done_seconds: float = 0.0
    began: float | None = None
    processor: float | None = None
    """Of the thread, when it had done with its last block."""
    received: float = 0.0
    """Seconds of processor time since then, when it began with this one."""


class Effort:
    """Told by threads when they begin with a block that came and when they end; asked by one.

    What a thread did itself since its last block, such as taking the bytes from the kernel, counts too, but no more
    than the block itself: nobody is to keep us busy with bytes in tiny pieces. That it waited for them does not count.
    A thread that waits for the disk or for a core is at work: another source would not help it.
    """

    def __init__(self) -> None:
        self._here = threading.local()
        self._threads: list[_OfThread] = []
        self._ended_seconds = 0.0
        """Of threads that are no more: a source that closes each connection has us make many."""

    def begin(self) -> None:
        """Note that this thread begins with a block."""
        mine: _OfThread | None = getattr(self._here, "mine", None)
        if mine is None:
            mine = self._here.mine = _OfThread()
            self._threads.append(mine)
        mine.received = 0.0 if mine.processor is None else time.thread_time() - mine.processor
        mine.began = time.monotonic()

    def end(self) -> None:
        """Note that this thread has done with it."""
        mine: _OfThread = self._here.mine
        if mine.began is not None:
            worked = time.monotonic() - mine.began
            mine.done_seconds += worked + min(mine.received, worked)
            mine.began = None
        mine.processor = time.thread_time()

    @property
    def seconds(self) -> float:
        """Seconds of all threads so far, what is under way included."""
        for one in [one for one in self._threads if one.began is None and not one.thread.is_alive()]:
            self._threads.remove(one)
            self._ended_seconds += one.done_seconds
        total = self._ended_seconds
        for one in self._threads:
            began = one.began
            total += one.done_seconds + (0.0 if began is None else time.monotonic() - began)
        return total
