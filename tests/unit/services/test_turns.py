"""Turns: what cannot be had yet holds up nothing else, and what counts goes first."""

from collections import Counter

import trio

from node.ports import ContentUnavailableError
from node.services.turns import NotNowError, Wait, take_turns


async def test_what_is_withheld_for_ever_holds_up_nobody(autojump_clock: object) -> None:
    done: list[int] = []

    async def attempt(number: int) -> None:
        await trio.sleep(1)
        if number < 20:
            raise ContentUnavailableError("withheld")
        done.append(number)

    with trio.move_on_after(60):
        await take_turns(attempt, range(25), at_once=2, retry_seconds=5)
    assert sorted(done) == [20, 21, 22, 23, 24]


async def test_what_counts_goes_first_and_what_was_tried_less_before_what_was_tried_more(
    autojump_clock: object,
) -> None:
    tries: list[str] = []

    async def attempt(name: str) -> None:
        tries.append(name)
        await trio.sleep(1)
        if Counter(tries)[name] < {"slow": 3, "uncounted": 1}.get(name, 2):
            raise ContentUnavailableError("not yet")

    with trio.fail_after(100):
        await take_turns(attempt, ["slow", "first", "second"], ["uncounted"], at_once=1, retry_seconds=0.5)
    assert tries[:3] == ["slow", "first", "second"]
    assert tries[-1] == "uncounted"
    assert Counter(tries) == {"slow": 3, "first": 2, "second": 2, "uncounted": 1}


async def test_thousands_that_wait_for_the_same_ask_once_for_it_and_go_on_in_their_order(
    autojump_clock: object,
) -> None:
    """A model of ten thousand batches loads for ten minutes."""
    ready_at, asked, tries, done = 600.0, list[float](), Counter[int](), list[int]()

    def is_ready() -> bool:
        asked.append(trio.current_time())
        return trio.current_time() >= ready_at

    async def attempt(number: int) -> None:
        tries[number] += 1
        if number % 3 and trio.current_time() < ready_at:
            raise NotNowError("it loads", Wait(f"model {number % 3}", is_ready))
        done.append(number)
        await trio.lowlevel.checkpoint()

    with trio.fail_after(700):
        await take_turns(attempt, range(3000), at_once=4, retry_seconds=1)
    assert set(tries.values()) == {1, 2}
    assert len(asked) <= 2 * (ready_at + 2)
    assert done[:1000] == list(range(0, 3000, 3))
    assert sorted(done) == list(range(3000))


async def test_who_waits_for_something_else_is_called_when_that_is_there(autojump_clock: object) -> None:
    done: list[str] = []

    async def attempt(name: str) -> None:
        there = {"slow": 100.0, "quick": 10.0, "none": 0.0}[name]
        if trio.current_time() - begin < there:
            raise NotNowError(name, Wait(name, lambda: trio.current_time() - begin >= there))
        done.append(name)
        await trio.lowlevel.checkpoint()

    begin = trio.current_time()
    with trio.fail_after(102):
        await take_turns(attempt, ["slow", "quick", "none"], at_once=1, retry_seconds=1)
    assert done == ["none", "quick", "slow"]


async def test_without_anything_to_do_it_returns(autojump_clock: object) -> None:
    async def attempt(_task: int) -> None:
        raise AssertionError

    with trio.fail_after(1):
        await take_turns(attempt, [], at_once=4, retry_seconds=1)
