"""Where the line is drawn between chance and made-up nonces: exact powers and false alarms, nothing simulated."""

from fractions import Fraction
from math import comb

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from node.protocol import binomial
from node.protocol.binomial import (
    FALSE_ALARMS_PER_BILLION_MAX,
    MILLION,
    MISMATCH_PER_MILLION_LEAST,
    TESTS_PER_BATCH,
    detection_per_million,
    is_beyond_chance,
    reject_from,
)

BOUND = Fraction(FALSE_ALARMS_PER_BILLION_MAX, TESTS_PER_BATCH * 10**9)
RECOMMENDED = 600
"""Nonces per batch for a model that nobody calibrated (p0 = 1,000 per million)."""


def tail(sampled: int, at_least: int, chance: Fraction) -> Fraction:
    return sum(
        (comb(sampled, n) * chance**n * (1 - chance) ** (sampled - n) for n in range(at_least, sampled + 1)),
        Fraction(0),
    )


@settings(deadline=None)
@given(st.integers(1, 60), st.integers(10, 300_000))
def test_the_line_is_the_first_count_that_honest_samples_do_not_reach(sampled: int, per_million: int) -> None:
    line = reject_from(sampled, per_million)
    chance = Fraction(per_million, 10**6)
    assert line == sampled + 1 or tail(sampled, line, chance) <= BOUND
    assert tail(sampled, line - 1, chance) > BOUND


@settings(deadline=None)
@given(st.integers(1, 3000), st.integers(0, 40), st.integers(0, 100_000))
def test_the_fast_way_draws_the_same_line(sampled: int, mismatches: int, per_million: int) -> None:
    assert is_beyond_chance(sampled, mismatches, per_million) == (mismatches >= reject_from(sampled, per_million))


def line_of_sums(sampled: int, per_million: int, parts: int) -> int:
    """What `reject_from` promises, by adding up every probability."""
    chance = max(MISMATCH_PER_MILLION_LEAST, per_million)
    if chance >= MILLION:
        return sampled + 1
    left = MILLION**sampled
    for mismatches in range(sampled + 1):
        if left * parts * 10**9 <= MILLION**sampled * FALSE_ALARMS_PER_BILLION_MAX:
            return mismatches
        left -= comb(sampled, mismatches) * chance**mismatches * (MILLION - chance) ** (sampled - mismatches)
    return sampled + 1


RATES = st.one_of(
    st.integers(0, 30_000), st.integers(0, MILLION + 1), st.integers(MILLION - 50, MILLION), st.sampled_from([1000])
)


@settings(deadline=None, max_examples=300)
@given(st.one_of(st.integers(0, 12), st.integers(0, 500)), RATES, st.sampled_from([1, 4, 8, 100]))
@example(2, 500, 4)  # the tail is the share itself: one in four millions
@example(2, 1000, 1)
@example(0, 1000, 4)
@example(1, MILLION - 1, 4)
def test_the_line_is_that_of_whole_probabilities_for_every_share(sampled: int, per_million: int, parts: int) -> None:
    assert reject_from.__wrapped__(sampled, per_million, parts) == line_of_sums(sampled, per_million, parts)


def test_a_tail_that_is_the_share_itself_is_on_the_line() -> None:
    assert reject_from(2, 500, 4) == 2
    assert tail(2, 2, Fraction(500, MILLION)) == BOUND


@pytest.mark.parametrize(
    ("per_million", "parts", "line"),
    [(1000, 4, 90), (1000, 8, 91), (20_000, 8, 1166)],  # added up once, in half a second
)
def test_the_line_of_the_longest_window_is_drawn_without_adding_up_whole_probabilities(
    monkeypatch: pytest.MonkeyPatch, per_million: int, parts: int, line: int
) -> None:
    """It is drawn where the whole daemon waits for it."""

    def never(*_: int) -> int:
        raise AssertionError("added up whole probabilities of 50,000 nonces")

    monkeypatch.setattr(binomial, "_terms", never)
    nonces = 50_000 if per_million == 1000 else 49_999
    assert reject_from.__wrapped__(nonces, per_million, parts) == line


def test_a_calibration_without_any_mismatch_does_not_make_one_mismatch_a_crime() -> None:
    assert reject_from(RECOMMENDED, 0) == 3


def test_a_rate_of_all_condemns_nobody() -> None:
    assert not is_beyond_chance(64, 64, 1_000_000)


def test_honest_batches_are_rejected_once_in_a_million_over_all_four_tests() -> None:
    p0 = Fraction(1, 1000)
    windows = (RECOMMENDED, RECOMMENDED, 3 * RECOMMENDED, 10 * RECOMMENDED)
    total = sum(1 - sum(comb(n, m) * p0**m * (1 - p0) ** (n - m) for m in range(reject_from(n, 1000))) for n in windows)
    assert total <= Fraction(1, 10**6)


@pytest.mark.parametrize(
    ("epochs", "fakes_per_million", "per_million", "least"),
    [
        (1, 20_000, 1000, 900_000),  # 2 % within one epoch
        (3, 10_000, 1000, 900_000),  # 1 % within three
        (10, 5_000, 1000, 980_000),  # 0.5 % within ten
        (1, 50_000, 1000, 999_000),
    ],
)
def test_a_host_that_makes_up_nonces_is_caught(
    epochs: int, fakes_per_million: int, per_million: int, least: int
) -> None:
    sampled = epochs * RECOMMENDED
    line = reject_from(sampled, per_million)
    assert detection_per_million(sampled, line, fakes_per_million, per_million) >= least


def test_a_sample_of_64_would_miss_it() -> None:
    assert detection_per_million(64, reject_from(64, 1000), 20_000, 1000) < 20_000
