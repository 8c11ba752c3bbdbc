"""How fast executors answered this gateway: smoothed, and forgotten when old."""

import statistics
from collections import OrderedDict, deque
from dataclasses import dataclass, field

from node.protocol.findings import SpeedMeasure
from node.protocol.identifiers import Address, ModelId

PAIRS_MAX = 4096
"""Executors and models remembered; the one measured longest ago is forgotten first."""
MODELS_MAX = 256
RECENT_MAX = 256
"""Times to the first token kept for each model, of all executors together."""
WEIGHT_MIN = 0.2
"""Of a new measurement against those before."""
HALF_LIFE_SECONDS = 60.0
"""After so long without one, a new measurement weighs as much as all before."""
MEMORY_SECONDS = 600.0
"""What was not measured for so long is unknown: engines restart, links change."""
COMPARED_TOKENS = 32
"""Executors are compared by the time to so many tokens: a short answer, or a user's first look at a long one."""
PACE_SECONDS = 1.0
"""How old a median may be."""
PEERS_MIN = 5
"""Fewer measurements than this say nothing about the slowest of them."""


@dataclass(slots=True)
class Smoothed:
    """A moving average that follows at least as fast as time passes."""

    value: float
    at: float

    def add(self, value: float, now: float) -> None:
        """Take in a measurement."""
        weight = max(WEIGHT_MIN, 1.0 - 0.5 ** ((now - self.at) / HALF_LIFE_SECONDS))
        self.value += weight * (value - self.value)
        self.at = now


@dataclass(slots=True)
class Speed:
    """Of one executor with one model."""

    first: Smoothed | None = None
    """Seconds from the call to the first token."""
    token: Smoothed | None = None
    """Seconds from one token to the next."""


@dataclass(slots=True)
class RecentFirsts:
    """The newest times to a first token with one model."""

    entries: deque[tuple[Address, float]] = field(default_factory=lambda: deque(maxlen=RECENT_MAX))


@dataclass(slots=True)
class Tally:
    """What was measured of one executor with one model since the last vote bundle, in seconds."""

    firsts: deque[float] = field(default_factory=lambda: deque(maxlen=RECENT_MAX))
    tokens: deque[float] = field(default_factory=lambda: deque(maxlen=RECENT_MAX))
    answers: int = 0


class SpeedBook:
    """Measurements of this gateway. Times are of a monotonic clock, in seconds."""

    def __init__(self) -> None:
        self._speeds: OrderedDict[tuple[Address, ModelId], Speed] = OrderedDict()
        self._paces: dict[ModelId, tuple[float, float | None]] = {}
        """When a median was found, and what it was: every request asks for it. As many as there are models."""
        self._recent: OrderedDict[ModelId, RecentFirsts] = OrderedDict()
        self._tallies: dict[tuple[Address, ModelId], Tally] = {}
        """At most PAIRS_MAX in an epoch."""

    def take_measures(self) -> tuple[SpeedMeasure, ...]:
        """Return medians of what was measured since this was asked last: evidence for scores."""
        tallies, self._tallies = self._tallies, {}
        return tuple(
            SpeedMeasure(
                executor=executor,
                model_id=model_id,
                answers=tally.answers,
                first_ms=round(1000 * statistics.median(tally.firsts)),
                token_us=round(1_000_000 * statistics.median(tally.tokens)) if tally.tokens else 0,
            )
            for (executor, model_id), tally in tallies.items()
            if tally.firsts
        )

    def add_first(self, executor: Address, model_id: ModelId, seconds: float, now: float) -> None:
        """A first token came `seconds` after the call, or had not come by then."""
        speed = self._touch(executor, model_id)
        tally = self._tally(executor, model_id)
        if tally is not None:
            tally.firsts.append(seconds)
            tally.answers += 1
        if speed.first is None:
            speed.first = Smoothed(seconds, now)
        else:
            speed.first.add(seconds, now)
        if model_id not in self._recent and len(self._recent) >= MODELS_MAX:
            self._recent.popitem(last=False)
        self._recent.setdefault(model_id, RecentFirsts()).entries.append((executor, seconds))
        self._recent.move_to_end(model_id)

    def add_pace(self, executor: Address, model_id: ModelId, seconds_per_token: float, now: float) -> None:
        """An answer's tokens came so far apart on average."""
        speed = self._touch(executor, model_id)
        tally = self._tally(executor, model_id)
        if tally is not None:
            tally.tokens.append(seconds_per_token)
        if speed.token is None:
            speed.token = Smoothed(seconds_per_token, now)
        else:
            speed.token.add(seconds_per_token, now)

    def first_seconds(self, executor: Address, model_id: ModelId, now: float) -> float | None:
        """Expected time to the first token, if it was measured lately."""
        speed = self._speeds.get((executor, model_id))
        return None if speed is None else _fresh(speed.first, now)

    def expected_seconds(self, executor: Address, model_id: ModelId, now: float) -> float | None:
        """Expected time to the first COMPARED_TOKENS tokens, if the first was measured lately."""
        first = self.first_seconds(executor, model_id, now)
        if first is None:
            return None
        token = _fresh(self._speeds[executor, model_id].token, now)
        usual = self.pace(model_id, now) if token is None else token
        return first + (COMPARED_TOKENS - 1) * (usual or 0.0)

    def pace(self, model_id: ModelId, now: float) -> float | None:
        """The median of all executors' seconds per token with this model, if any was measured lately."""
        found_at, found = self._paces.get(model_id, (float("-inf"), None))
        if now - found_at >= PACE_SECONDS:
            found = self._median_pace(model_id, now)
            self._paces[model_id] = (now, found)
        return found

    def _median_pace(self, model_id: ModelId, now: float) -> float | None:
        known = [
            value
            for (_, model), speed in self._speeds.items()
            if model == model_id and (value := _fresh(speed.token, now)) is not None
        ]
        return statistics.median(known) if known else None

    def slow_first_seconds(self, model_id: ModelId, *, without: Address | None = None) -> float | None:
        """The time within which 95 % of recent first tokens came from others than `without`; None: too few to say."""
        recent = self._recent.get(model_id)
        times = sorted(seconds for executor, seconds in recent.entries if executor != without) if recent else []
        if len(times) < PEERS_MIN:
            return None
        return times[min(len(times) - 1, len(times) * 95 // 100)]

    def _tally(self, executor: Address, model_id: ModelId) -> Tally | None:
        key = (executor, model_id)
        if key not in self._tallies and len(self._tallies) >= PAIRS_MAX:
            return None
        return self._tallies.setdefault(key, Tally())

    def _touch(self, executor: Address, model_id: ModelId) -> Speed:
        key = (executor, model_id)
        if key not in self._speeds and len(self._speeds) >= PAIRS_MAX:
            self._speeds.popitem(last=False)
        speed = self._speeds.setdefault(key, Speed())
        self._speeds.move_to_end(key)
        return speed


def _fresh(smoothed: Smoothed | None, now: float) -> float | None:
    return None if smoothed is None or now - smoothed.at > MEMORY_SECONDS else smoothed.value
