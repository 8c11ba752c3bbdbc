"""The watch: what one look cannot tell, it remembers; what failed before the start is no news."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import trio
import trio.testing

from netsim.chain import SimulatedChain
from netsim.ledger import Ledger
from netsim.scenario import PARAMETERS
from netsim.trace import Trace
from node.alerts.desk import AlertDesk, NoticeState
from node.alerts.judging import Limits, judge
from node.alerts.kinds import AlertKind
from node.alerts.watch import AlertWatch, EngineLook, HeadAge, Vitals
from tests.builders import key_of

ENGINE = EngineLook("gpu0", "tiny", ready=False, failed=False, restarts=0, reason="")


@dataclass
class Node:
    """A daemon's vitals, as tests set them."""

    directory: Path
    engines: list[EngineLook] = field(default_factory=list)
    peers: int = 1
    bans: Sequence[float] = ()
    failed: int = 0
    now: int = 1_000_000
    out_of_budget: str = ""

    def watch(self) -> AlertWatch:
        vitals = Vitals(
            engines=lambda: self.engines,
            services=tuple,
            gas_low=lambda: False,
            head_seconds=lambda: 0.0,
            directory=self.directory,
            peers=lambda: self.peers,
            peers_expected=False,
            bans_since=lambda: self.bans,
            missed=tuple,
            failed_transactions=lambda: self.failed,
            wall_clock=lambda: self.now,
            out_of_budget=lambda: self.out_of_budget,
        )
        return AlertWatch(vitals, Limits(120, 1), AlertDesk(list(AlertKind), 3600, lambda: self.now))


async def test_an_engine_that_is_started_again_and_again_has_failed_until_it_is_ready(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    node = Node(tmp_path, [ENGINE])
    watch = node.watch()
    assert not (await watch.facts()).engines[0].failed
    node.engines = [replace(ENGINE, restarts=2)]
    assert (await watch.facts()).engines[0].failed
    node.engines = [replace(ENGINE, restarts=2, ready=True)]
    assert not (await watch.facts()).engines[0].failed
    node.engines = [replace(ENGINE, restarts=2)]
    await trio.sleep(100)
    (engine,) = (await watch.facts()).engines
    assert (engine.failed, engine.not_ready_seconds) == (False, 100)


async def test_a_node_that_never_had_peers_is_not_lonely(tmp_path: Path) -> None:
    node = Node(tmp_path, peers=0)
    watch = node.watch()
    assert not (await watch.facts()).peers_expected
    node.peers = 1
    await watch.facts()
    node.peers = 0
    assert (await watch.facts()).peers_expected


async def test_only_bans_of_the_last_minutes_and_failures_since_the_start_count(tmp_path: Path) -> None:
    node = Node(tmp_path, failed=7, bans=[999_000, 999_900, 999_950])
    watch = node.watch()
    facts = await watch.facts()
    assert (facts.failed_transactions, facts.new_bans) == (0, 2)
    node.failed = 8
    assert (await watch.facts()).failed_transactions == 1


async def test_a_budget_that_is_spent_is_told_until_there_is_more(tmp_path: Path) -> None:
    node = Node(tmp_path, out_of_budget="a deposit of 5 does not fit: 98 of 100 are in payment channels")
    watch = node.watch()
    watch.desk.look(judge(await watch.facts(), watch.limits))
    notice = watch.desk.notices.receive_nowait()
    assert (notice.alert.kind, notice.state) == (AlertKind.BUDGET_SPENT, NoticeState.RAISED)
    assert "98 of 100" in notice.alert.message
    node.out_of_budget = ""
    watch.desk.look(judge(await watch.facts(), watch.limits))
    assert watch.desk.notices.receive_nowait().state is NoticeState.RESOLVED


async def test_a_disk_that_is_gone_is_not_a_crash(tmp_path: Path) -> None:
    assert (await Node(tmp_path / "gone").watch().facts()).disk_free_bytes is None


async def test_a_chain_that_stands_still_grows_old(autojump_clock: trio.testing.MockClock) -> None:
    ledger = Ledger(PARAMETERS, 2.0, 1, Trace(), ())
    chain = SimulatedChain(ledger, key_of(1), confirmations=1)
    age = HeadAge(chain)
    assert age.seconds() == 0
    async with trio.open_nursery() as nursery:
        nursery.start_soon(age.run)
        with trio.move_on_after(60):
            await ledger.produce_blocks()
        assert age.seconds() < 5
        await trio.sleep(500)
        assert age.seconds() > 490
        nursery.cancel_scope.cancel()
