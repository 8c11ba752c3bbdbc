"""One ML node over servers that are played: it drains, switches, gives up, comes back, and says so."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import pytest
import trio
from trio.testing import MockClock

from node.engine import slots
from node.engine.adapter import EngineNode
from node.engine.alerts import ENGINE_FAILED, ENGINE_GIVEN_UP, ENGINE_OUTSIDE_RANGE, ENGINE_RECOVERED
from node.engine.endpoint import parse_endpoint
from node.engine.identity import EngineOutsideRangeError
from node.engine.plan import Choice
from node.engine.running import EngineEnvironment, Place
from node.engine.states import NodeState
from node.engine.transport import Traffic
from node.engine.watchdog import Patience
from node.ports import EngineFailedError
from node.protocol.identifiers import Cid, NodeId
from node.protocol.records import ModelRecord
from tests.builders import model

LOAD_SECONDS = 20.0
OLD = model()
NEW = replace(OLD, cid=Cid("bafy-new"), version=2)


class PlayedRun:
    """A server whose start and end a test decides."""

    all: ClassVar[list["PlayedRun"]] = []
    errors: ClassVar[list[BaseException]] = []
    """What the next servers end with right after their start."""

    def __init__(self, choice: Choice, place: Place, patience: Patience | None) -> None:
        self.choice, self.place, self.patience = choice, place, patience
        self.traffic, self.client, self.vocabulary_size = Traffic(), object(), 100
        self.phase, self.engine_name, self.caution = "loading weights", "vllm 0.32.0", ""
        self.fault: BaseException | None = None
        self.broken = trio.Event()
        self.ended = False
        PlayedRun.all.append(self)

    async def run(self, became_ready: Callable[[], None]) -> None:
        try:
            await trio.sleep(LOAD_SECONDS)
            if PlayedRun.errors:
                raise PlayedRun.errors.pop(0)
            became_ready()
            await self.broken.wait()
            assert self.fault is not None
            raise self.fault
        finally:
            self.ended = True

    def break_with(self, error: BaseException) -> None:
        self.fault = error
        self.broken.set()


@pytest.fixture(autouse=True)
def played(monkeypatch: pytest.MonkeyPatch) -> None:
    PlayedRun.all, PlayedRun.errors = [], []
    monkeypatch.setattr(slots, "ServerRun", PlayedRun)


@asynccontextmanager
async def running(
    directory: Path, record: ModelRecord | None = OLD, *, url: str = "", loads_beside: bool = False
) -> AsyncIterator[tuple[EngineNode, list[tuple[str, str]]]]:
    alerts: list[tuple[str, str]] = []
    node = EngineNode(
        NodeId("node-1"),
        parse_endpoint(url) if url else EngineEnvironment(directory / "bin" / "python"),
        directory,
        drain_seconds=60,
        loads_beside=loads_beside,
        on_alert=lambda kind, message: alerts.append((kind, message)),
    )
    async with trio.open_nursery() as nursery:
        nursery.start_soon(node.run)
        if record is not None:
            node.load(record, directory)
        yield node, alerts
        nursery.cancel_scope.cancel()


async def until(what: Callable[[], bool], seconds: float = 10_000) -> float:
    began = trio.current_time()
    with trio.fail_after(seconds):
        while not what():
            await trio.sleep(0.5)
    return trio.current_time() - began


async def test_a_node_takes_work_only_once_its_model_gave_a_token(tmp_path: Path, autojump_clock: MockClock) -> None:
    async with running(tmp_path) as (node, _):
        await until(lambda: node.state is NodeState.LOADING)
        assert (node.state, node.model_id, node.status().phase) == (NodeState.LOADING, None, "loading weights")
        with pytest.raises(EngineFailedError):
            await node.tokenize("x")
        await node.until_ready()
        assert (node.state, node.model_id, node.vocabulary_size) == (NodeState.SERVING, OLD.model_id, 100)
        assert node.status().why_not_drawn == ""
        node.mine(True)
        await until(lambda: node.state is NodeState.MINING)
        assert node.model_id == OLD.model_id  # users are served while it mines
        node.mine(False)
        await until(lambda: node.state is NodeState.SERVING)


async def test_draining_finishes_what_runs_refuses_what_is_new_and_ends_in_time(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with running(tmp_path) as (node, _):
        await node.until_ready()
        (run,) = PlayedRun.all
        tickets = [run.traffic.begin(10), run.traffic.begin(10)]
        node.hold()
        await until(lambda: node.state is NodeState.DRAINING)
        assert node.model_id is None
        with pytest.raises(EngineFailedError, match="draining"):
            await node.tokenize("x")
        run.traffic.end(tickets[0])
        await trio.sleep(20)
        assert not run.ended
        run.traffic.end(tickets[1])
        assert await until(lambda: node.state is NodeState.STOPPED) < 2
        assert run.ended
        node.release()
        await node.until_ready()
        PlayedRun.all[-1].traffic.begin(10)  # one that never ends
        node.hold()
        assert 59 < await until(lambda: node.state is NodeState.STOPPED) < 63


async def test_a_node_drained_by_its_operator_stays_so_over_a_restart_of_the_daemon(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with running(tmp_path) as (node, _):
        await node.until_ready()
        node.hold()
        await until(lambda: node.state is NodeState.STOPPED)
    async with running(tmp_path) as (node, _):
        await trio.sleep(100)
        assert (node.state, node.status().held) == (NodeState.STOPPED, True)
        assert node.status().remedy == "quern nodes resume node-1"
        node.release()
        await node.until_ready()


async def test_the_end_of_the_daemon_waits_for_answers_and_forgets_that_it_drained(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with running(tmp_path) as (node, _):
        await node.until_ready()
        ticket = PlayedRun.all[0].traffic.begin(10)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(node.drain)
            await trio.sleep(30)
            assert not PlayedRun.all[0].ended
            PlayedRun.all[0].traffic.end(ticket)
        assert PlayedRun.all[0].ended
    async with running(tmp_path) as (node, _):
        await node.until_ready()


async def test_another_version_replaces_the_old_one_after_its_answers(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with running(tmp_path) as (node, _):
        await node.until_ready()
        ticket = PlayedRun.all[0].traffic.begin(10)
        node.load(NEW, tmp_path)
        await trio.sleep(30)
        assert [run.choice.cid for run in PlayedRun.all] == [OLD.cid]
        PlayedRun.all[0].traffic.end(ticket)
        await node.until_ready()
        assert [(run.choice.cid, run.ended) for run in PlayedRun.all] == [(OLD.cid, True), (NEW.cid, False)]
        node.load(replace(NEW, name="another name", units_of_compute_per_token=9), tmp_path)
        await trio.sleep(100)
        assert len(PlayedRun.all) == 2  # neither a name nor a price needs another server


async def test_with_memory_for_both_no_request_is_refused_while_versions_change(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with running(tmp_path, loads_beside=True) as (node, _):
        await node.until_ready()
        ticket = PlayedRun.all[0].traffic.begin(10)
        node.load_next(NEW, tmp_path)
        await until(lambda: len(PlayedRun.all) == 2)
        assert PlayedRun.all[0].place != PlayedRun.all[1].place  # socket, log and group of its own
        node.load(NEW, tmp_path)  # the epoch ends before the new one is there
        for _ in range(int(LOAD_SECONDS) * 2 + 4):
            assert node.model_id == OLD.model_id
            await trio.sleep(0.5)
        assert node.vocabulary_size == 100
        assert not PlayedRun.all[0].ended  # its last answer is still being written
        assert node.running_requests == 1
        PlayedRun.all[0].traffic.end(ticket)
        await until(lambda: PlayedRun.all[0].ended, 5)
        assert (node.state, PlayedRun.all[1].ended) == (NodeState.SERVING, False)


async def test_what_cannot_be_loaded_beside_does_not_touch_what_serves(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with running(tmp_path, loads_beside=True) as (node, alerts):
        await node.until_ready()
        PlayedRun.errors = [EngineFailedError("out of memory")]
        node.load_next(NEW, tmp_path)
        await trio.sleep(LOAD_SECONDS + 10)
        assert (node.state, node.restarts, alerts) == (NodeState.SERVING, 0, [])
        await trio.sleep(120)
        assert len(PlayedRun.all) == 3  # tried again, after a pause


async def test_a_node_that_fails_is_tried_again_given_up_told_and_revived_by_hand(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with running(tmp_path, None) as (node, alerts):
        PlayedRun.errors = [EngineFailedError(f"fault {number}") for number in range(100)]
        node.load(OLD, tmp_path)
        await until(lambda: node.status().given_up)
        assert len(PlayedRun.all) == 8
        assert [kind for kind, _ in alerts] == [ENGINE_FAILED, ENGINE_GIVEN_UP]
        assert "quern nodes restart node-1" in alerts[-1][1]
        await trio.sleep(80_000)
        assert len(PlayedRun.all) == 8
        assert "quern nodes restart node-1" in node.status().remedy
        PlayedRun.errors = []
        await node.restart()
        await node.until_ready()
        assert alerts[-1][0] == ENGINE_RECOVERED
        assert not node.status().given_up


async def test_a_single_failure_is_routine_and_alarms_nobody(tmp_path: Path, autojump_clock: MockClock) -> None:
    async with running(tmp_path) as (node, alerts):
        await node.until_ready()
        PlayedRun.all[0].break_with(EngineFailedError("it was killed"))
        await until(lambda: node.state is NodeState.FAILED)
        assert node.status().last_error == "it was killed"
        await node.until_ready()
        assert (node.restarts, alerts) == (1, [])


async def test_a_server_elsewhere_is_never_given_up(tmp_path: Path, autojump_clock: MockClock) -> None:
    async with running(tmp_path, None, url="http://10.0.0.7:8000") as (node, alerts):
        PlayedRun.errors = [EngineFailedError("the server cannot be reached")] * 200
        node.load(OLD, tmp_path)
        await until(lambda: not PlayedRun.errors, 100_000)
        assert [kind for kind, _ in alerts] == [ENGINE_FAILED]
        await node.until_ready()
        assert [kind for kind, _ in alerts] == [ENGINE_FAILED, ENGINE_RECOVERED]


async def test_a_version_outside_the_range_is_told_and_not_tried_again(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with running(tmp_path, None) as (node, alerts):
        PlayedRun.errors = [EngineOutsideRangeError("the network runs this model with vllm>=0.40")]
        node.load(OLD, tmp_path)
        await trio.sleep(1000)
        assert [kind for kind, _ in alerts] == [ENGINE_OUTSIDE_RANGE]
        assert node.status().why_not_drawn == "the network runs this model with vllm>=0.40"
        assert len(PlayedRun.all) == 1
        assert node.model_id is None  # so presence does not name it, and nobody draws it
        node.load(replace(OLD, model_args=("--engine", "vllm>=0.30")), tmp_path)  # the owner allows another range
        await node.until_ready()
        assert node.status().why_not_drawn == ""


async def test_a_node_without_a_model_says_why(tmp_path: Path, autojump_clock: MockClock) -> None:
    async with running(tmp_path, None) as (node, _):
        node.explain("its model is being fetched")
        assert node.status().why_not_drawn == "its model is being fetched"
        node.load(OLD, tmp_path)
        await node.until_ready()
        assert node.status().why_not_drawn == ""


async def test_a_restart_by_hand_leaves_one_server(tmp_path: Path, autojump_clock: MockClock) -> None:
    async with running(tmp_path) as (node, _):
        await node.until_ready()
        await node.restart()
        await node.until_ready()
        assert [run.ended for run in PlayedRun.all] == [True, False]
        assert PlayedRun.all[0].place == PlayedRun.all[1].place  # the names of what ended are free again
