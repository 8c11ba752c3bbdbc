"""A request is served once, however often it is sent, and over restarts."""

import re
from collections.abc import Callable
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.ports import CallFailedError
from node.protocol.identifiers import RequestId
from node.services import freshness
from node.services.freshness import AGE_SECONDS_MAX, BOUND_STEP_SECONDS, DOCUMENT, FUTURE_SECONDS_MAX, FreshRequests
from node.store.books import Books
from node.store.database import Database
from tests.builders import account

PAYER = account(1)
NOW = 1_000_000


class Time:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> int:
        return self.now


def books() -> Books:
    return Books(Database(":memory:"), account(9))


def request(number: int) -> RequestId:
    return RequestId(number.to_bytes(32))


def code(admit: Callable[[], None]) -> str:
    try:
        admit()
    except CallFailedError as error:
        return error.code
    return "admitted"


def test_a_request_is_admitted_once_but_each_of_its_parts() -> None:
    fresh = FreshRequests(books(), lambda: NOW)
    fresh.admit(request(1), PAYER, 0, NOW)
    fresh.admit(request(1), PAYER, 40, NOW)  # fail-over came back to this executor, 40 tokens on
    fresh.admit(request(1), account(2), 0, NOW)
    assert code(lambda: fresh.admit(request(1), PAYER, 0, NOW)) == "replayed"


@pytest.mark.parametrize("offset", [-AGE_SECONDS_MAX - 1, FUTURE_SECONDS_MAX + 1])
def test_a_time_that_is_far_off_is_refused_with_the_difference(offset: int) -> None:
    fresh = FreshRequests(books(), lambda: NOW)
    with pytest.raises(CallFailedError, match=re.escape(f"time is {offset:+} s")) as caught:
        fresh.admit(request(1), PAYER, 0, NOW + offset)
    assert caught.value.code == "stale"


def test_what_is_forgotten_would_be_refused_for_its_age() -> None:
    clock = Time()
    fresh = FreshRequests(books(), clock)
    for number in range(200):
        clock.now = NOW + number * 10
        fresh.admit(request(number), PAYER, 0, clock.now)
    assert len(fresh._seen) <= AGE_SECONDS_MAX // 10 + 2
    for number in range(200):
        assert code(lambda number=number: fresh.admit(request(number), PAYER, 0, NOW + number * 10)) in (  # type: ignore[misc]
            "stale",
            "replayed",
        )


def test_when_too_many_must_be_remembered_more_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(freshness, "REMEMBERED_MAX", 10)
    fresh = FreshRequests(books(), lambda: NOW)
    for number in range(10):
        fresh.admit(request(number), PAYER, 0, NOW)
    assert code(lambda: fresh.admit(request(99), PAYER, 0, NOW)) == "busy"
    assert code(lambda: fresh.admit(request(0), PAYER, 0, NOW)) == "replayed"


@given(
    st.lists(st.tuples(st.integers(-AGE_SECONDS_MAX, FUTURE_SECONDS_MAX), st.integers(0, 20)), max_size=30),
    st.integers(0, 200),
)
def test_after_a_restart_nothing_that_was_served_is_served_again(
    requests: list[tuple[int, int]], seconds_down: int
) -> None:
    store, clock = books(), Time()
    fresh = FreshRequests(store, clock)
    served = []
    for number, (offset, pause) in enumerate(requests):
        clock.now += pause
        at = clock.now + offset
        if code(partial(fresh.admit, request(number), PAYER, 0, at)) == "admitted":
            served.append((number, at))
    clock.now += seconds_down
    again = FreshRequests(store, clock)
    for number, at in served:
        assert code(lambda number=number, at=at: again.admit(request(number), PAYER, 0, at)) == "stale"  # type: ignore[misc]


def test_after_a_restart_honest_requests_wait_seconds_at_most() -> None:
    store, clock = books(), Time()
    FreshRequests(store, clock).admit(request(1), PAYER, 0, NOW)
    again = FreshRequests(store, clock)
    clock.now += BOUND_STEP_SECONDS + 1
    again.admit(request(2), PAYER, 0, clock.now)


def test_the_bound_costs_few_writes() -> None:
    store, clock, writes = books(), Time(), []
    put = store.put_document
    store.put_document = lambda key, data: writes.append(key) or put(key, data)  # type: ignore[method-assign, func-returns-value]
    fresh = FreshRequests(store, clock)
    for number in range(1000):
        clock.now = NOW + number // 10
        fresh.admit(request(number), PAYER, 0, clock.now)
    assert len(writes) <= 100 // BOUND_STEP_SECONDS + 1


def test_a_bound_that_cannot_be_read_is_told_and_does_not_stop_the_node() -> None:
    store = books()
    store.put_document(DOCUMENT, b"\xffgarbage")
    FreshRequests(store, lambda: NOW).admit(request(1), PAYER, 0, NOW)


@pytest.mark.parametrize("back", [1, AGE_SECONDS_MAX, 3600])
def test_a_clock_that_is_set_back_serves_nothing_twice(back: int) -> None:
    clock, store = Time(), books()
    fresh = FreshRequests(store, clock)
    fresh.admit(request(1), PAYER, 0, NOW)
    clock.now = NOW + AGE_SECONDS_MAX + 1
    fresh.admit(request(2), PAYER, 0, clock.now)  # the first one is forgotten
    clock.now -= back
    assert code(lambda: fresh.admit(request(1), PAYER, 0, NOW)) in ("stale", "replayed")
    clock.now = NOW
    assert code(lambda: fresh.admit(request(1), PAYER, 0, NOW)) == "stale"
    assert code(lambda: FreshRequests(store, clock).admit(request(1), PAYER, 0, NOW)) == "stale"
    assert code(lambda: fresh.admit(request(3), PAYER, 0, NOW + 1)) == "admitted"  # new ones are served as before


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(-300, 300), st.integers(-30, 30)), max_size=40))
def test_whatever_the_clock_does_a_request_is_served_once(steps: list[tuple[int, int, int]]) -> None:
    clock, served = Time(), set[tuple[int, int]]()
    fresh = FreshRequests(books(), clock)
    for number, moves, offset in steps:
        clock.now += moves
        at = NOW + 30 * number + offset
        if code(partial(fresh.admit, request(number), PAYER, 0, at)) == "admitted":
            assert (number, at) not in served
            served.add((number, at))
