"""Parts of an answer reach their reader once and in order, whether it takes them at once or reads them."""

import trio
import trio.testing

from node.services.answers import AnswerPart
from node.services.outlet import Outlet

PARTS = [AnswerPart(str(number), (number,)) for number in range(6)]


async def test_parts_are_taken_at_once_only_by_a_reader_that_waits() -> None:
    outlet = Outlet(2)
    got: list[AnswerPart] = []

    def take_now(part: AnswerPart) -> bool:
        got.append(part)
        return True

    outlet.take_now = take_now
    assert outlet.give_now(PARTS[0])  # nobody waits yet: it is queued
    assert got == []

    async def read() -> None:
        async for part in outlet:
            got.append(part)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(read)
        await trio.testing.wait_all_tasks_blocked()
        assert got == PARTS[:1]
        assert outlet.give_now(PARTS[1])
        assert got == PARTS[:2]  # taken where it was given
        outlet.take_now = lambda _: False
        assert outlet.give_now(PARTS[2])
        outlet.take_now = take_now
        assert outlet.give_now(PARTS[3])  # the reader has not had the one before: this one waits behind it
        assert got == PARTS[:2]
        await trio.testing.wait_all_tasks_blocked()
        assert got == PARTS[:4]
        outlet.close()


async def test_an_outlet_is_full_when_its_queue_is() -> None:
    outlet = Outlet(2)
    for part in PARTS[:2]:
        assert outlet.has_room()
        assert outlet.give_now(part)
    assert not outlet.has_room()
    assert not outlet.give_now(PARTS[2])
