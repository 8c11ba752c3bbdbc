"""Samples of many epochs together: nothing is lost that a window looks at, and a history stays short."""

from hypothesis import given
from hypothesis import strategies as st

from node.protocol.binomial import FALSE_ALARMS_PER_BILLION_MAX, TESTS_PER_BATCH
from node.protocol.findings import SampleCount, SampleHistory
from node.protocol.history import BLOCK_EPOCHS, HISTORY_EPOCHS, PARTS, WINDOWS_EPOCHS, extend, is_beyond, still_known
from node.protocol.identifiers import EpochNumber
from tests.builders import TINY, account

KEY = (account(1), TINY)
RATE = 281
SAMPLED = 512
COUNTS_MAX = 14
"""Nine single epochs, the newest, and the blocks that epochs up to 39 ago can be in."""


def count(epoch: int, mismatches: int = 0, sampled: int = SAMPLED) -> SampleCount:
    return SampleCount(EpochNumber(epoch), sampled, mismatches, RATE)


def grown(counts: list[SampleCount]) -> SampleHistory:
    history = None
    for one in counts:
        history = extend(history, KEY, one)
    assert history is not None
    return history


def test_false_alarms_are_shared_out_among_all_tests_and_no_more_than_there_are() -> None:
    own = 1 / TESTS_PER_BATCH
    assert own + sum(1 / parts for parts in PARTS) == 1
    assert FALSE_ALARMS_PER_BILLION_MAX == 1000
    assert len(PARTS) == len(WINDOWS_EPOCHS)


@given(st.sets(st.integers(0, 200), min_size=1, max_size=120), st.integers(0, 5))
def test_a_history_is_short_and_has_all_of_the_longest_window(epochs: set[int], mismatches: int) -> None:
    ordered = sorted(epochs)
    history = grown([count(epoch, mismatches) for epoch in ordered])
    newest = ordered[-1]
    assert len(history.epochs) <= COUNTS_MAX
    assert [one.epoch for one in history.epochs] == sorted({one.epoch for one in history.epochs})
    for window in WINDOWS_EPOCHS[:-1]:
        known = sum(one.sampled for one in history.epochs if one.epoch > newest - window)
        assert known == SAMPLED * sum(epoch > newest - window for epoch in ordered)
    total = sum(one.sampled for one in history.epochs)
    assert sum(one.mismatches for one in history.epochs) * SAMPLED == total * mismatches
    least = SAMPLED * sum(epoch > newest - HISTORY_EPOCHS for epoch in ordered)
    most = SAMPLED * sum(epoch > newest - HISTORY_EPOCHS - BLOCK_EPOCHS for epoch in ordered)
    assert least <= total <= most


@given(st.lists(st.integers(1, 12), min_size=1, max_size=30))
def test_whoever_pauses_in_between_has_the_same_history_as_if_it_were_looked_at_in_every_epoch(gaps: list[int]) -> None:
    epoch, history, watched = 0, None, None
    for gap in gaps:
        for between in range(epoch + 1, epoch + gap):
            known = {KEY: watched} if watched else {}
            watched = still_known(known, EpochNumber(between)).get(KEY)
        epoch += gap
        history, watched = extend(history, KEY, count(epoch)), extend(watched, KEY, count(epoch))
    assert history == watched


def test_one_made_up_nonce_in_a_thousand_is_beyond_chance_over_a_month_and_not_over_ten_days() -> None:
    """One in each second epoch, of 512: a share of a thousandth."""
    history, found = None, None
    for epoch in range(60):
        history = extend(history, KEY, count(epoch, 1 if epoch % 3 else 0))
        if found is None and is_beyond(history):
            found = epoch
    assert found is not None
    assert 10 < found < 40


def test_honest_machines_at_the_rate_they_were_measured_at_are_never_near() -> None:
    history = None
    for epoch in range(200):
        history = extend(history, KEY, count(epoch, 1 if epoch % 7 == 0 else 0))  # 279 in a million
        assert not is_beyond(history)
