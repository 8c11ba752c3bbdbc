"""Turns follow the streams' own steps: gaps stay what they are at the engine, and no turn is longer than is seen."""

import itertools
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.engine.pace import (
    INTERVAL_SECONDS_MAX,
    READINGS_PER_MEASURE,
    TURN_SECONDS_MAX,
    TURN_SECONDS_MIN,
    Pace,
    turn_seconds_for,
)

TURNS = 600


def gaps_of(step_seconds: float, turn_seconds: float, begin: float = 0.0) -> list[float]:
    """Return what lies between the turns in which a stream with a token every step has something new."""
    read_in, taken = list[float](), 0
    for turn in range(1, TURNS):
        now = turn * turn_seconds
        given_by_now = max(0, int((now - begin) / step_seconds))
        if given_by_now > taken:
            read_in.append(now)
            taken = given_by_now
    return [later - earlier for earlier, later in itertools.pairwise(read_in)]


@given(st.floats(0.0005, 0.2))
def test_turns_stay_within_what_nobody_sees(step_seconds: float) -> None:
    assert TURN_SECONDS_MIN <= turn_seconds_for(step_seconds) <= TURN_SECONDS_MAX


@given(st.floats(0.0126, 0.1), st.floats(0.0, 0.1))
def test_the_usual_gap_is_the_engines_own_at_any_pace(step_seconds: float, begin: float) -> None:
    gaps = gaps_of(step_seconds, turn_seconds_for(step_seconds), begin)
    assert statistics.median(gaps) == pytest.approx(step_seconds, rel=0.05)


@given(st.floats(0.001, 0.08), st.sampled_from([TURN_SECONDS_MIN, 0.018, TURN_SECONDS_MAX]))
def test_whatever_turns_are_at_first_they_become_those_of_the_pace(step_seconds: float, first: float) -> None:
    pace = Pace()
    pace.turn_seconds = first
    for _ in range(60):
        for gap in gaps_of(step_seconds, pace.turn_seconds)[:READINGS_PER_MEASURE]:
            pace.note(gap)
    assert TURN_SECONDS_MIN <= pace.turn_seconds <= TURN_SECONDS_MAX
    gaps = gaps_of(step_seconds, pace.turn_seconds)
    assert statistics.median(gaps) <= max(TURN_SECONDS_MIN, step_seconds) * 1.1


def test_who_pauses_says_nothing_of_the_pace() -> None:
    pace = Pace()
    for _ in range(READINGS_PER_MEASURE):
        pace.note(0.025)
        pace.note(INTERVAL_SECONDS_MAX * 2)
    assert pace.turn_seconds == pytest.approx(0.024)
