"""What receipts of private answers are about, in memory alone and for a while: their user may want one judged.

*Detail.* Nothing of a private answer is written down unless its user consents. So what the tokens were is known here
for some time, to nobody else, and gone with the program. Of a decoy, which is nobody's secret, it is known for as long
as that is audited, private or not.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import trio

from node.protocol.audit_evidence import KeptAnswer, kept_answer
from node.protocol.codec import from_bytes, to_bytes
from node.protocol.dossiers import AnswerEvidence
from node.protocol.identifiers import Address, RequestId
from node.protocol.records import Receipt

ANSWERS_MAX = 256
BYTES_MAX = 32 * 1024 * 1024
"""Of all of them; the oldest goes."""
FORGETTING_SECONDS = 60.0
"""How often what is too old is looked for: by so much a private answer may stay longer."""


@dataclass(frozen=True, slots=True)
class _AtHand:
    """One of them."""

    until: float
    """By trio's clock."""
    data: bytes


class AnswersAtHand:
    """Keeps private answers for `seconds`; those of requests that are awaited until nobody awaits them any more."""

    def __init__(self, seconds: float = 0.0) -> None:
        """`seconds`: 0 keeps none but those awaited."""
        self._seconds = seconds
        self._found: dict[tuple[RequestId, Address], _AtHand] = {}
        """Oldest first."""
        self._awaited: set[RequestId] = set()

    async def run(self) -> None:
        """Forget for ever what is too old, also when nobody asks."""
        while True:
            await trio.sleep(FORGETTING_SECONDS)
            self._forget_old()

    def wants(self, request_id: RequestId, *, is_private: bool) -> bool:
        """Whether the answer to a request is to be kept here."""
        return request_id in self._awaited or (is_private and self._seconds > 0)

    def keep(self, receipt: Receipt, answer: AnswerEvidence) -> None:
        """Keep what a receipt is about, without its text."""
        until = trio.current_time() + self._seconds
        self._found[receipt.request_id, receipt.executor] = _AtHand(until, to_bytes(kept_answer(answer)))
        self._forget_old()

    def find(self, request_id: RequestId, executor: Address) -> KeptAnswer | None:
        """Return what is kept of an executor's answer."""
        self._forget_old()
        found = self._found.get((request_id, executor))
        return None if found is None else from_bytes(KeptAnswer, found.data)

    @contextmanager
    def awaiting(self, request_id: RequestId) -> Iterator[None]:
        """Keep the answers to a request, whatever it is, until the context is left."""
        self._awaited.add(request_id)
        try:
            yield
        finally:
            self._awaited.discard(request_id)
            for key in [key for key in self._found if key[0] == request_id]:
                del self._found[key]

    def _forget_old(self) -> None:
        now = trio.current_time()
        free = [key for key in self._found if key[0] not in self._awaited]
        for key in free:
            size = sum(len(one.data) for one in self._found.values())
            if self._found[key].until > now and len(self._found) <= ANSWERS_MAX and size <= BYTES_MAX:
                return
            del self._found[key]
