"""Whom to ask next for one answer: who was asked already, who is to be asked again and when, and how long to wait."""

from collections.abc import Callable, Sequence

import trio

from node.protocol.identifiers import Address
from node.protocol.routing import ExecutorChoice

EXECUTORS_TRIED_MAX = 8
WAIT_SECONDS_MAX = 120.0
"""How long an answer that was begun waits in all for room, or for somebody who failed to come back. An engine restarts
in less, on a busy machine too."""
UNBEGUN_WAIT_SECONDS_MAX = 60.0
"""The same before the first token, where a user may as well be told: most clients try again by themselves. Longer than
a daemon takes to start."""
UNBEGUN_ROOM_SECONDS_MAX = 30.0
"""The same where nobody failed and all are busy. Those whose room is promised later than that are not waited for."""
AGAIN_SECONDS_MIN = 0.5
"""When to ask again who failed, doubling with each executor asked for the answer."""
AGAIN_SECONDS_MAX = 8.0
BUSY_AGAIN_SECONDS_MAX = 2.0
"""The same for who was busy and promises room sooner: STARTS_MAX are to last as long as the patience."""
STARTS_MAX = 24
"""Executors asked for one answer, those asked again included: each reads the prompt, and is paid for it."""


class CandidateLine:
    """`candidates` says who may be asked now, best first. Times are of trio's clock."""

    def __init__(self, candidates: Callable[[], Sequence[ExecutorChoice]]) -> None:
        self._candidates = candidates
        self._standing: Sequence[ExecutorChoice] = ()
        """Candidates as they stood when somebody was last chosen."""
        self._tried: set[Address] = set()
        self._busy: dict[Address, float] = {}
        """Who was busy, and when to ask again."""
        self._unlucky: dict[Address, float] = {}
        """Who failed without being dishonest, and when to ask again: engines come back."""
        self._has_failed = False
        """Somebody failed without being dishonest."""
        self._waited = 0.0
        self._starts = 0

    @property
    def room_at(self) -> float | None:
        """When somebody who was busy may have room again; None if nobody was busy."""
        return min(self._busy.values(), default=None)

    def renew(self) -> ExecutorChoice | None:
        """Return who is best of those who may be asked now and were not; None if there is nobody."""
        self._standing = self._candidates()
        return self.untried()

    def untried(self) -> ExecutorChoice | None:
        """The same, by what was known when somebody was last chosen."""
        if len(self._tried) >= EXECUTORS_TRIED_MAX:
            return None
        return next((choice for choice in self._standing if choice.participant not in self._tried), None)

    def start(self, executor: Address) -> None:
        """`executor` is asked."""
        self._tried.add(executor)
        self._starts += 1

    def is_busy_until(self, executor: Address, at: float) -> None:
        """`executor` had no room; it says that it may be asked again from `at` on."""
        self._busy[executor] = max(at, trio.current_time() + self._pause(BUSY_AGAIN_SECONDS_MAX))

    def was_unlucky(self, executor: Address) -> None:
        """`executor` failed: it may be asked again after a while."""
        self._has_failed = True
        self._unlucky[executor] = trio.current_time() + self._pause(AGAIN_SECONDS_MAX)

    def _pause(self, most: float) -> float:
        return min(most, AGAIN_SECONDS_MIN * 2.0**self._starts)

    def allow_again(self, executor: Address) -> None:
        """`executor` may be asked once more, at once."""
        self._tried.discard(executor)

    async def wait(self, *, has_begun: bool, is_refused: bool) -> bool:
        """Wait until somebody may be asked again who was asked; return False at once if there is no use in it.

        An answer that has begun waits for whoever can go on with it. One that has not is refused where somebody calls
        it bad (`is_refused`); it waits for room, and longer where somebody failed: nodes that restart are back in
        seconds, and until then the others have their users too.
        """
        if is_refused and not has_begun:
            return False
        again = min((*self._busy.values(), *self._unlucky.values()), default=None)
        patience = WAIT_SECONDS_MAX
        if not has_begun:
            patience = UNBEGUN_WAIT_SECONDS_MAX if self._has_failed else UNBEGUN_ROOM_SECONDS_MAX
        if again is None or self._waited >= patience or self._starts >= STARTS_MAX:
            return False
        wait = max(0.0, again - trio.current_time())
        if not has_begun and self._waited + wait > patience:
            return False
        self._waited += wait
        await trio.sleep(wait)
        now = trio.current_time()
        for waiting in (self._busy, self._unlucky):
            for executor in [executor for executor, at in waiting.items() if at <= now]:
                del waiting[executor]
                self._tried.discard(executor)
        return True
