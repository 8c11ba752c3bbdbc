"""Whether a request is new: fresh by its time, and not served before, over restarts too.

*Detail.* Ids are remembered as long as their time would be accepted. What was served is not written down one by one;
instead a bound is in the store, above the time of every request served so far. After a restart requests up to the bound
are refused: they may have been served. The bound is moved ahead in steps, so that it costs one write in ten seconds.
What was forgotten for its age stays refused, whatever this node's clock says later: the bound is of payers' times.
"""

from collections import OrderedDict

import structlog

from node.ports import CallFailedError, Store, WallClock
from node.protocol.identifiers import Address, RequestId

log = structlog.get_logger(__name__)

AGE_SECONDS_MAX = 120
"""A request waits in its gateway's queues, and clocks differ."""
FUTURE_SECONDS_MAX = 30
"""Less than the age: after a restart requests are refused until the clock has passed the newest one served."""
REMEMBERED_MAX = 1 << 17
"""Ids kept; at 800 new requests a second the window is full, and more are refused rather than forgotten."""
BOUND_STEP_SECONDS = 10
"""A restart takes an engine longer than that."""
DOCUMENT = "requests-served-until"

Key = tuple[RequestId, Address, int, int]


class FreshRequests:
    """Admits each request once. Refusals are CallFailedError `stale` (ask again, or another), `replayed`, `busy`."""

    def __init__(self, store: Store, wall_clock: WallClock) -> None:
        self._store = store
        self._wall_clock = wall_clock
        self._seen: OrderedDict[Key, int] = OrderedDict()
        self._refused_until = _read_bound(store)
        """Requests up to this time may have been served and are not remembered: those before this program started, and
        those that were forgotten for their age."""
        self._bound = self._refused_until

    def admit(self, request_id: RequestId, payer: Address, part: int, at: int) -> None:
        """Admit the `part` of a request (fail-over asks for several) that says it was made `at`, or raise."""
        now = self._wall_clock()
        if not -AGE_SECONDS_MAX <= at - now <= FUTURE_SECONDS_MAX:
            raise CallFailedError("stale", f"the request's time is {at - now:+} s from this executor's clock")
        if at <= self._refused_until:
            raise CallFailedError("stale", "this executor may have served the request before; ask again")
        # With its time: who failed under an answer may be asked again for the same part, by a new signature.
        key = (request_id, payer, part, at)
        self._forget_old(now)
        if key in self._seen:
            raise CallFailedError("replayed", "the request was served already")
        if len(self._seen) >= REMEMBERED_MAX:
            raise CallFailedError("busy", "more requests came than can be remembered")
        if at > self._bound:
            self._bound = at + BOUND_STEP_SECONDS
            self._store.put_document(DOCUMENT, str(self._bound).encode())
        self._seen[key] = at

    def _forget_old(self, now: int) -> None:
        """Forget what would be refused for its age. In order of arrival: what is in front is too old soon enough."""
        while self._seen:
            key, at = next(iter(self._seen.items()))
            if now - at <= AGE_SECONDS_MAX:
                return
            del self._seen[key]
            self._refused_until = max(self._refused_until, at)  # a clock that is set back makes it new again


def _read_bound(store: Store) -> int:
    data = store.get_document(DOCUMENT)
    if data is None:
        return 0
    text = data.decode("ascii", "replace")
    if text.isdigit() and len(text) <= 12:
        return int(text)
    log.error("the time of the newest request served cannot be read; old requests may be served twice", found=text[:40])
    return 0
