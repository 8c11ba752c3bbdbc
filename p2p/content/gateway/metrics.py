"""What a gateway did since it started: counts that threads and the event loop both add to."""

import threading
from collections import Counter
from dataclasses import dataclass, field


@dataclass(slots=True)
class GatewayMetrics:
    """Read at any time; added to by its methods."""

    served_bytes: int = 0
    """Bytes of blocks."""
    answers: Counter[int] = field(default_factory=Counter)
    """By HTTP status."""
    connections: int = 0
    """Accepted."""
    slow_readers_cut: int = 0
    lent: int = 0
    """Times a connection was given to a thread."""
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def count_answer(self, status: int) -> None:
        """Count an answer of this status."""
        with self._lock:
            self.answers[status] += 1

    def count_bytes(self, size: int) -> None:
        """Count bytes of blocks that were sent."""
        with self._lock:
            self.served_bytes += size
