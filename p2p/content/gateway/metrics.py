"""What a gateway counts, in the event loop and in the thread that sends leaf after leaf."""

import threading
from collections import Counter
from dataclasses import dataclass, field


@dataclass(slots=True)
class GatewayMetrics:
    """What a gateway did since it started."""

    served_bytes: int = 0
    """Bytes of blocks."""
    answers: Counter[int] = field(default_factory=Counter)
    """By HTTP status."""
    connections: int = 0
    """Accepted."""
    slow_readers_cut: int = 0
    _counting: threading.Lock = field(default_factory=threading.Lock, repr=False, compare=False)

    def count_answer(self, status: int) -> None:
        """Count an answer that is begun. For any thread."""
        with self._counting:
            self.answers[status] += 1

    def count_served(self, size: int) -> None:
        """Count so many bytes of a block. For any thread."""
        with self._counting:
            self.served_bytes += size
