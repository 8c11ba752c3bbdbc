"""A wedged server is found in bounded time; a busy one, or one in a long prefill, is left alone."""

from collections.abc import Callable

import pytest
import trio
from trio.testing import MockClock

from node.engine.transport import Traffic
from node.engine.watchdog import PATIENCE_SECONDS_MAX, Patience, watch
from node.ports import EngineFailedError, EngineRefusedError

PATIENCE = Patience(quiet_seconds=10, idle_seconds=30, answer_seconds=45, prefill_bytes_per_second=300)
LOOKING_SECONDS = 3


async def seconds_until_found(
    ask: Callable[[], object], traffic: Traffic, within: float, *, meanwhile: Callable[[], None] = lambda: None
) -> float | None:
    """Watch for `within` seconds; return when the server was found to be wedged."""
    began, found = trio.current_time(), None
    try:
        with trio.move_on_after(within):
            async with trio.open_nursery() as nursery:

                async def move() -> None:
                    while True:
                        await trio.sleep(1)
                        meanwhile()

                nursery.start_soon(move)
                await watch(ask, traffic, PATIENCE)  # type: ignore[arg-type]
    except* EngineFailedError:
        found = trio.current_time() - began
    return found


async def answered() -> None:
    await trio.sleep(0.1)


async def test_an_idle_server_that_is_stopped_is_found(autojump_clock: MockClock) -> None:
    found = await seconds_until_found(trio.sleep_forever, Traffic(), 1000)
    assert found is not None
    assert found <= PATIENCE.idle_seconds + PATIENCE.answer_seconds + LOOKING_SECONDS


async def test_a_server_that_stops_while_it_answers_is_found_sooner(autojump_clock: MockClock) -> None:
    traffic = Traffic()
    traffic.begin(60)
    found = await seconds_until_found(trio.sleep_forever, traffic, 1000)
    assert found is not None
    assert found <= PATIENCE.quiet_seconds + PATIENCE.answer_seconds + LOOKING_SECONDS


async def test_a_long_prefill_may_be_silent_but_not_for_ever(autojump_clock: MockClock) -> None:
    traffic = Traffic()
    traffic.begin(60_000)  # some 10,000 tokens: 200 seconds on the slowest processor
    assert await seconds_until_found(trio.sleep_forever, traffic, 200) is None
    traffic.begin(10**9)
    found = await seconds_until_found(trio.sleep_forever, traffic, 10_000)
    assert found is not None
    assert found <= PATIENCE.quiet_seconds + PATIENCE_SECONDS_MAX + LOOKING_SECONDS


async def test_a_server_so_busy_that_its_test_waits_is_left_alone_while_it_gives_tokens(
    autojump_clock: MockClock,
) -> None:
    traffic = Traffic()
    traffic.begin(60)
    assert await seconds_until_found(trio.sleep_forever, traffic, 3600, meanwhile=traffic.hear) is None


async def test_a_busy_server_is_not_bothered_with_tests(autojump_clock: MockClock) -> None:
    traffic, asked = Traffic(), 0

    async def ask() -> None:
        nonlocal asked
        asked += 1

    traffic.begin(60)
    await seconds_until_found(ask, traffic, 600, meanwhile=traffic.hear)
    assert asked == 0
    await seconds_until_found(ask, Traffic(), 600)
    assert 15 <= asked <= 20


async def test_a_healthy_server_is_left_alone(autojump_clock: MockClock) -> None:
    assert await seconds_until_found(answered, Traffic(), 3600) is None


@pytest.mark.parametrize("error", [EngineRefusedError("404"), EngineFailedError("500")])
async def test_a_server_that_refuses_its_test_has_failed(error: Exception, autojump_clock: MockClock) -> None:
    async def ask() -> None:
        raise error

    assert await seconds_until_found(ask, Traffic(), 100) is not None
