"""A connection to a gateway, whose thread does the work: order, time, cancellation, errors, no leftovers."""

import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager, suppress

import pytest
import trio
import trio.testing

from p2p.content.gateway_connection import KNOWN_REQUESTS_MIN, Ask, ConnectionLostError, GatewayConnection
from p2p.content.loop_calls import LoopCalls
from p2p.content.source import SourceFailedError
from tests.integration.content.hostile import Converse, provider_that, reply

SECONDS_MAX = 20
PATIENCE_SECONDS = 0.4


@asynccontextmanager
async def connection_to(converse: Converse) -> AsyncIterator[GatewayConnection]:
    async with provider_that(converse) as gateway:
        connection = GatewayConnection(gateway.host, gateway.port, LoopCalls())
        try:
            yield connection
        finally:
            connection.close()
            await trio.to_thread.run_sync(connection.join)


def request(name: object) -> bytes:
    return f"GET /{name} HTTP/1.1\r\n\r\n".encode()


async def ask(
    connection: GatewayConnection, name: object, work: Callable[[bytearray], None], seconds_max: float = SECONDS_MAX
) -> int:
    (status,) = await ask_lot(connection, [name], work, seconds_max)
    return status


async def ask_lot(
    connection: GatewayConnection,
    names: Iterable[object],
    work: Callable[[bytearray], None],
    seconds_max: float = SECONDS_MAX,
) -> list[int]:
    asks = [Ask(request(name), str(name).encode(), work) for name in names]
    connection.pending += len(asks)
    await connection.ask(asks, 1000, seconds_max)
    for one in asks:
        if one.error is not None:
            raise one.error
    return [one.head.status for one in asks if one.head is not None]


async def echo(stream: trio.SocketStream, target: str) -> None:
    await stream.send_all(reply(200, target.encode()))


def ignore(_body: bytearray) -> None:
    return None


async def test_each_asker_gets_its_own_reply_and_the_work_is_done_in_a_thread() -> None:
    bodies: dict[int, bytes] = {}
    threads: set[int] = set()

    async def one(number: int) -> None:
        def work(body: bytearray) -> None:
            bodies[number] = bytes(body)
            threads.add(threading.get_ident())

        assert await ask(connection, number, work) == 200

    with trio.fail_after(SECONDS_MAX):
        async with connection_to(echo) as connection:
            async with trio.open_nursery() as nursery:
                for number in range(50):
                    nursery.start_soon(one, number)
            assert connection.pending == 0
    assert bodies == {number: f"/{number}".encode() for number in range(50)}
    assert len(threads) == 1
    assert threading.get_ident() not in threads


async def test_a_gateway_that_has_enough_to_do_is_sent_the_rest_at_once() -> None:
    asked: list[str] = []
    may_answer = trio.Event()

    async def hold(stream: trio.SocketStream, target: str) -> None:
        asked.append(target)
        await may_answer.wait()
        await stream.send_all(reply(200, b""))

    with trio.fail_after(SECONDS_MAX):
        async with connection_to(hold) as connection:
            async with trio.open_nursery() as nursery:
                for number in range(20):
                    nursery.start_soon(ask, connection, number, ignore)
                await trio.testing.wait_all_tasks_blocked(0.05)
                assert connection.unsent == 20 - (KNOWN_REQUESTS_MIN + 1)
                may_answer.set()
            assert connection.unsent == 0
    assert sorted(asked) == sorted(f"/{number}" for number in range(20))


async def test_a_request_that_was_not_sent_is_cancelled_without_harm_to_the_others() -> None:
    is_asked, may_answer = trio.Event(), trio.Event()

    async def hold(stream: trio.SocketStream, _target: str) -> None:
        is_asked.set()
        await may_answer.wait()
        await stream.send_all(reply(200, b""))

    with trio.fail_after(SECONDS_MAX):
        async with connection_to(hold) as connection, trio.open_nursery() as nursery:
            for number in range(KNOWN_REQUESTS_MIN + 1):
                nursery.start_soon(ask, connection, number, ignore)
            await is_asked.wait()  # before that the connection is being opened, and nothing is in line
            await trio.testing.wait_all_tasks_blocked(0.01)
            assert not connection.unsent
            with trio.move_on_after(0.05) as scope:
                await ask(connection, "cancelled", ignore)
            assert scope.cancelled_caught
            assert not connection.is_closed
            may_answer.set()  # the nursery ends without an error


async def test_a_gateway_that_stalls_is_given_its_time_and_no_more() -> None:
    async def stall(_stream: trio.SocketStream, _target: str) -> None:
        await trio.sleep_forever()

    with trio.fail_after(SECONDS_MAX):
        async with connection_to(stall) as connection:
            with pytest.raises(trio.TooSlowError):
                await ask(connection, 1, ignore, PATIENCE_SECONDS)
            assert connection.is_closed
            with pytest.raises(ConnectionLostError):
                await ask(connection, 2, ignore)


async def test_time_that_our_disk_takes_does_not_count_against_the_gateway() -> None:
    is_held, let_go = threading.Event(), threading.Event()

    def held_up(_body: bytearray) -> None:
        is_held.set()
        let_go.wait(SECONDS_MAX)

    with trio.fail_after(SECONDS_MAX):
        async with connection_to(echo) as connection, trio.open_nursery() as nursery:
            nursery.start_soon(ask, connection, "slow", held_up, PATIENCE_SECONDS)
            await trio.to_thread.run_sync(is_held.wait, SECONDS_MAX)
            nursery.start_soon(ask, connection, "behind it", ignore, PATIENCE_SECONDS)
            await trio.sleep(3 * PATIENCE_SECONDS)
            let_go.set()  # neither is too slow: the nursery ends without an error


async def test_work_that_is_begun_is_brought_to_its_end_and_counts_although_it_is_cancelled() -> None:
    is_begun, let_go = threading.Event(), threading.Event()
    statuses: list[int] = []

    def work(_body: bytearray) -> None:
        is_begun.set()
        let_go.wait(SECONDS_MAX)

    async def cancelled() -> None:
        with trio.CancelScope() as scope:
            scopes.append(scope)
            statuses.append(await ask(connection, 1, work))

    scopes: list[trio.CancelScope] = []
    with trio.fail_after(SECONDS_MAX):
        async with connection_to(echo) as connection, trio.open_nursery() as nursery:
            nursery.start_soon(cancelled)
            await trio.to_thread.run_sync(is_begun.wait, SECONDS_MAX)
            scopes[0].cancel()
            await trio.lowlevel.checkpoint()
            assert not statuses
            let_go.set()
        assert statuses == [200]


async def test_what_the_work_raises_comes_to_whoever_asked_and_the_connection_goes_on() -> None:
    def fail(_body: bytearray) -> None:
        raise OSError(28, "no space left on device")

    with trio.fail_after(SECONDS_MAX):
        async with connection_to(echo) as connection:
            with pytest.raises(OSError, match="no space"):
                await ask(connection, 1, fail)
            assert await ask(connection, 2, ignore) == 200


async def test_a_reply_that_ends_the_connection_fails_those_behind_it_so_that_they_ask_elsewhere() -> None:
    async def once(stream: trio.SocketStream, _target: str) -> None:
        await stream.send_all(reply(200, b"", "Connection: close"))

    results: list[object] = []

    async def one(number: int) -> None:
        try:
            results.append(await ask(connection, number, ignore))
        except ConnectionLostError:
            results.append("lost")

    with trio.fail_after(SECONDS_MAX):
        async with connection_to(once) as connection:
            async with trio.open_nursery() as nursery:
                for number in range(3):
                    nursery.start_soon(one, number)
            assert connection.is_closed
    assert sorted(map(str, results)) == ["200", "lost", "lost"]


async def test_no_thread_is_left_behind() -> None:
    before = {thread.ident for thread in threading.enumerate()}
    async with connection_to(echo) as connection:
        await ask(connection, 1, ignore)
    assert not [
        thread for thread in threading.enumerate() if thread.ident not in before and thread.name == "content connection"
    ]


async def test_a_connection_that_has_ended_holds_no_block_any_more() -> None:
    bodies: list[bytearray] = []
    async with connection_to(echo) as connection:
        await ask(connection, 1, bodies.append)
        connection.close()
        await trio.to_thread.run_sync(connection.join)
        references = sys.getrefcount(bodies[0])
    assert references == 2  # the list's and the argument's


async def test_a_thread_that_cannot_be_had_fails_the_source_and_leaves_nothing_to_wait_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    start = threading.Thread.start

    def refuse(thread: threading.Thread) -> None:
        if thread.name == "content connection":
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", refuse)
    with trio.fail_after(SECONDS_MAX):
        async with connection_to(echo) as connection:
            with pytest.raises(SourceFailedError, match="thread"):
                await ask(connection, 1, ignore)
            assert connection.is_closed


async def test_whoever_is_cancelled_after_the_work_was_done_does_not_wait_for_the_next_block() -> None:
    answered = 0
    worked: list[str] = []
    scopes: dict[int, trio.CancelScope] = {}
    ended: set[int] = set()

    async def answer_two(stream: trio.SocketStream, target: str) -> None:
        nonlocal answered
        if answered == 2:
            await trio.sleep_forever()
        answered += 1
        await stream.send_all(reply(200, target.encode()))

    async def one(number: int) -> None:
        # At the end all are cancelled at once: the first closes the connection, of which others may hear first.
        with trio.CancelScope() as scopes[number], suppress(ConnectionLostError):
            await ask(connection, number, lambda body: worked.append(body.decode()))
        ended.add(number)

    with trio.fail_after(SECONDS_MAX):
        async with connection_to(answer_two) as connection, trio.open_nursery() as nursery:
            for number in range(3 * KNOWN_REQUESTS_MIN + 2):
                nursery.start_soon(one, number)
            while len(worked) < 2:
                await trio.sleep(0.01)
            # The second need not be told of yet, for the gateway has others to answer, which it never does.
            second = int(worked[1].removeprefix("/"))
            scopes[second].cancel()
            while second not in ended:
                await trio.sleep(0.01)
            assert ended == {int(target.removeprefix("/")) for target in worked}
            nursery.cancel_scope.cancel()


async def test_a_lot_is_told_of_when_all_of_it_is_done_and_in_the_order_of_asking() -> None:
    worked: list[str] = []
    with trio.fail_after(SECONDS_MAX):
        async with connection_to(echo) as connection:
            assert await ask_lot(connection, range(10), lambda body: worked.append(body.decode())) == [200] * 10
    assert worked == [f"/{number}" for number in range(10)]


async def answer_two(stream: trio.SocketStream, target: str) -> None:
    """Requests are numbered from 0; from the third on there is no answer."""
    if int(target.removeprefix("/")) > 1:
        await trio.sleep_forever()
    await stream.send_all(reply(200, target.encode()))


@pytest.mark.parametrize("is_cancelled", [True, False])
async def test_of_a_lot_that_is_broken_off_what_was_done_is_known_and_no_more_is_done(is_cancelled: bool) -> None:
    worked = trio.Event()
    token = trio.lowlevel.current_trio_token()
    asks = [
        Ask(request(number), b"", lambda body: token.run_sync_soon(worked.set) if body == b"/1" else None)
        for number in range(4)
    ]

    with trio.fail_after(SECONDS_MAX):
        async with connection_to(answer_two) as connection:
            connection.pending += len(asks)
            if is_cancelled:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(connection.ask, asks, 1000, SECONDS_MAX)
                    await worked.wait()
                    nursery.cancel_scope.cancel()
            else:
                with pytest.raises(trio.TooSlowError):
                    await connection.ask(asks, 1000, PATIENCE_SECONDS)
            assert connection.is_closed
            assert connection.pending == 0
            await trio.to_thread.run_sync(connection.join)
    assert [one.head is not None for one in asks] == [True, True, False, False]
    assert [one.error for one in asks] == [None] * 4


async def test_a_lot_behind_one_that_is_broken_off_is_told_that_the_connection_is_lost() -> None:
    behind = [Ask(request(number), b"", ignore) for number in range(3, 5)]
    is_asked = trio.Event()

    async def stall(_stream: trio.SocketStream, _target: str) -> None:
        is_asked.set()
        await trio.sleep_forever()

    async def break_off() -> None:
        with broken_off:
            await ask_lot(connection, range(3), ignore)

    broken_off = trio.CancelScope()
    with trio.fail_after(SECONDS_MAX):
        async with connection_to(stall) as connection, trio.open_nursery() as nursery:
            nursery.start_soon(break_off)
            await is_asked.wait()
            connection.pending += len(behind)
            nursery.start_soon(connection.ask, behind, 1000, SECONDS_MAX)
            await trio.testing.wait_all_tasks_blocked(0.01)
            broken_off.cancel()
    assert [type(one.error) for one in behind] == [ConnectionLostError] * 2


async def test_a_head_that_differs_in_more_than_the_name_is_read_anew() -> None:
    async def answer(stream: trio.SocketStream, target: str) -> None:
        name = target.removeprefix("/")
        match name:
            case "gone":
                await stream.send_all(reply(404, b"", f"Etag: {name}"))
            case "long":
                await stream.send_all(reply(200, b"body", f"Etag: {name}"))
            case _:
                await stream.send_all(reply(200, b"", f"Etag: {name}"))

    bodies: list[bytes] = []
    names = ["a", "b", "gone", "c", "long", "d"]
    with trio.fail_after(SECONDS_MAX):
        async with connection_to(answer) as connection:
            statuses = [await ask(connection, name, lambda body: bodies.append(bytes(body))) for name in names]
    assert statuses == [200, 200, 404, 200, 200, 200]
    assert bodies == [b"", b"", b"", b"body", b""]
