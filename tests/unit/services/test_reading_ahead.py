"""Questions to an engine, several ahead: in order, none lost or doubled, none asked once nobody may go on."""

from collections.abc import Iterator, Sequence
from typing import Any, cast

import pytest
import trio

from node.ports import Engine, EngineFailedError, EngineRefusedError
from node.services.reading_ahead import PRIORITY, QUESTIONS_AT_ONCE, RETRY_SECONDS, Prompts, Rows, read_ahead

COUNT = 12


class Reader:
    """An engine that says of a prompt its first token; takes `seconds` for it, however many are asked at once."""

    def __init__(self, seconds: float = 1.0) -> None:
        self.seconds = seconds
        self.asked: list[int] = []
        self.answered: list[int] = []
        self.failures: dict[int, list[Exception]] = {}
        self.at_work = self.most_at_work = 0

    async def prompt_logprobs(self, prompts: Sequence[Sequence[int]], *, priority: int) -> list[list[float]]:
        assert priority == PRIORITY
        number = prompts[0][0]
        self.asked.append(number)
        self.at_work += 1
        self.most_at_work = max(self.most_at_work, self.at_work)
        try:
            await trio.sleep(self.seconds)
        finally:
            self.at_work -= 1
        if self.failures.get(number):
            raise self.failures[number].pop(0)
        self.answered.append(number)
        return [[float(number)]]

    @property
    def engine(self) -> Engine:
        return cast(Any, self)


def questions(count: int = COUNT) -> Iterator[Prompts]:
    return ([[number]] for number in range(count))


class Taken(list[int]):
    def take(self, rows: Rows) -> None:
        self.append(int(rows[0][0]))


async def test_all_are_taken_in_order_with_several_on_their_way(autojump_clock: object) -> None:
    reader, taken = Reader(), Taken()
    await read_ahead(reader.engine, questions(), taken.take, purpose="test")
    assert taken == reader.asked == list(range(COUNT))
    assert reader.most_at_work == QUESTIONS_AT_ONCE


async def test_the_first_question_goes_alone_so_that_a_slow_engine_answers_it_first(autojump_clock: object) -> None:
    reader, taken = Reader(), Taken()
    with trio.move_on_after(reader.seconds * 0.5):
        await read_ahead(reader.engine, questions(), taken.take, purpose="test")
    assert reader.asked == [0]


async def test_no_more_are_made_than_are_asked(autojump_clock: object) -> None:
    made: list[int] = []

    def coming() -> Iterator[Prompts]:
        for number in range(1000):
            made.append(number)
            yield [[number]]

    reader, taken = Reader(), Taken()
    with trio.move_on_after(3.5 * reader.seconds):
        await read_ahead(reader.engine, coming(), taken.take, purpose="test")
    assert made == reader.asked
    assert len(made) <= len(taken) + QUESTIONS_AT_ONCE


async def test_a_failed_question_is_asked_again_and_nothing_is_lost_doubled_or_out_of_order(
    autojump_clock: object,
) -> None:
    for failing in ({0: 1}, {0: 3, 1: 2, 2: 1}, {3: 1, 4: 1, 5: 1}, {COUNT - 1: 2}):
        reader, taken = Reader(), Taken()
        reader.failures = {number: [EngineFailedError("gone")] * times for number, times in failing.items()}
        await read_ahead(reader.engine, questions(), taken.take, purpose="test")
        assert taken == list(range(COUNT))
        assert sorted(reader.answered) == list(range(COUNT))


async def test_a_failing_engine_is_not_asked_without_a_pause(autojump_clock: object) -> None:
    reader, taken = Reader(seconds=0.0), Taken()
    reader.failures = {0: [EngineFailedError("gone")] * 1000}
    with trio.move_on_after(10.5 * RETRY_SECONDS):
        await read_ahead(reader.engine, questions(), taken.take, purpose="test")
    assert len(reader.asked) == 11


async def test_what_is_not_taken_is_asked_again(autojump_clock: object) -> None:
    reader, taken, refused = Reader(), Taken(), [4, 4, 9]

    def take(rows: Rows) -> None:
        if rows[0][0] in refused:
            refused.remove(int(rows[0][0]))
            raise ValueError("no numbers")
        taken.take(rows)

    await read_ahead(reader.engine, questions(), take, purpose="test")
    assert taken == list(range(COUNT))
    assert sorted(reader.asked) == sorted([*range(COUNT), 4, 4, 9])


@pytest.mark.parametrize("refused", [0, 5, COUNT - 1])
async def test_a_refusal_ends_it_with_all_before_it_taken(autojump_clock: object, refused: int) -> None:
    reader, taken = Reader(), Taken()
    reader.failures = {refused: [EngineRefusedError("too long")]}
    with pytest.raises(EngineRefusedError, match="too long"):
        await read_ahead(reader.engine, questions(), taken.take, purpose="test")
    assert taken == list(range(refused))
    assert reader.at_work == 0


async def test_nothing_is_asked_or_asked_again_once_it_may_not_go_on(autojump_clock: object) -> None:
    reader, taken = Reader(), Taken()
    await read_ahead(reader.engine, questions(), taken.take, purpose="test", may_go_on=lambda: len(taken) < 5)
    assert taken == list(range(5))
    assert reader.at_work == 0  # what was on its way is given up

    reader, taken, may = Reader(), Taken(), [True]
    reader.failures = {0: [EngineFailedError("the model was changed")]}

    async def forbid() -> None:
        await trio.sleep(reader.seconds + RETRY_SECONDS / 2)
        may[0] = False

    async with trio.open_nursery() as nursery:
        nursery.start_soon(forbid)
        await read_ahead(reader.engine, questions(), taken.take, purpose="test", may_go_on=lambda: may[0])
    assert (taken, reader.asked) == ([], [0])


async def test_where_there_is_nothing_to_read_nobody_is_asked() -> None:
    reader, taken = Reader(), Taken()
    await read_ahead(reader.engine, questions(0), taken.take, purpose="test")
    assert (reader.asked, taken) == ([], [])
