"""In which order executors are asked for an answer: the draw decides, load and measured speed choose among neighbours.

The draw (node/protocol/routing.py) shares requests by proved throughput and is the same for everyone. What one gateway
knows beyond it may move a participant by one place among those that are well. So nobody honest is starved by what a
gateway measured, and gateways do not all run to the same executor at once.
"""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from node.protocol.identifiers import RequestId
from node.protocol.routing import ExecutorChoice

FAITHFUL_ONE_IN = 8
"""One request in so many keeps the draw's order: whoever is slow, or was measured badly, still gets an eighth of its
share, and is measured anew by it."""
WORTH_SWAPPING = 0.8
"""The second of a pair goes first if it is expected to take less than this share of the first's time. Smaller
differences are noise, and following noise makes gateways move in step."""
SPEED_RATIO_MAX = 4.0
"""A measured time counts as at most so many times the others' median, and at least that part of it."""
SCORE_MIN = 0.25
"""A low score weighs no more than a load of three times the capacity: those to be left out are `is_faulty`."""


@dataclass(frozen=True, slots=True)
class Prospect:
    """A drawn executor, with what this gateway knows of it."""

    choice: ExecutorChoice
    load: int = 0
    """Requests in progress: the greater of what it says and of what this gateway has running there."""
    capacity: int = 0
    """Requests it serves at once; 0: not known."""
    seconds: float | None = None
    """Expected time to the first tokens; None: not measured lately."""
    delay: float = 0.0
    """Seconds that come on top: its channel is to be funded first, or it is far away."""
    is_busy: bool = False
    """It sent this gateway away a moment ago."""
    score: float = 1.0
    """How far it is trusted to do its work: 1 without a blemish, towards 0 with them."""
    is_faulty: bool = False
    """It failed here a short while ago."""


def once_per_participant(ranked: Sequence[ExecutorChoice]) -> tuple[ExecutorChoice, ...]:
    """Keep each participant's best place: its nodes share one door, which has been knocked at then."""
    first: dict[str, ExecutorChoice] = {}
    for choice in ranked:
        first.setdefault(choice.participant, choice)
    return tuple(first.values())


def is_faithful(request_id: RequestId) -> bool:
    """Whether this request keeps the draw's order. Request ids are random."""
    return request_id[-1] % FAITHFUL_ONE_IN == 0


def order_candidates(drawn: Sequence[Prospect], *, faithful: bool) -> tuple[ExecutorChoice, ...]:
    """Return those drawn in the order to ask them: the well before the full before the faulty, each as drawn.

    Unless `faithful`, neighbours among the well change places where the second is expected to be clearly faster: the
    power of two choices, pair by pair, so that nobody moves by more than one place.
    """
    tiers: tuple[list[Prospect], ...] = ([], [], [])
    for prospect in drawn:
        tiers[_tier(prospect)].append(prospect)
    well = tiers[0] if faithful else _pairwise(tiers[0])
    return tuple(prospect.choice for prospect in (*well, *tiers[1], *tiers[2]))


def _tier(prospect: Prospect) -> int:
    if prospect.is_faulty or prospect.score <= 0:
        return 2
    return 1 if prospect.is_busy or prospect.load >= prospect.capacity > 0 else 0


def _pairwise(prospects: Sequence[Prospect]) -> list[Prospect]:
    known = [prospect.seconds for prospect in prospects if prospect.seconds is not None]
    typical = statistics.median(known) if known else 1.0
    ordered: list[Prospect] = []
    for start in range(0, len(prospects), 2):
        pair = list(prospects[start : start + 2])
        if len(pair) == 2 and _cost(pair[1], typical) < WORTH_SWAPPING * _cost(pair[0], typical):
            pair.reverse()
        ordered.extend(pair)
    return ordered


def _cost(prospect: Prospect, typical: float) -> float:
    """Expected time to the first tokens. `typical` stands in for what was not measured."""
    seconds = typical if prospect.seconds is None else prospect.seconds
    bounded = min(max(seconds, typical / SPEED_RATIO_MAX), typical * SPEED_RATIO_MAX)
    fullness = prospect.load / prospect.capacity if prospect.capacity else 0.0
    return (prospect.delay + bounded * (1.0 + fullness)) / max(SCORE_MIN, min(1.0, prospect.score))
