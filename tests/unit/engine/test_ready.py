"""Many sockets read by one task: each gets what is its own, whoever comes, goes, or fails beside it."""

import socket
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial

import pytest
import trio
import trio.testing
from trio.testing import MockClock

from node.engine.ready import (
    BURST_SECONDS_EACH,
    BURST_SECONDS_MAX,
    CAN_POLL,
    REST_SECONDS_MIN,
    TURN_SECONDS,
    ReadySockets,
)

pytestmark = pytest.mark.skipif(not CAN_POLL, reason="there is no epoll here")


@contextmanager
def pairs(count: int) -> Iterator[list[tuple[socket.socket, socket.socket]]]:
    """Connected sockets; the first of each is read."""
    made = [socket.socketpair() for _ in range(count)]
    for reader, _ in made:
        reader.setblocking(False)
    try:
        yield made
    finally:
        for pair in made:
            for end in pair:
                end.close()


class Reader:
    """Reads one socket up to a word."""

    def __init__(self, ready: ReadySockets, end: socket.socket) -> None:
        self.ready = ready
        self.end = end
        self.data = b""
        self.tasks: set[str] = set()
        """Names of those in which it was handed something."""
        self.error: BaseException | None = None
        self.ended = trio.Event()

    def take(self, data: bytes) -> bool:
        self.tasks.add(trio.lowlevel.current_task().name)
        self.data += data
        if b"!" in data:
            raise ValueError("it is not to shout")
        return not self.data.endswith(b".")

    async def read(self, *, silence_seconds: float = 30.0) -> None:
        try:
            await self.ready.read(self.end.fileno(), self.take, silence_seconds=silence_seconds)
        except (ValueError, trio.TooSlowError, trio.ClosedResourceError, OSError) as error:
            self.error = error
        finally:
            self.ended.set()


async def test_each_gets_its_own_and_one_task_reads_for_all() -> None:
    ready = ReadySockets()
    with pairs(20) as made, trio.fail_after(20):
        readers = [Reader(ready, end) for end, _ in made]
        async with trio.open_nursery() as nursery:
            for number, reader in enumerate(readers):
                nursery.start_soon(reader.read, name=f"reader {number}")
                await trio.testing.wait_all_tasks_blocked()
            for turn in range(10):
                for number, (_, far) in enumerate(made):
                    far.send(b"%d,%d;" % (number, turn))
                await trio.sleep(TURN_SECONDS)
            assert {name for reader in readers for name in reader.tasks} == {"reader 0"}
            for _, far in made:
                far.send(b".")
        for number, reader in enumerate(readers):
            assert reader.data == b"".join(b"%d,%d;" % (number, turn) for turn in range(10)) + b"."


@pytest.mark.parametrize("how", ["cancelled", "done", "fails", "closed", "hung up", "silent"])
async def test_who_leads_may_go_and_another_goes_on(how: str) -> None:
    ready = ReadySockets()
    with pairs(3) as made, trio.fail_after(20):
        first, second, third = (Reader(ready, end) for end, _ in made)
        async with trio.open_nursery() as nursery:
            scope = trio.CancelScope()

            async def lead() -> None:
                with scope:
                    await first.read(silence_seconds=0.1 if how == "silent" else 30.0)

            nursery.start_soon(lead)
            await trio.testing.wait_all_tasks_blocked()
            nursery.start_soon(second.read)
            nursery.start_soon(third.read)
            await trio.testing.wait_all_tasks_blocked()
            far = made[0][1]
            match how:
                case "cancelled":
                    scope.cancel()
                case "done":
                    far.send(b".")
                case "fails":
                    far.send(b"!")
                case "closed":
                    ready.forget(made[0][0].fileno())
                    made[0][0].close()
                case "hung up":
                    far.close()
                case _:
                    pass  # the leader has little patience
            await first.ended.wait()
            made[1][1].send(b"two.")
            made[2][1].send(b"three.")
        assert (second.data, third.data) == (b"two.", b"three.")
        kinds = {"fails": ValueError, "closed": trio.ClosedResourceError, "silent": trio.TooSlowError}
        assert isinstance(first.error, kinds.get(how, type(None)))


async def test_what_one_cannot_take_disturbs_no_other() -> None:
    ready = ReadySockets()
    with pairs(3) as made, trio.fail_after(20):
        readers = [Reader(ready, end) for end, _ in made]
        async with trio.open_nursery() as nursery:
            for reader in readers:
                nursery.start_soon(reader.read)
                await trio.testing.wait_all_tasks_blocked()
            made[1][1].send(b"oh!")
            await readers[1].ended.wait()
            assert isinstance(readers[1].error, ValueError)
            ready.forget(made[2][0].fileno())
            made[0][1].send(b"one.")
        assert (readers[0].data, readers[0].error) == (b"one.", None)
        assert isinstance(readers[2].error, trio.ClosedResourceError)


async def test_the_silence_of_one_is_noticed_while_others_talk() -> None:
    ready = ReadySockets()
    with pairs(2) as made, trio.fail_after(20):
        talks, silent = (Reader(ready, end) for end, _ in made)
        async with trio.open_nursery() as nursery:
            for reader, patience in ((talks, 15.0), (silent, 0.2)):
                nursery.start_soon(lambda reader=reader, patience=patience: reader.read(silence_seconds=patience))
                await trio.testing.wait_all_tasks_blocked()
            said = 0
            while not silent.ended.is_set():
                made[0][1].send(b"x")
                said += 1
                await trio.sleep(0.01)
            assert isinstance(silent.error, trio.TooSlowError)
            made[0][1].send(b".")
        assert (talks.data, talks.error) == (b"x" * said + b".", None)


async def test_nothing_is_held_when_nobody_reads() -> None:
    ready = ReadySockets()
    for how in (b".", b"!", b""):
        with pairs(2) as made, trio.fail_after(20):
            async with trio.open_nursery() as nursery:
                for end, far in made:
                    nursery.start_soon(Reader(ready, end).read)
                    await trio.testing.wait_all_tasks_blocked()
                    far.send(how)
                if not how:
                    nursery.cancel_scope.cancel()
        assert (ready._sources, ready._poll, ready._leader) == ({}, None, None)


async def test_a_socket_that_was_closed_before_is_told_to_be() -> None:
    ready = ReadySockets()
    with pytest.raises(trio.ClosedResourceError):
        await ready.read(-1, lambda _: True, silence_seconds=1.0)


class Timed:
    """Reads sockets until each said a full stop, and notes when something was taken."""

    def __init__(self, ready: ReadySockets) -> None:
        self.ready = ready
        self.taken_at: list[float] = []

    def take(self, data: bytes) -> bool:
        self.taken_at.append(trio.current_time())
        return not data.endswith(b".")

    async def read_all(self, nursery: trio.Nursery, ends: Iterable[socket.socket]) -> None:
        for end in ends:
            nursery.start_soon(partial(self.ready.read, end.fileno(), self.take, silence_seconds=60))
        await trio.testing.wait_all_tasks_blocked()


async def test_what_comes_after_a_silence_is_taken_with_the_rest_of_its_burst(mock_clock: MockClock) -> None:
    timed = Timed(ReadySockets())
    with pairs(100) as made, trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            await timed.read_all(nursery, (end for end, _ in made))
            made[0][1].send(b".")
            await trio.testing.wait_all_tasks_blocked()
            assert timed.taken_at == []
            mock_clock.jump(BURST_SECONDS_MAX / 2)
            for _, far in made[1:]:
                far.send(b".")
            await trio.testing.wait_all_tasks_blocked()
            assert timed.taken_at == []
            mock_clock.jump(BURST_SECONDS_MAX / 2 + 1e-6)
        assert len(timed.taken_at) == 100
        assert set(timed.taken_at) == {trio.current_time()}


async def test_a_burst_that_is_whole_is_not_waited_for(mock_clock: MockClock) -> None:
    timed = Timed(ReadySockets())
    with pairs(3) as made, trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            await timed.read_all(nursery, (end for end, _ in made))
            for _, far in made:
                far.send(b".")
        assert timed.taken_at == [mock_clock.current_time()] * 3


async def test_few_that_are_missing_are_waited_for_but_little(mock_clock: MockClock) -> None:
    timed = Timed(ReadySockets())
    with pairs(3) as made, trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            await timed.read_all(nursery, (end for end, _ in made))
            made[0][1].send(b".")
            await trio.testing.wait_all_tasks_blocked()
            mock_clock.jump(2 * BURST_SECONDS_EACH)
            await trio.testing.wait_all_tasks_blocked()
            assert len(timed.taken_at) == 1
            nursery.cancel_scope.cancel()


async def test_what_comes_while_the_leader_rests_is_taken_together(mock_clock: MockClock) -> None:
    timed = Timed(ReadySockets())
    with pairs(2) as made, trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            await timed.read_all(nursery, (end for end, _ in made))
            for _, far in made:
                far.send(b"first")
            await trio.testing.wait_all_tasks_blocked()
            assert len(timed.taken_at) == 2
            for end in (b"x", b"."):  # more comes at once, and again: a turn each
                for _, far in made:
                    far.send(end)
                    await trio.testing.wait_all_tasks_blocked()
                mock_clock.jump(TURN_SECONDS - REST_SECONDS_MIN / 2)
                await trio.testing.wait_all_tasks_blocked()
                assert trio.current_time() > timed.taken_at[-1]
                mock_clock.jump(REST_SECONDS_MIN / 2 + 1e-6)
                await trio.testing.wait_all_tasks_blocked()
                assert timed.taken_at[-2:] == [trio.current_time()] * 2
        assert len(timed.taken_at) == 6


async def test_after_a_step_of_any_length_the_next_is_taken_in_one_turn(mock_clock: MockClock) -> None:
    timed, sockets = Timed(ReadySockets()), 16
    with pairs(sockets) as made, trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            await timed.read_all(nursery, (end for end, _ in made))
            for milliseconds in (25, 40, 13, 14, 90, 19):
                timed.taken_at.clear()
                for _, far in made:  # one after the other, and the leader runs in between
                    far.send(b"x")
                    await trio.testing.wait_all_tasks_blocked()
                    mock_clock.jump(BURST_SECONDS_EACH / 4)
                await trio.testing.wait_all_tasks_blocked()
                mock_clock.jump(milliseconds / 1000 - sockets * BURST_SECONDS_EACH / 4)
                await trio.testing.wait_all_tasks_blocked()
                assert len(timed.taken_at) == sockets
                assert len(set(timed.taken_at)) == 1
            nursery.cancel_scope.cancel()
