"""How many sources are asked at once: as many as keep our threads at work, and nobody alone for long."""

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2p.content.retrieval import breadth
from p2p.content.retrieval.breadth import (
    ENOUGH,
    FAST_PART,
    INTERVAL_SECONDS,
    REVIEW_SECONDS,
    Breadth,
    Interval,
    decide,
    draw,
    hands,
    least_with_all_hands,
    threads_each,
)

REVIEW_INTERVALS = round(REVIEW_SECONDS / INTERVAL_SECONDS)


def play(busy: Callable[[int], float], *, able: int, intervals: int, least: int = 1) -> list[int]:
    """Return how many were asked in each interval, all at first, where `busy` tells how busy so many make us."""
    known, asked, history = Breadth(), able, []
    for _ in range(intervals):
        history.append(asked)
        known, asked = decide(known, Interval(INTERVAL_SECONDS, asked, able, least, busy(asked)))
    return history


@pytest.mark.parametrize("needed", [1, 2, 3, 4, 5, 6])
def test_as_many_are_asked_as_keep_us_at_work_and_all_if_not_even_they_do(needed: int) -> None:
    history = play(lambda asked: min(1.0, asked / needed), able=6, intervals=REVIEW_INTERVALS // 2)
    # ENOUGH of the work may be given by one less than all of it needs.
    assert history[-1] in (needed, needed - 1)
    assert history[-1] / needed >= ENOUGH
    assert history[0] == 6


def test_whoever_cannot_keep_us_at_work_together_are_all_asked_all_the_time() -> None:
    assert set(play(lambda asked: asked * 0.2, able=3, intervals=3 * REVIEW_INTERVALS)) == {3}


def test_trials_and_reviews_cost_a_hundredth_of_what_all_sources_give() -> None:
    for needed in (1.9, 2.5, 3.2, 4.9):

        def busy(asked: int, needed: float = needed) -> float:
            return min(1.0, asked / needed)

        history = play(busy, able=5, intervals=10 * REVIEW_INTERVALS)
        short = sum(max(0.0, ENOUGH - busy(asked)) for asked in history)
        assert short / len(history) < 0.01


def test_one_that_gives_a_little_too_little_alone_has_others_beside_it_at_once() -> None:
    history = play(lambda asked: 1.0 if asked > 1 else ENOUGH - 0.01, able=3, intervals=40)
    alone = history.index(1)
    assert history[alone : alone + 8].count(1) == 3  # what is seen first is of both
    assert history[-1] == 2


def test_when_the_one_stalls_all_others_are_back_after_one_interval() -> None:
    known, asked = decide(Breadth(seconds=3.0), Interval(INTERVAL_SECONDS, 1, 3, 1, 0.0))
    assert asked == 3
    assert known.too_few == 1


def test_nobody_is_asked_alone_for_longer_than_a_review() -> None:
    history = play(lambda _asked: 1.0, able=3, intervals=5 * REVIEW_INTERVALS)
    assert history.count(3) >= 5
    longest = max(len(alone) for alone in "".join(map(str, history)).split("3"))
    assert longest <= REVIEW_INTERVALS
    assert history.count(1) > 0.98 * len(history)


def test_a_short_wait_is_forgiven_once_but_not_in_every_other_interval() -> None:
    known, asked = decide(Breadth(), Interval(INTERVAL_SECONDS, 1, 3, 1, 0.7))
    assert asked == 1
    known, asked = decide(known, Interval(INTERVAL_SECONDS, 1, 3, 1, 1.0))
    assert asked == 1
    for busy in (0.5, 1.5):  # more threads than cores, and then nearly none: no more than ENOUGH of the work on average
        known, asked = decide(known, Interval(INTERVAL_SECONDS, asked, 3, 1, busy))
    assert asked == 3


@given(st.lists(st.floats(0, 1.5), min_size=2, max_size=50))
def test_whoever_is_asked_alone_gave_enough_of_what_we_can_take(busy: list[float]) -> None:
    known, alone = Breadth(), []
    for part in busy:
        known, asked = decide(known, Interval(INTERVAL_SECONDS, 1, 3, 1, part))
        if asked > 1:
            break
        alone.append(min(part, 1.0))
    assert sum(alone) / max(1, len(alone)) >= ENOUGH - 1 / max(1, len(alone))


def test_where_fewer_would_have_fewer_threads_none_rests() -> None:
    assert set(play(lambda _asked: 1.0, able=6, intervals=50, least=6)) == {6}


@given(
    known=st.builds(
        Breadth, st.integers(0, 8), st.floats(0, 1), st.booleans(), st.floats(0, REVIEW_SECONDS, exclude_max=True)
    ),
    able=st.integers(0, 8),
    data=st.data(),
)
def test_whatever_was_seen_somebody_is_asked_and_nobody_who_cannot_be(
    known: Breadth, able: int, data: st.DataObject
) -> None:
    asked = data.draw(st.integers(min(1, able), able))
    seen = Interval(
        data.draw(st.floats(0, 60)), asked, able, data.draw(st.integers(min(1, able), able)), data.draw(st.floats(0, 9))
    )
    now, count = decide(known, seen)
    assert min(1, able) <= count <= able
    if count < asked:
        assert seen.busy >= ENOUGH
        assert count >= seen.least
    assert now.seconds < REVIEW_SECONDS


@given(st.lists(st.integers(0, 2**40), min_size=1, max_size=8), st.data())
def test_the_fast_ones_are_drawn_before_others(given_bytes: list[int], data: st.DataObject) -> None:
    count = data.draw(st.integers(1, len(given_bytes)))
    drawn = draw(given_bytes, count)
    assert len(set(drawn)) == len(drawn) == count
    fast = {place for place, size in enumerate(given_bytes) if size * FAST_PART >= max(given_bytes)}
    assert fast.issuperset(drawn) or fast.issubset(drawn)


def test_over_many_fetches_equal_servers_are_drawn_equally_and_slow_ones_never() -> None:
    times = [0, 0, 0, 0]
    for _ in range(3000):
        (place,) = draw([100, 90, 110, 20], 1)
        times[place] += 1
    assert times[3] == 0
    assert all(850 < count < 1150 for count in times[:3])  # five and a half standard deviations


@pytest.mark.parametrize(
    ("cores", "sources", "each"), [(3, 1, 3), (3, 2, 1), (3, 3, 1), (16, 3, 3), (16, 8, 2), (3, 64, 1), (1, 0, 3)]
)
def test_threads_stay_within_cores_while_each_source_has_one(
    monkeypatch: pytest.MonkeyPatch, cores: int, sources: int, each: int
) -> None:
    monkeypatch.setattr(breadth, "THREADS_MAX", max(3, cores))
    assert threads_each(sources, 3) == each


@pytest.mark.parametrize(
    ("cores", "able", "least"), [(2, 3, 1), (4, 3, 1), (4, 2, 2), (8, 3, 2), (16, 6, 4), (2, 1, 1)]
)
def test_fewer_suffice_only_if_they_have_as_many_threads(
    monkeypatch: pytest.MonkeyPatch, cores: int, able: int, least: int
) -> None:
    monkeypatch.setattr(breadth, "CORES", cores)
    monkeypatch.setattr(breadth, "THREADS_MAX", max(3, cores))
    assert least_with_all_hands(able, 3) == least
    assert hands(least, 3) >= hands(able, 3)
