"""What the operator is told and how often: trouble once, its end once, and nothing that floods him."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from node.alert_wiring import engine_hook
from node.alerts.desk import KNOWN_MAX, QUEUE_MAX, AlertDesk, Notice, NoticeState
from node.alerts.judging import BANS_MAX, EngineFacts, Facts, Limits, MissedDuty, ServiceFacts, judge
from node.alerts.kinds import MESSAGE_CHARACTERS_MAX, REMEDY_OF, SEVERITY_OF, Alert, AlertKind, make_alert
from node.engine.alerts import ENGINE_FAILED, ENGINE_GIVEN_UP, ENGINE_OUTSIDE_RANGE, ENGINE_RECOVERED

INTERVAL = 3600
GAS = make_alert(AlertKind.LOW_GAS, "account", "little gas")
MISSED = make_alert(AlertKind.MISSED_DUTY, "epoch 3: vote", "no vote")
LIMITS = Limits(head_seconds_max=120, disk_free_bytes_min=10 * 1024**3)
ENGINE = EngineFacts("gpu0", "tiny", ready=True, failed=False, not_ready_seconds=0, reason="")


@dataclass
class Desk:
    now: int = 1_000_000
    desk: AlertDesk = field(init=False)

    def __post_init__(self) -> None:
        self.desk = AlertDesk(list(AlertKind), INTERVAL, lambda: self.now)

    def told(self) -> list[Notice]:
        notices = []
        while True:
            try:
                notices.append(self.desk.notices.receive_nowait())
            except trio.WouldBlock:
                return notices

    def look(self, *alerts: Alert, after: int = 15) -> list[NoticeState]:
        self.now += after
        self.desk.look(alerts)
        return [notice.state for notice in self.told()]


def test_trouble_is_told_when_it_begins_and_when_it_is_over() -> None:
    desk = Desk()
    assert desk.look(GAS) == [NoticeState.RAISED]
    assert desk.look(GAS) == []
    assert [alert for alert, _ in desk.desk.present()] == [GAS]
    assert desk.look() == [NoticeState.RESOLVED]
    assert desk.look() == []
    assert desk.desk.present() == ()


def test_trouble_that_stays_is_told_again_after_the_interval() -> None:
    desk = Desk()
    desk.look(GAS)
    assert desk.look(GAS, after=INTERVAL) == [NoticeState.REPEATED]


def test_trouble_that_comes_and_goes_is_told_once_per_interval() -> None:
    desk = Desk()
    told = [state for _ in range(50) for state in (*desk.look(GAS), *desk.look())]
    assert told == [NoticeState.RAISED, NoticeState.RESOLVED]
    assert desk.look(GAS, after=INTERVAL) == [NoticeState.RAISED]


def test_what_has_happened_is_told_once_and_is_never_over() -> None:
    desk = Desk()
    assert desk.look(MISSED) == [NoticeState.RAISED]
    assert desk.look(MISSED, after=2 * INTERVAL) == []
    assert desk.look() == []


def test_what_a_part_reports_by_itself_is_told_at_once_and_ends_by_looks_or_by_time() -> None:
    desk = Desk()
    desk.desk.report("engine-failed", "gpu0", "it gave up after 5 starts")
    assert [notice.state for notice in desk.told()] == [NoticeState.RAISED]
    assert desk.look() == []  # a look that does not know it says nothing of it
    failed = make_alert(AlertKind.ENGINE_FAILED, "gpu0", "failed")
    assert desk.look(failed) == []
    assert desk.look() == [NoticeState.RESOLVED]
    desk.desk.report("low-gas", "account", "x")
    desk.told()
    assert desk.look(after=INTERVAL) == [NoticeState.RESOLVED]
    with pytest.raises(ValueError, match="no-such-kind"):
        desk.desk.report("no-such-kind", "", "")


def test_an_ml_node_s_own_words_are_told_at_once_and_taken_back_by_itself() -> None:
    desk = Desk()
    hook = engine_hook(desk.desk, "gpu0")
    for kind in (ENGINE_FAILED, ENGINE_GIVEN_UP, ENGINE_OUTSIDE_RANGE):
        hook(kind, "it died")
    assert [notice.alert.kind for notice in desk.told()] == [
        AlertKind.ENGINE_FAILED, AlertKind.ENGINE_GIVEN_UP, AlertKind.ENGINE_OUTSIDE_RANGE,
    ]  # fmt: skip
    hook(ENGINE_RECOVERED, "it serves again")
    assert [notice.state for notice in desk.told()] == 3 * [NoticeState.RESOLVED]


def test_kinds_that_are_not_wanted_are_kept_but_not_told() -> None:
    desk = Desk()
    desk.desk = AlertDesk([AlertKind.DISK], INTERVAL, lambda: desk.now)
    assert desk.look(GAS) == []
    assert len(desk.desk.present()) == 1


def test_the_queue_and_the_memory_are_bounded() -> None:
    desk = Desk()
    for number in range(2 * KNOWN_MAX):
        desk.desk.look([make_alert(AlertKind.SERVICE_FAILED, f"s{number}", "x")])
    assert len(desk.told()) == QUEUE_MAX
    assert desk.desk.dropped > 0
    assert len(desk.desk.present()) <= KNOWN_MAX


@settings(deadline=None)
@given(st.lists(st.lists(st.sampled_from([GAS, replace(GAS, subject="b")]), max_size=2), max_size=40))
def test_each_end_follows_a_beginning(looks: Sequence[Sequence[Alert]]) -> None:
    desk = Desk()
    open_now: set[str] = set()
    for alerts in looks:
        desk.now += 1000
        desk.desk.look(alerts)
        for notice in desk.told():
            if notice.state is NoticeState.RESOLVED:
                open_now.remove(notice.alert.subject)
            else:
                assert (notice.state is NoticeState.REPEATED) == (notice.alert.subject in open_now)
                open_now.add(notice.alert.subject)


def test_every_kind_says_how_bad_it_is_and_what_to_do() -> None:
    assert set(SEVERITY_OF) == set(REMEDY_OF) == set(AlertKind)


def test_an_engine_s_long_words_are_cut() -> None:
    assert len(make_alert(AlertKind.ENGINE_FAILED, "n", "x \n" * 5000).message) <= MESSAGE_CHARACTERS_MAX


@pytest.mark.parametrize(
    ("facts", "kinds"),
    [
        (Facts(), []),
        (Facts(engines=[ENGINE]), []),
        (Facts(engines=[replace(ENGINE, ready=False, not_ready_seconds=60)]), []),
        (Facts(engines=[replace(ENGINE, ready=False, not_ready_seconds=1801)]), [AlertKind.ENGINE_NOT_READY]),
        (Facts(engines=[replace(ENGINE, ready=False, failed=True)]), [AlertKind.ENGINE_FAILED]),
        (Facts(engines=[replace(ENGINE, ready=False, given_up=True, failed=True)]), [AlertKind.ENGINE_GIVEN_UP]),
        (Facts(engines=[replace(ENGINE, ready=False, outside="0.1")]), [AlertKind.ENGINE_OUTSIDE_RANGE]),
        (Facts(engines=[replace(ENGINE, ready=False, held=True, given_up=True)]), []),
        (Facts(failed_services=[ServiceFacts("forming", "KeyError: 3")]), [AlertKind.SERVICE_FAILED]),
        (Facts(gas_low=True), [AlertKind.LOW_GAS]),
        (Facts(head_seconds=120), []),
        (Facts(head_seconds=121), [AlertKind.CHAIN_LAG]),
        (Facts(disk_free_bytes=10 * 1024**3 - 1), [AlertKind.DISK]),
        (Facts(disk_free_bytes=None), []),
        (Facts(peers=0, lonely_seconds=1000), []),
        (Facts(peers=0, peers_expected=True, lonely_seconds=301), [AlertKind.NO_PEERS]),
        (Facts(new_bans=BANS_MAX - 1), []),
        (Facts(new_bans=BANS_MAX), [AlertKind.BAN_STORM]),
        (Facts(missed=[MissedDuty(3, "commit its votes")]), [AlertKind.MISSED_DUTY]),
        (Facts(no_result="epoch 3 has no accepted result"), [AlertKind.NO_RESULT]),
        (Facts(failed_transactions=1), [AlertKind.TRANSACTION_FAILED]),
    ],
)
def test_each_trouble_has_its_threshold(facts: Facts, kinds: list[AlertKind]) -> None:
    assert [alert.kind for alert in judge(facts, LIMITS)] == kinds
