"""When items go: at most one message per topic and second, except urgent ones.

An item waits GATHER_SECONDS, so that what is said together goes together, or until a second has passed since the
topic's last message. Pure: the caller says what time it is.
"""

from collections import deque
from dataclasses import dataclass, field

from p2p.gossip.batch import ITEMS_MAX, encode_batch, item_bytes_max, size_with

PERIOD_SECONDS = 1.0
"""One message costs each peer of the network about a millisecond; so often may one node ask for that, per topic."""
GATHER_SECONDS = 0.05
WAITING_ITEMS_MAX = 4096
WAITING_BYTES_MAX = 1 << 20
"""Per topic; beyond either the oldest item is dropped, for newer ones say what is true now."""
URGENT_PER_SECOND_MAX = 4
"""Urgent messages per topic; more wait like others, so that nobody's haste makes its peers refuse what it says."""


@dataclass(slots=True)
class _Topic:
    items: deque[bytes] = field(default_factory=deque)
    size: int = 0
    """Bytes of all items."""
    first_at: float = 0.0
    sent_at: float = float("-inf")
    urgent_at: deque[float] = field(default_factory=lambda: deque(maxlen=URGENT_PER_SECOND_MAX))

    def due_at(self) -> float:
        return max(self.first_at + GATHER_SECONDS, self.sent_at + PERIOD_SECONDS) if self.items else float("inf")


class Outbox:
    """Items of this node that wait, by topic."""

    def __init__(self, message_bytes_max: int) -> None:
        self._message_bytes_max = message_bytes_max
        self._topics: dict[str, _Topic] = {}
        self.dropped = 0
        """Items dropped because too many waited."""

    def add(self, topic: str, item: bytes, now: float) -> None:
        """Have `item` go with the topic's next message. Raises ValueError if it fits into none."""
        if not 0 < len(item) <= item_bytes_max(self._message_bytes_max):
            raise ValueError(
                f"an item of {len(item)} bytes: 1 to {item_bytes_max(self._message_bytes_max)} fit into a message"
            )
        waiting = self._topics.setdefault(topic, _Topic())
        if not waiting.items:
            waiting.first_at = now
        waiting.items.append(item)
        waiting.size += len(item)
        while len(waiting.items) > WAITING_ITEMS_MAX or waiting.size > WAITING_BYTES_MAX:
            waiting.size -= len(waiting.items.popleft())
            self.dropped += 1

    def may_hurry(self, topic: str, now: float) -> bool:
        """Whether an urgent message may go now; if so, it is counted."""
        hurried = self._topics.setdefault(topic, _Topic()).urgent_at
        if len(hurried) == URGENT_PER_SECOND_MAX and now - hurried[0] < PERIOD_SECONDS:
            return False
        hurried.append(now)
        return True

    def take(self, topic: str, now: float, *, first: bytes | None = None) -> bytes | None:
        """Return the topic's next message, `first` at its head, and with it what waits and fits; None for none."""
        waiting = self._topics.setdefault(topic, _Topic())
        items = [] if first is None else [first]
        size = 0 if first is None else size_with(0, first)
        while waiting.items and len(items) < ITEMS_MAX and size_with(size, waiting.items[0]) <= self._message_bytes_max:
            item = waiting.items.popleft()
            waiting.size -= len(item)
            size = size_with(size, item)
            items.append(item)
        if not items:
            return None
        waiting.sent_at = now
        return encode_batch(items)

    def due(self, now: float) -> list[str]:
        """Topics whose message is due."""
        return [topic for topic, waiting in self._topics.items() if waiting.due_at() <= now]

    def next_due_at(self) -> float:
        """When the next message is due; infinity while nothing waits."""
        return min((waiting.due_at() for waiting in self._topics.values()), default=float("inf"))
