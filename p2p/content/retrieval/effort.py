"""How long the threads of a fetch have been at work, all together: receiving, hashing and writing blocks."""

import threading
import time


class Effort:
    """Told by threads when they begin with a block that came and when they end; asked by anybody.

    What a thread did itself since its last block, such as taking the bytes from the kernel, counts too, but no more
    than the block itself: nobody is to keep us busy with bytes in tiny pieces. That it waited for them does not count.
    A thread that waits for the disk or for a core is at work: another source would not help it.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._of_thread = threading.local()
        # Behind the lock:
        self._done_seconds = 0.0
        self._under_way = 0
        self._begun_sum = 0.0
        """Of the times at which what is under way was begun."""

    def begin(self) -> None:
        """Note that this thread begins with a block."""
        mine = self._of_thread
        processor = time.thread_time()
        mine.received = processor - getattr(mine, "processor", processor)
        mine.began = now = time.monotonic()
        with self._lock:
            self._under_way += 1
            self._begun_sum += now

    def end(self) -> None:
        """Note that this thread has done with it."""
        mine = self._of_thread
        mine.processor = time.thread_time()
        now = time.monotonic()
        worked = now - mine.began
        with self._lock:
            self._done_seconds += worked + min(mine.received, worked)
            self._under_way -= 1
            self._begun_sum = self._begun_sum - mine.began if self._under_way else 0.0

    @property
    def seconds(self) -> float:
        """Seconds of all threads so far, what is under way included."""
        with self._lock:
            return self._done_seconds + self._under_way * time.monotonic() - self._begun_sum
