"""One source within a race: what it is asked for now, and how much may be, by what it gave so far.

A source on a thin line has one block under way, one that gives blocks in milliseconds as many as its window and several
in one request.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum, auto

import trio

from p2p.content.cid import Cid
from p2p.content.source import BlockSource, HandlingSource
from p2p.standing import Offence

HEDGE_SECONDS_MIN = 0.5
"""A block younger than this is not asked twice: it is likely on its way."""
HEDGE_FACTOR = 2.0
"""Nor one for which this source itself would need more than half the time it took already."""
HEDGE_SECONDS_UNKNOWN = 2.0
"""The same for a source that has given nothing yet."""
QUICK_PART = 8
"""A block that came within this part of its time lets its source have one more request under way, up to its window."""
SLOW_PART = 4
"""One that took longer than this part halves them. So a thin line has one block under way, and gets it in time."""
SMOOTHING = 0.2
"""Weight of the newest block in a source's mean time."""
RUN_BLOCKS_MAX = 4
"""Blocks asked of a source at once. One turn of the event loop costs about as much as hashing 100 kB; at more, the ends
of a fetch get uneven, and a block waits longer until somebody else is asked."""
RUN_SECONDS_MAX = 0.02
"""What a source gives in that time may be asked of it at once: so late is it told of, and asked for more."""


class Outcome(Enum):
    """What became of a block that came whole."""

    TAKEN = auto()
    DUPLICATE = auto()
    CORRUPT = auto()


@dataclass(frozen=True, slots=True)
class Arrival:
    """A block that came whole."""

    outcome: Outcome
    size: int
    seconds: float
    """From when it was asked for until it had come, without what we then did with it."""


@dataclass(slots=True, eq=False)
class Peer:
    """A source that takes part."""

    source: BlockSource
    handling: HandlingSource | None = field(init=False)
    """The source again, if it has threads of its own."""
    queue: deque[Cid] = field(default_factory=deque)
    """Blocks that came back and that this source may be asked for."""
    runs: set["Run"] = field(default_factory=set)
    dropped: bool = False
    block_seconds: float | None = None
    lacks: int = 0
    """Blocks it lacked since it last gave one."""
    excused_at: float | None = None
    """When it last gave a block, or had a request taken from it that its line may have been busy with."""
    room: int = 1
    """Blocks that may be under way before it is asked for more."""
    under_way: int = 0
    """Not counted any more before the block is hashed and written: the line must not wait for the disk."""
    run_blocks: int = 1
    """Blocks it is asked for at once."""
    waiting: trio.lowlevel.ParkingLot = field(default_factory=trio.lowlevel.ParkingLot)
    """Workers that wait for room."""
    workers: int = 0
    """Tasks that ask for blocks, or wait for something to ask for."""
    is_resting: bool = False
    """Not asked for fresh blocks, because others suffice."""
    given_bytes: int = 0
    """Since it was last settled who rests."""

    def __post_init__(self) -> None:
        self.handling = self.source if isinstance(self.source, HandlingSource) else None

    def adapt(self, seconds: float, block_seconds_max: float) -> None:
        """Learn from a block that came within so many seconds of at most so many."""
        if seconds > block_seconds_max / SLOW_PART:
            self.room = max(1, self.room // 2)
        elif seconds < block_seconds_max / QUICK_PART and self.room < self.source.window:
            self.room += 1
        each = seconds / self.room  # the others were under way meanwhile
        if each * self.run_blocks > RUN_SECONDS_MAX:
            self.run_blocks = max(1, self.run_blocks // 2)
        elif self.handling is not None and each * (self.run_blocks + 1) < RUN_SECONDS_MAX:
            self.run_blocks = min(RUN_BLOCKS_MAX, self.run_blocks + 1)
        self.block_seconds = (
            seconds if self.block_seconds is None else self.block_seconds + SMOOTHING * (seconds - self.block_seconds)
        )

    def take_room(self, count: int) -> None:
        """Count blocks as under way. If there is room for more, another worker is to see to it."""
        self.under_way += count
        self.wake_one()

    def wake_one(self) -> None:
        """Wake a worker if there is room."""
        if self.under_way < self.room:
            self.waiting.unpark()

    def have_threads(self, count: int) -> None:
        """Have so many threads of its own, and as much under way for each as before."""
        if self.handling is None or self.handling.threads == count:
            return
        before = self.handling.threads
        self.handling.use_threads(count)
        self.room = max(1, min(self.source.window, self.room * count // before))

    def hedge_after_seconds(self) -> float:
        """Return how long another has to be late with a block before this one is asked for it too."""
        if self.block_seconds is None:
            return HEDGE_SECONDS_UNKNOWN
        return max(HEDGE_SECONDS_MIN, HEDGE_FACTOR * self.block_seconds)


@dataclass(slots=True, eq=False)
class Run:
    """One request for a block, or for several at once, at one source."""

    peer: Peer
    cids: list[Cid]
    started: float
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)
    room_taken: int = 0
    arrivals: dict[Cid, Arrival] = field(default_factory=dict)
    """Filled by whatever thread receives blocks."""
    lacked: Sequence[Cid] = ()
    failure: tuple[str, Offence | None] | None = None
    """Why its source is to be dropped."""

    def take_room(self) -> None:
        """Count its blocks as under way."""
        self.room_taken = len(self.cids)
        self.peer.take_room(self.room_taken)

    def release_room(self) -> None:
        """Let other requests go. Whoever does not go on to ask for more wakes a worker."""
        self.peer.under_way -= self.room_taken
        self.room_taken = 0
