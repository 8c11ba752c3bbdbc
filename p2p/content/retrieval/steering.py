"""Has as many sources of a race asked as keep its threads at work, by looking at those threads now and then."""

from p2p.content.retrieval.breadth import Breadth, Interval, decide
from p2p.content.retrieval.effort import Effort
from p2p.content.retrieval.roster import Roster

BLOCKS_MANY = 64
"""So many are begun with as few sources as may suffice, drawn by lot, for an interval; fewer are asked of all, for they
are over before much is known. Three that begin cold are slower at first than one with all the threads, which was the
last hundredth or two between them."""


class Steering:
    """Of one run."""

    def __init__(self, roster: Roster, effort: Effort, now: float, *, blocks: int) -> None:
        """`now` in seconds, as in `look`; so many `blocks` are to be fetched."""
        self.is_busy = False
        """Whether our own threads had enough to do: then no block is late by the fault of a source."""
        self._roster = roster
        self._effort = effort
        self._looked_at = now
        self._effort_then = effort.seconds
        self._known = Breadth()
        roster.ask_all()
        if blocks >= BLOCKS_MANY and roster.least() < len(roster.able()):
            roster.ask_only(roster.least())
        roster.share_threads()
        self._asked = roster.asked()

    def look(self, now: float) -> bool:
        """See what was done since the last look, and who is asked from here on; return whether that are others."""
        roster, effort = self._roster, self._effort.seconds
        seconds, worked = now - self._looked_at, effort - self._effort_then
        self._looked_at, self._effort_then = now, effort
        could_work = seconds * roster.hands()
        seen = Interval(
            seconds=seconds,
            asked=len(roster.asked()),
            able=len(roster.able()),
            least=roster.least(),
            busy=worked / could_work if could_work else 0.0,
        )
        self.is_busy = seen.is_busy
        self._known, count = decide(self._known, seen)
        if count > seen.asked:
            roster.ask_all()
        elif count < seen.asked:
            roster.ask_only(count)
        before, self._asked = self._asked, roster.asked()
        if self._asked == before:
            return False
        roster.share_threads()  # also if one was dropped, or has come
        return True
