"""What a gateway has for all its requests, and what it counts of them."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

import trio

from node.ports import Network, WallClock
from node.protocol.identifiers import Address
from node.protocol.messages import Presence
from node.services.desk import Desk
from node.services.faults import FaultBook
from node.services.frames import InferenceRequest
from node.services.nearness import Nearness
from node.services.patience import HedgeBudget
from node.services.share_checks import ShareBook
from node.services.speeds import SpeedBook
from node.services.unreceived import UnreceivedBook


@dataclass(slots=True)
class Counts:
    """What a gateway did since it started."""

    requests: int = 0
    hedges: int = 0
    failovers: int = 0
    """Answers that went on with another executor after their first token."""
    refused_busy: int = 0
    """Requests that nobody had room for."""


@dataclass(slots=True)
class Trade:
    """What a gateway has for all its requests."""

    desk: Desk
    network: Network
    speeds: SpeedBook
    faults: FaultBook
    hedges: HedgeBudget
    wall_clock: WallClock
    announce: Callable[[InferenceRequest], None]
    record_of: Callable[[Address], Presence | None]
    """What an executor last said of itself, if it is present."""
    nearness: Nearness
    unreceived: UnreceivedBook
    shares: ShareBook = field(default_factory=ShareBook)
    in_flight: Counter[Address] = field(default_factory=Counter)
    """Requests of this gateway that run at each executor."""
    busy_until: dict[Address, float] = field(default_factory=dict)
    """Who said `busy`, and until when (trio's clock). As many as are present at most: only they are asked."""
    counts: Counts = field(default_factory=Counts)

    def is_busy(self, executor: Address) -> bool:
        """Whether it sent this gateway away a moment ago."""
        until = self.busy_until.get(executor)
        if until is not None and until <= trio.current_time():
            del self.busy_until[executor]
            return False
        return until is not None
