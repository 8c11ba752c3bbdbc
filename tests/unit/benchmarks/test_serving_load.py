"""How tokens came together, told from when they came."""

import pytest

from benchmarks.serving_load import together

STEP = 0.025
STREAMS, STEPS = 16, 40


def test_tokens_that_a_step_gives_all_streams_are_seen_as_a_burst() -> None:
    streams = [[step * STEP + number * 0.0001 for step in range(STEPS)] for number in range(STREAMS)]
    found = together(streams, STEP)
    assert found["burst_pieces"] == STREAMS
    assert found["burst_p50"] == pytest.approx(0.0015)
    assert found["near"] == 1.0
    assert found["busy"] < 0.15


def test_streams_with_clocks_of_their_own_make_no_bursts() -> None:
    streams = [[(step + number / STREAMS) * STEP for step in range(STEPS)] for number in range(STREAMS)]
    found = together(streams, STEP)
    assert found["burst_pieces"] == STREAMS * STEPS
    assert found["busy"] > 0.6


def test_a_stream_alone_is_near_no_other() -> None:
    found = together([[step * STEP for step in range(STEPS)]], STEP)
    assert (found["near"], found["burst_pieces"], found["burst_p50"]) == (0.0, 1, 0.0)


def test_no_tokens_say_nothing() -> None:
    assert set(together([[], []], 0.0).values()) == {0.0}
