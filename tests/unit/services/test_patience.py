"""How long a gateway waits, how fast it believes executors to be, and how often it asks two."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.services.patience import (
    ALONE_FACTOR,
    FIRST_SECONDS_MIN,
    HEDGE_SECONDS_MAX,
    HEDGE_SECONDS_MIN,
    HEDGED_SHARE,
    HEDGES_SAVED_MAX,
    OPENING_SECONDS_MAX,
    SILENCE_SECONDS_MAX,
    SILENCE_SECONDS_MIN,
    TOKEN_SECONDS_MAX,
    HedgeBudget,
    hedge_seconds,
    patience,
)
from node.services.speeds import COMPARED_TOKENS, MEMORY_SECONDS, PAIRS_MAX, PEERS_MIN, SpeedBook
from tests.builders import TINY, account, model

measured = st.none() | st.floats(0, 1e4)


@given(measured, measured, st.booleans())
def test_patience_is_bounded_whatever_was_measured(slow_first: float | None, pace: float | None, alone: bool) -> None:
    found = patience(slow_first, pace, alone=alone)
    factor = ALONE_FACTOR if alone else 1.0
    assert FIRST_SECONDS_MIN * factor <= found.first <= OPENING_SECONDS_MAX * factor
    assert SILENCE_SECONDS_MIN * factor <= found.silence <= SILENCE_SECONDS_MAX * factor
    assert found.token <= TOKEN_SECONDS_MAX * factor
    assert HEDGE_SECONDS_MIN <= hedge_seconds(slow_first) <= HEDGE_SECONDS_MAX


def test_silence_is_noticed_by_the_usual_pace() -> None:
    assert patience(0.2, 0.025, alone=False).silence == SILENCE_SECONDS_MIN
    assert patience(0.2, 0.5, alone=False).silence == 20.0


@given(st.lists(st.booleans(), max_size=2000))
def test_no_more_than_a_share_of_requests_is_asked_twice(wanted: list[bool]) -> None:
    budget, hedges = HedgeBudget(), 0
    for wants in wanted:
        budget.count_request()
        hedges += wants and budget.take()
    assert hedges <= HEDGES_SAVED_MAX + HEDGED_SHARE * len(wanted)


def test_speeds_follow_what_is_measured_and_are_forgotten() -> None:
    book = SpeedBook()
    book.add_first(account(1), TINY, 1.0, 0.0)
    for second in range(60):
        book.add_first(account(1), TINY, 3.0, float(second))
    first = book.first_seconds(account(1), TINY, 60.0)
    assert first is not None
    assert 2.9 < first <= 3.0
    assert book.first_seconds(account(2), TINY, 60.0) is None
    assert book.first_seconds(account(1), TINY, 60.0 + MEMORY_SECONDS) is None


def test_the_slowest_usual_first_token_is_told_by_peers_alone_and_not_by_a_few() -> None:
    book = SpeedBook()
    for count in range(PEERS_MIN):
        assert book.slow_first_seconds(TINY) is None
        book.add_first(account(1), TINY, 0.1 * (count + 1), 0.0)
    assert book.slow_first_seconds(TINY) == 0.5
    assert book.slow_first_seconds(TINY, without=account(1)) is None
    assert book.slow_first_seconds(model().model_id) == 0.5


def test_the_pace_is_the_median_of_executors_and_a_slow_one_does_not_set_it() -> None:
    book = SpeedBook()
    for number, pace in ((1, 0.02), (2, 0.03), (3, 20.0)):
        book.add_pace(account(number), TINY, pace, 0.0)
    assert book.pace(TINY, 1.0) == 0.03


def test_executors_are_compared_by_the_time_to_some_tokens() -> None:
    book = SpeedBook()
    book.add_first(account(1), TINY, 0.1, 0.0)
    assert book.expected_seconds(account(1), TINY, 0.0) == 0.1
    book.add_pace(account(1), TINY, 0.1, 2.0)
    book.add_first(account(2), TINY, 0.2, 2.0)
    assert book.expected_seconds(account(1), TINY, 2.0) == pytest.approx(0.1 + 0.1 * (COMPARED_TOKENS - 1))
    assert book.expected_seconds(account(2), TINY, 2.0) == pytest.approx(0.2 + 0.1 * (COMPARED_TOKENS - 1))
    assert book.expected_seconds(account(3), TINY, 2.0) is None


def test_a_flood_of_executors_does_not_grow_the_book() -> None:
    book = SpeedBook()
    for number in range(PAIRS_MAX + 10):
        book.add_first(f"0x{number:040x}", TINY, 1.0, 0.0)  # type: ignore[arg-type]
    assert len(book._speeds) == PAIRS_MAX
