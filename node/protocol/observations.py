"""What a validator may say it saw: bounds and order, checked before anything of its bundle counts."""

from itertools import pairwise
from typing import Any

from node.protocol.findings import SCORE_FULL, Observations
from node.protocol.records import UINT64_MAX
from node.protocol.throughput import SLOTS

SIGHTINGS_MAX = 1024
"""Twice the members a group may have: newcomers are seen too."""
MEASURES_MAX = 4096
"""Executors and models that one gateway can have asked often enough in an epoch."""
SERVED_MAX = 256
"""Models one executor can have served."""
ANSWERS_MAX = 2**32
MILLISECONDS_MAX = 3_600_000
"""An hour: no request lives longer."""
MICROSECONDS_MAX = MILLISECONDS_MAX * 1000


class ObservationError(ValueError):
    """What a bundle says was seen cannot be: the bundle is void."""


def check_observations(observations: Observations) -> None:
    """Raise ObservationError unless all is within bounds and in order, each thing once."""
    _check_order("sightings", [item.participant.lower() for item in observations.sightings], SIGHTINGS_MAX)
    _check_order("measures", [(item.executor.lower(), item.model_id) for item in observations.measures], MEASURES_MAX)
    _check_order("served", [item.model_id for item in observations.served], SERVED_MAX)
    for sighting in observations.sightings:
        _check_range("sightings", sighting.per_mille, SCORE_FULL)
    for measure in observations.measures:
        _check_range("answers", measure.answers, ANSWERS_MAX)
        _check_range("first_ms", measure.first_ms, MILLISECONDS_MAX)
        _check_range("token_us", measure.token_us, MICROSECONDS_MAX)
    for served in observations.served:
        if len(served.slot_tokens) != SLOTS:
            raise ObservationError(f"served: {SLOTS} timeslots, not {len(served.slot_tokens)}")
        for tokens in served.slot_tokens:
            _check_range("slot_tokens", tokens, UINT64_MAX)


def _check_order(name: str, keys: list[Any], most: int) -> None:
    if len(keys) > most:
        raise ObservationError(f"{name}: {len(keys)} entries, at most {most}")
    if any(before >= after for before, after in pairwise(keys)):
        raise ObservationError(f"{name} must ascend, each once")


def _check_range(name: str, value: int, most: int) -> None:
    if not 0 <= value <= most:
        raise ObservationError(f"{name}: {value} is not in 0..{most}")
