"""Turns: what cannot be had yet holds up nothing else, and what counts goes first."""

from collections import Counter

import trio

from node.ports import ContentUnavailableError
from node.services.turns import take_turns


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


async def test_without_anything_to_do_it_returns(autojump_clock: object) -> None:
    async def attempt(_task: int) -> None:
        raise AssertionError

    with trio.fail_after(1):
        await take_turns(attempt, [], at_once=4, retry_seconds=1)
