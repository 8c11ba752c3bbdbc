"""The supervisor: crashes are contained, retried ever more slowly, and never silent."""

from collections.abc import Callable

import pytest
import trio
import trio.testing

from node.supervisor import (
    GiveUp,
    Restart,
    RestartPolicy,
    ServiceGaveUpError,
    ServiceState,
    Supervisor,
    after_crash,
    describe_error,
)

POLICY = RestartPolicy(
    backoff_seconds_min=1, backoff_seconds_max=8, healthy_seconds=100, crashes_max=6, window_seconds=1000
)


class Crasher:
    """Crashes after given run times, then runs for ever."""

    def __init__(self, *run_seconds: float) -> None:
        self.run_seconds = list(run_seconds)
        self.starts: list[float] = []

    async def run(self) -> None:
        self.starts.append(trio.current_time())
        if not self.run_seconds:
            await trio.sleep_forever()
        await trio.sleep(self.run_seconds.pop(0))
        raise RuntimeError(f"crash {len(self.starts)}")


async def run_for(supervisor: Supervisor, seconds: float) -> None:
    with trio.move_on_after(seconds):
        await supervisor.run()


async def test_pauses_double_up_to_the_limit(autojump_clock: trio.testing.MockClock) -> None:
    crasher = Crasher(0, 0, 0, 0, 0)
    supervisor = Supervisor(POLICY)
    supervisor.add("crasher", crasher.run)
    begin = trio.current_time()
    await run_for(supervisor, 60)
    assert [at - begin for at in crasher.starts] == [0, 1, 3, 7, 15, 23]
    assert supervisor.statuses()[0].restarts == 5


async def test_a_healthy_period_makes_the_next_pause_short_again(autojump_clock: trio.testing.MockClock) -> None:
    crasher = Crasher(0, 0, 200, 0)
    supervisor = Supervisor(POLICY)
    supervisor.add("crasher", crasher.run)
    begin = trio.current_time()
    await run_for(supervisor, 500)
    assert [at - begin for at in crasher.starts] == [0, 1, 3, 204, 206]


async def test_a_crash_does_not_disturb_other_services(autojump_clock: trio.testing.MockClock) -> None:
    ticks = 0

    async def tick() -> None:
        nonlocal ticks
        while True:
            await trio.sleep(1)
            ticks += 1

    supervisor = Supervisor(POLICY)
    supervisor.add("crasher", Crasher(*[0] * 20).run)
    supervisor.add("ticker", tick)
    await run_for(supervisor, 100.5)
    crasher, ticker = supervisor.statuses()
    assert ticks == 100
    assert crasher.state is ServiceState.FAILED
    assert crasher.last_error == "RuntimeError: crash 6"
    assert (ticker.state, ticker.restarts, ticker.last_error) == (ServiceState.RUNNING, 0, None)


async def test_an_essential_service_given_up_ends_the_daemon(autojump_clock: trio.testing.MockClock) -> None:
    cleaned = False

    async def neighbour() -> None:
        nonlocal cleaned
        try:
            await trio.sleep_forever()
        finally:
            cleaned = True

    supervisor = Supervisor(POLICY)
    supervisor.add("chain", Crasher(*[0] * 20).run, essential=True)
    supervisor.add("neighbour", neighbour)
    with pytest.raises(ServiceGaveUpError, match="chain crashed too often, last with: RuntimeError: crash 6"):
        await supervisor.run()
    assert cleaned


async def test_crashes_spread_over_more_than_the_window_are_no_reason_to_give_up(
    autojump_clock: trio.testing.MockClock,
) -> None:
    supervisor = Supervisor(POLICY)
    supervisor.add("crasher", Crasher(*[300] * 20).run, essential=True)
    await run_for(supervisor, 300 * 25)
    assert supervisor.statuses()[0].state is ServiceState.RUNNING
    assert supervisor.statuses()[0].restarts == 20


async def test_a_service_that_returns_is_not_started_again(autojump_clock: trio.testing.MockClock) -> None:
    starts = 0

    async def once() -> None:
        nonlocal starts
        starts += 1

    supervisor = Supervisor(POLICY)
    supervisor.add("once", once)
    await supervisor.run()
    assert starts == 1
    assert supervisor.statuses()[0].state is ServiceState.FINISHED


async def test_cancelling_stops_every_service_and_backoff(autojump_clock: trio.testing.MockClock) -> None:
    stopped: list[str] = []

    def service(name: str) -> Callable[[], object]:
        async def run() -> None:
            try:
                await trio.sleep_forever()
            finally:
                stopped.append(name)

        return run

    supervisor = Supervisor(POLICY)
    supervisor.add("one", service("one"))  # type: ignore[arg-type]
    supervisor.add("two", service("two"))  # type: ignore[arg-type]
    supervisor.add("crasher", Crasher(*[0] * 4).run)
    begin = trio.current_time()
    await run_for(supervisor, 10)  # in the middle of the crasher's pause of 8 s
    assert trio.current_time() - begin == 10
    assert sorted(stopped) == ["one", "two"]


async def test_a_crash_of_a_task_within_a_service_is_named_by_its_own_error(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async def grouped() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.sleep_forever)
            raise ValueError("inner")

    supervisor = Supervisor(POLICY)
    supervisor.add("grouped", grouped)
    await run_for(supervisor, 0.5)
    assert supervisor.statuses()[0].last_error == "ValueError: inner"
    assert supervisor.statuses()[0].state is ServiceState.BACKING_OFF


def test_names_are_unique() -> None:
    supervisor = Supervisor()
    supervisor.add("one", trio.sleep_forever)
    with pytest.raises(ValueError, match="already"):
        supervisor.add("one", trio.sleep_forever)


def test_the_rule_gives_up_only_within_the_window() -> None:
    assert after_crash(POLICY, tuple(range(6)), 0, 6) == GiveUp()
    assert after_crash(POLICY, (0, 1, 2, 3, 4, 2000), 0, 6) == Restart(8)


def test_a_long_error_is_cut() -> None:
    assert len(describe_error(RuntimeError("x" * 10_000))) == 500
