"""Decides what is told and when: each trouble once when it begins, again while it stays, once when it is over.

Trouble that comes and goes is told at most once in `interval_seconds`. What is told waits in a short queue for whoever
delivers it; when that is full, the new is dropped and counted, for the old says the same.
"""

from collections import OrderedDict
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from enum import StrEnum

import structlog
import trio

from node.alerts.kinds import Alert, AlertKind, make_alert
from node.ports import WallClock

log = structlog.get_logger(__name__)

QUEUE_MAX = 64
"""Notices that wait for the webhook. It may be down for long; then what waits says enough."""
KNOWN_MAX = 256
"""Troubles remembered. More at once than a node has parts would be a fault of ours."""
EVENTS = frozenset({AlertKind.MISSED_DUTY, AlertKind.TRANSACTION_FAILED, AlertKind.FALSE_RESULT})
"""Kinds that have happened and cannot be over."""


class NoticeState(StrEnum):
    """What a notice says of its trouble."""

    RAISED = "raised"
    REPEATED = "repeated"
    RESOLVED = "resolved"
    TEST = "test"


@dataclass(frozen=True, slots=True)
class Notice:
    """What is told. `at` is in UNIX seconds; `number` counts the notices of this daemon since its start."""

    number: int
    state: NoticeState
    alert: Alert
    at: int


@dataclass(slots=True)
class _Known:
    alert: Alert
    since: int
    present: bool
    announced: bool = False
    """Whether it was told since it was last over."""
    told_at: int | None = None
    looked: bool = False
    """Whether a look found it: then a look also finds that it is over."""


class AlertDesk:
    """Takes trouble in, gives notices out. `kinds` are those the operator wants; others are only written to the log."""

    def __init__(self, kinds: Collection[AlertKind], interval_seconds: int, wall_clock: WallClock) -> None:
        self.kinds = frozenset(kinds)
        self._interval_seconds = interval_seconds
        self._wall_clock = wall_clock
        self._known: OrderedDict[tuple[AlertKind, str], _Known] = OrderedDict()
        self._send, self.notices = trio.open_memory_channel[Notice](QUEUE_MAX)
        self._number = 0
        self.dropped = 0

    def present(self) -> tuple[tuple[Alert, int], ...]:
        """All trouble there is now, with when it began (UNIX seconds)."""
        return tuple((known.alert, known.since) for known in self._known.values() if known.present)

    def look(self, alerts: Iterable[Alert]) -> None:
        """Take all trouble there is at this moment; what is not among it any more is over."""
        now = self._wall_clock()
        found = {alert.key: alert for alert in alerts}
        for key, known in self._known.items():
            if known.present and key not in found and self._is_over(known, now):
                self._end(known, now)
        for alert in found.values():
            self._note(alert, now, looked=True)

    def report(self, kind: str, subject: str, message: str) -> None:
        """Take trouble from whoever notices it by itself, such as an engine that gives up.

        If a look finds it as well, looks say when it is over; otherwise it counts as over after the interval. A kind
        that is not known is a fault of the caller's and raises ValueError.
        """
        self._note(make_alert(AlertKind(kind), subject, message), self._wall_clock(), looked=False)

    def withdraw(self, subject: str) -> None:
        """Take back what was reported of `subject`: whoever reported it says that it is over."""
        now = self._wall_clock()
        for known in self._known.values():
            if known.present and known.alert.subject == subject:
                self._end(known, now)

    def make_test(self) -> Notice:
        """Return a notice that only shows that notices arrive."""
        alert = make_alert(AlertKind.ENGINE_FAILED, "test", "this is a test of `quern alerts test`: nothing is wrong")
        return self._notice(NoticeState.TEST, alert, self._wall_clock())

    def _is_over(self, known: _Known, now: int) -> bool:
        return known.looked or now - known.since >= self._interval_seconds

    def _note(self, alert: Alert, now: int, *, looked: bool) -> None:
        known = self._known.get(alert.key)
        if known is None:
            known = self._known[alert.key] = _Known(alert, now, present=True)
            self._forget_old()
        elif not known.present:
            known.present, known.since, known.looked = True, now, False
        known.alert = alert
        known.looked = known.looked or looked
        if known.told_at is not None and now - known.told_at < self._interval_seconds:
            return
        if known.announced and alert.kind in EVENTS:
            return
        state = NoticeState.REPEATED if known.announced else NoticeState.RAISED
        known.announced, known.told_at = True, now
        log.error("something needs a hand", kind=alert.kind.value, subject=alert.subject, reason=alert.message)
        self._tell(state, alert, now)

    def _end(self, known: _Known, now: int) -> None:
        known.present = False
        if known.announced and known.alert.kind not in EVENTS:
            known.announced = False
            log.info("something is well again", kind=known.alert.kind.value, subject=known.alert.subject)
            self._tell(NoticeState.RESOLVED, known.alert, now)

    def _tell(self, state: NoticeState, alert: Alert, now: int) -> None:
        if alert.kind not in self.kinds:
            return
        try:
            self._send.send_nowait(self._notice(state, alert, now))
        except trio.WouldBlock:
            self.dropped += 1
        except trio.BrokenResourceError:
            log.debug("nobody delivers notices any more")

    def _notice(self, state: NoticeState, alert: Alert, now: int) -> Notice:
        self._number += 1
        return Notice(self._number, state, alert, now)

    def _forget_old(self) -> None:
        while len(self._known) > KNOWN_MAX:
            gone = next((key for key, known in self._known.items() if not known.present), next(iter(self._known)))
            del self._known[gone]
