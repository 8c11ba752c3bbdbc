"""The threads that hash and write blocks: order, errors, cancellation, an end without leftovers."""

import threading
from collections.abc import Callable

import pytest
import trio

from p2p.content.retrieval.hands import Hands, open_hands

SECONDS_MAX = 10


async def _waits(hands: Hands, count: int) -> None:
    while hands.waiting != count:
        await trio.sleep(0.001)


async def test_work_is_begun_in_the_order_of_asking_and_each_asker_gets_its_own_result() -> None:
    begun: list[int] = []
    results: dict[int, int] = {}
    first_begun, gate = threading.Event(), threading.Event()

    def piece(number: int) -> Callable[[], int]:
        def work() -> int:
            first_begun.set()
            gate.wait(SECONDS_MAX)
            begun.append(number)
            return number * number

        return work

    async def ask(number: int) -> None:
        results[number] = await hands.do(piece(number))

    with trio.fail_after(SECONDS_MAX):
        async with open_hands(1) as hands, trio.open_nursery() as nursery:
            for number in range(20):
                nursery.start_soon(ask, number)
                if number == 0:
                    await trio.to_thread.run_sync(first_begun.wait, SECONDS_MAX)
                await _waits(hands, number)
            gate.set()
    assert begun == list(range(20))
    assert results == {number: number * number for number in range(20)}


async def test_as_many_pieces_run_at_once_as_there_are_threads() -> None:
    barrier = threading.Barrier(3)

    async def ask() -> None:
        await hands.do(lambda: barrier.wait(SECONDS_MAX))  # breaks unless three meet

    with trio.fail_after(2 * SECONDS_MAX):
        async with open_hands(3) as hands, trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(ask)


async def test_what_work_raises_comes_to_whoever_asked_and_the_threads_go_on() -> None:

    def fail() -> int:
        raise OSError("no space")

    with trio.fail_after(SECONDS_MAX):
        async with open_hands(1) as hands:
            with pytest.raises(OSError, match="no space"):
                await hands.do(fail)
            assert await hands.do(lambda: 7) == 7


async def test_work_that_is_cancelled_before_it_was_begun_never_runs_and_begun_work_is_waited_for() -> None:
    begun, gate = threading.Event(), threading.Event()
    done: list[str] = []

    def slow() -> int:
        begun.set()
        gate.wait(SECONDS_MAX)
        done.append("slow")
        return 1

    def never() -> int:
        done.append("never")
        return 2

    async def ask(work: Callable[[], int]) -> None:
        await hands.do(work)
        done.append("told")

    with trio.fail_after(SECONDS_MAX):
        async with open_hands(1) as hands, trio.open_nursery() as nursery:
            nursery.start_soon(ask, slow)
            await trio.to_thread.run_sync(begun.wait, SECONDS_MAX)
            nursery.start_soon(ask, never)
            await _waits(hands, 1)
            nursery.cancel_scope.cancel()
            await trio.lowlevel.cancel_shielded_checkpoint()
            gate.set()
    assert done == ["slow", "told"]
    assert hands.waiting == 0


async def test_a_failure_beside_them_lets_the_threads_end() -> None:
    before = threading.active_count()
    with (
        trio.fail_after(SECONDS_MAX),
        pytest.RaisesGroup(ZeroDivisionError, allow_unwrapped=True, flatten_subgroups=True),
    ):
        async with open_hands(2) as hands:
            await hands.do(lambda: 1)
            raise ZeroDivisionError
    assert threading.active_count() <= before + 2  # trio keeps idle threads for later
