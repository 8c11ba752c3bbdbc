"""Matters that wait for their own outcomes: each is begun once, none holds up another, and so many have room."""

import trio

from node.services.key_tasks import KeyTasks


async def test_a_matter_is_begun_again_when_it_is_done_and_holds_up_no_other(autojump_clock: object) -> None:
    begun: list[str] = []

    async def work(name: str, seconds: float) -> None:
        begun.append(name)
        await trio.sleep(seconds)

    async with trio.open_nursery() as nursery:
        tasks = KeyTasks(nursery, at_once=2)
        for _ in range(3):
            tasks.start("stuck", lambda: work("stuck", 100))
            tasks.start("quick", lambda: work("quick", 1))
            tasks.start("third", lambda: work("third", 1))
            assert not tasks.is_free("third")
            await trio.sleep(2)
            assert tasks.is_free("third")
            assert not tasks.is_free("stuck")
        nursery.cancel_scope.cancel()
    assert sorted(begun) == ["quick"] * 3 + ["stuck"]


async def test_a_matter_that_fails_is_not_going_on_any_more() -> None:
    async def fail() -> None:
        raise OSError("no chain")

    tasks: list[KeyTasks] = []
    try:
        async with trio.open_nursery() as nursery:
            tasks.append(KeyTasks(nursery, at_once=1))
            tasks[0].start("one", fail)
    except* OSError:
        pass
    assert tasks[0].is_free("one")
