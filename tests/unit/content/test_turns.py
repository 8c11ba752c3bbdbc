"""Turns of one thread: who goes on when, in whose hands a conversation is, and what ends it."""

import math
import socket
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, closing

import pytest
import trio
import trio.testing

from p2p.content.gateway.turns import FOR_BYTES, FOR_NOTHING, FOR_ROOM, LOOK_SECONDS, Turns, open_turns

SECONDS_MAX = 10


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    near, far = socket.socketpair()
    with closing(near), closing(far):
        near.setblocking(False)
        yield near, far


@asynccontextmanager
async def _turns() -> AsyncIterator[Turns]:
    with open_turns() as turns:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(turns.take)
            yield turns
            nursery.cancel_scope.cancel()


class Talk:
    """A conversation of one rule: what `rule` does with the socket."""

    def __init__(self, near: socket.socket, rule: Callable[[socket.socket], int]) -> None:
        self._near = near
        self._rule = rule
        self.threads: list[int] = []
        self.steps = 0
        self.step_seconds = math.inf

    @property
    def descriptor(self) -> int:
        return self._near.fileno()

    def go_on(self) -> int:
        self.threads.append(threading.get_ident())
        return self._rule(self._near)


def _read_until_end(into: bytearray) -> Callable[[socket.socket], int]:
    def rule(near: socket.socket) -> int:
        try:
            data = near.recv(1)
        except BlockingIOError:
            return FOR_BYTES
        into.extend(data)
        return FOR_BYTES if data else FOR_NOTHING

    return rule


async def test_whoever_waits_for_bytes_goes_on_in_the_thread_until_the_end(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    near, far = pair
    got = bytearray()
    talk = Talk(near, _read_until_end(got))
    with trio.fail_after(SECONDS_MAX):
        async with _turns() as turns, trio.open_nursery() as nursery:
            nursery.start_soon(turns.serve, talk)
            await trio.testing.wait_all_tasks_blocked()
            far.sendall(b"one by one")
            far.shutdown(socket.SHUT_WR)
    assert got == b"one by one"
    assert talk.threads[0] == threading.get_ident()
    assert threading.get_ident() not in talk.threads[1:]


async def test_what_is_waited_for_may_change(pair: tuple[socket.socket, socket.socket]) -> None:
    near, far = pair
    asked, waits = bytearray(), [FOR_BYTES, FOR_ROOM, FOR_BYTES, FOR_NOTHING]

    def rule(near: socket.socket) -> int:
        if waits[0] == FOR_BYTES and len(waits) < 4:
            asked.extend(near.recv(1))
        return waits.pop(0)

    with trio.fail_after(SECONDS_MAX):
        async with _turns() as turns, trio.open_nursery() as nursery:
            nursery.start_soon(turns.serve, Talk(near, rule))
            await trio.testing.wait_all_tasks_blocked()
            far.sendall(b"ab")
    assert not waits
    assert asked == b"a"


async def test_what_a_turn_raises_is_raised_in_its_own_task_and_nowhere_else(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    near, far = pair
    got = bytearray()
    rules = iter((FOR_BYTES,))

    def rule(_: socket.socket) -> int:
        try:
            return next(rules)
        except StopIteration:
            raise ZeroDivisionError from None

    calm_near, calm_far = socket.socketpair()
    with trio.fail_after(SECONDS_MAX), closing(calm_near), closing(calm_far):
        calm_near.setblocking(False)
        async with _turns() as turns, trio.open_nursery() as nursery:
            nursery.start_soon(turns.serve, Talk(calm_near, _read_until_end(got)))
            far.sendall(b"x")
            with pytest.raises(ZeroDivisionError):
                await turns.serve(Talk(near, rule))
            calm_far.sendall(b"calm")
            calm_far.shutdown(socket.SHUT_WR)
    assert got == b"calm"


async def test_whoever_is_cancelled_leaves_when_its_turn_has_ended(pair: tuple[socket.socket, socket.socket]) -> None:
    near, far = pair
    entered, cancelling = trio.Event(), threading.Event()
    token = trio.lowlevel.current_trio_token()
    inside: list[bool] = []

    def rule(near: socket.socket) -> int:
        if threading.get_ident() == main:
            return FOR_BYTES
        inside.append(True)
        token.run_sync_soon(entered.set)
        cancelling.wait(SECONDS_MAX)
        for _ in range(200_000):  # meanwhile the event loop comes to wait for this
            inside[0] = True
        inside.clear()
        return FOR_BYTES

    main = threading.get_ident()
    talk = Talk(near, rule)
    with trio.fail_after(SECONDS_MAX):
        async with _turns() as turns:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(turns.serve, talk)
                await trio.testing.wait_all_tasks_blocked()
                far.sendall(b"x")
                await entered.wait()
                nursery.cancel_scope.cancel()
                cancelling.set()
            assert not inside
            calls = len(talk.threads)
            got = bytearray()  # the socket is free: it can be served anew, and nobody else reads it
            async with trio.open_nursery() as nursery:
                nursery.start_soon(turns.serve, Talk(near, _read_until_end(got)))
                far.sendall(b"y")
                far.shutdown(socket.SHUT_WR)
            assert got == b"xy"
            assert len(talk.threads) == calls


async def test_whoever_is_overdue_is_given_back(
    pair: tuple[socket.socket, socket.socket], autojump_clock: trio.testing.MockClock
) -> None:
    near, _ = pair
    talk = Talk(near, _read_until_end(bytearray()))
    talk.step_seconds = 7.5
    async with _turns() as turns:
        began = trio.current_time()
        await turns.serve(talk)
        assert trio.current_time() - began == pytest.approx(7.5)


async def test_time_begins_anew_with_each_step(
    pair: tuple[socket.socket, socket.socket], autojump_clock: trio.testing.MockClock
) -> None:
    near, _ = pair
    talk = Talk(near, _read_until_end(bytearray()))
    talk.step_seconds = 7.5

    async def step() -> None:
        await trio.sleep(5)
        talk.steps += 1
        talk.step_seconds = 3.0

    async with _turns() as turns, trio.open_nursery() as nursery:
        nursery.start_soon(step)
        began = trio.current_time()
        await turns.serve(talk)
        assert 5 + 3 <= trio.current_time() - began <= 5 + 3 + LOOK_SECONDS


async def test_what_waits_for_nothing_is_not_watched(pair: tuple[socket.socket, socket.socket]) -> None:
    near, far = pair
    far.sendall(b"x")
    talk = Talk(near, lambda _near: FOR_NOTHING)
    with trio.fail_after(SECONDS_MAX):
        async with _turns() as turns:
            await turns.serve(talk)
    assert len(talk.threads) == 1
