"""What gossip does and what it costs, counted since start."""

from dataclasses import dataclass, field
from enum import Enum


class Drop(Enum):
    """Why something was not processed or not sent."""

    BUDGET = "budget"
    """The forwarding peer sent more than its share."""
    ORIGIN_BUDGET = "origin-budget"
    """The message's maker sends more than its share."""
    OVERLOAD = "overload"
    """All peers together sent more than this node takes, and this one more than its share of that."""
    REFUSED = "refused"
    FORGED = "forged"
    MALFORMED = "malformed"
    BANNED = "banned"
    """Made by a banned peer."""
    UNWANTED = "unwanted"
    """Judged IGNORE, or on a topic this node does not follow."""
    OUTBOX = "outbox"
    """Own items that waited behind too many others."""
    OUTGOING = "outgoing"
    """Frames for a peer that reads too slowly, or beyond what we may send it in a second."""
    FAILED = "failed"
    """A fault of ours: see the log."""


@dataclass(frozen=True, slots=True)
class GossipMetrics:
    """A snapshot. Everything but `mesh` and `peers` only grows."""

    published_items: int
    published_messages: int
    received_messages: int
    """Messages from peers, duplicates included."""
    delivered_messages: int
    """Messages from peers that were accepted and forwarded."""
    delivered_items: int
    """Items from peers that a judge accepted."""
    duplicates: int
    forwarded_frames: int
    """Messages handed to a peer's queue: one for each peer it goes to."""
    dropped: dict[str, int]
    """By reason, see Drop."""
    bytes_received: int
    bytes_sent: int
    cpu_seconds: float
    """Of parsing, checking, judging and forwarding; without the streams' encryption."""
    peers: int
    mesh: dict[str, int]
    """Peers in the mesh of each topic this node follows."""


@dataclass(slots=True)
class Counters:
    """Where the parts of gossip count."""

    published_items: int = 0
    published_messages: int = 0
    received_messages: int = 0
    delivered_messages: int = 0
    delivered_items: int = 0
    duplicates: int = 0
    forwarded_frames: int = 0
    bytes_received: int = 0
    bytes_sent: int = 0
    cpu_seconds: float = 0.0
    dropped: dict[Drop, int] = field(default_factory=lambda: dict.fromkeys(Drop, 0))

    def drop(self, reason: Drop, count: int = 1) -> None:
        """Count what is dropped."""
        self.dropped[reason] += count

    def snapshot(self, *, peers: int, mesh: dict[str, int]) -> GossipMetrics:
        """Return what is counted so far."""
        return GossipMetrics(
            published_items=self.published_items,
            published_messages=self.published_messages,
            received_messages=self.received_messages,
            delivered_messages=self.delivered_messages,
            delivered_items=self.delivered_items,
            duplicates=self.duplicates,
            forwarded_frames=self.forwarded_frames,
            dropped={reason.value: count for reason, count in self.dropped.items()},
            bytes_received=self.bytes_received,
            bytes_sent=self.bytes_sent,
            cpu_seconds=self.cpu_seconds,
            peers=peers,
            mesh=mesh,
        )
