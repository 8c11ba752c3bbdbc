"""What this node asked for, signed, and has no receipt of: answers to these may stand in no book in full.

*Purpose.* Whoever is asked has a signed request, and may book an answer to it that it never gave: made up, it takes
draws away from what it answered wrongly (decision 0058). Nobody else can tell, for nothing proves what never came. So
it is held against the executor here only: this gateway asks it last for a while (faults.py).

*Detail.* An honest executor books what it gave when its user left or the line broke: as many tokens as came here, and
those that were on the way. Each request is written down with so many, some of each executor in each epoch; what books
have beyond that was made up. How much is on the way its executor says when it begins; of one whose beginning never came
nothing is known, and it may book all that was asked for. A few such rows may be a mishap, so they count only together,
and what ended at the same time counts once: a line that breaks ends all that run over it.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import structlog

from node.ports import Store
from node.protocol.asking import ANSWER_EPOCHS_MAX
from node.protocol.codec import SchemaError, from_bytes, to_bytes
from node.protocol.identifiers import Address, EpochNumber, Hash32, ModelId, RequestId

log = structlog.get_logger(__name__)

KIND = "unreceived"
"""What the documents' names begin with, before the epoch (tidying.py)."""
KEPT_PER_EXECUTOR_MAX = 256
"""In an epoch: enough to tell, and no executor that fails all the time takes the room of others."""
KEPT_MAX = 4096
"""In an epoch, of all executors: a mebibyte."""
EPOCHS_COUNTED = 2
"""Requests of one epoch end while those of the next begin; what is older than both ended too late to matter."""
ON_THE_WAY_TOKENS = 64
"""What an executor may give unpaid; twice what it says that it gives, if that is more."""
FREE_TIMES = 4
"""More may be on the way where nobody waits for payments."""
MADE_UP_ROWS_MIN = 3
APART_SECONDS = 60
"""Between two rows that count; what ended within that may have ended for the same reason."""
BOOK_EPOCHS = ANSWER_EPOCHS_MAX + 1
"""After the epoch of a request a book may have its answer for so many more."""


@dataclass(frozen=True, slots=True)
class Unreceived:
    """A request without a receipt."""

    executor: Address
    asking: Hash32
    """What was signed: a book's row stands under it."""
    request_id: RequestId
    model_id: ModelId
    tokens_max: int
    """As many an honest executor may have booked."""
    ended_at: int
    """UNIX seconds."""


def tokens_given_at_most(tokens: int, unpaid_tokens_max: int, *, is_free: bool) -> int:
    """Return how many tokens an honest executor may have given of which `tokens` came; `unpaid_tokens_max` is what it
    said that it gives unpaid."""
    on_the_way = max(ON_THE_WAY_TOKENS, 2 * unpaid_tokens_max)
    return tokens + on_the_way * (FREE_TIMES if is_free else 1)


class UnreceivedBook:
    """Requests without a receipt, by epoch, in the store."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._counts: dict[EpochNumber, Counter[Address]] = {}
        """Of the newest epochs; after a restart they begin anew."""

    def has_room(self, epoch: EpochNumber, executor: Address) -> bool:
        """Whether a request of `epoch` to `executor` would be written down: to make a record takes some hashing."""
        counts = self._counts.get(epoch)
        if counts is None:
            return len(self._counts) < EPOCHS_COUNTED or epoch > min(self._counts)
        return counts[executor] < KEPT_PER_EXECUTOR_MAX and counts.total() < KEPT_MAX

    def add(self, epoch: EpochNumber, asked: Unreceived) -> None:
        """Write a request of `epoch` down, if there is room."""
        if not self.has_room(epoch, asked.executor):
            return
        self._counts.setdefault(epoch, Counter())[asked.executor] += 1
        if len(self._counts) > EPOCHS_COUNTED:
            del self._counts[min(self._counts)]
        self._store.put_documents({_document(epoch, asked.asking): to_bytes(asked)})

    def booked_in(self, epoch: EpochNumber) -> dict[Address, list[Unreceived]]:
        """Return what the books of `epoch` may have rows for, by executor."""
        found: dict[Address, list[Unreceived]] = {}
        for asked in self._of(range(max(0, epoch - BOOK_EPOCHS), epoch + 1)):
            found.setdefault(asked.executor, []).append(asked)
        return found

    def forget(self, asked: Sequence[Unreceived]) -> None:
        """Forget what was held against an executor: once is enough."""
        wanted = {one.asking.hex() for one in asked}
        for key in self._store.document_keys(f"{KIND}/"):
            if key.rpartition("/")[2] in wanted:
                self._store.forget_document(key)

    def _of(self, epochs: range) -> Iterator[Unreceived]:
        for epoch in epochs:
            for key in self._store.document_keys(f"{KIND}/{epoch}/"):
                try:
                    yield from_bytes(Unreceived, self._store.get_document(key) or b"")
                except SchemaError as error:
                    log.error("a request without receipt cannot be read; it is forgotten", reason=str(error)[:200])
                    self._store.forget_document(key)


def made_up(asked: Sequence[Unreceived], booked: Mapping[Hash32, int]) -> list[Unreceived]:
    """Return which requests an executor booked with more tokens than it can have given; none if they ended at so few
    times that it may be a mishap. `booked` are the tokens in its book, by what was signed of the request."""
    found = [one for one in asked if booked.get(one.asking, 0) > one.tokens_max]
    return found if _times_apart(one.ended_at for one in found) >= MADE_UP_ROWS_MIN else []


def _times_apart(times: Iterable[int]) -> int:
    """Return how many of the times are each so far from the others that they count by themselves."""
    count, last = 0, -APART_SECONDS
    for at in sorted(times):
        if at - last >= APART_SECONDS:
            count, last = count + 1, at
    return count


def _document(epoch: EpochNumber, asking: Hash32) -> str:
    return f"{KIND}/{epoch}/{asking.hex()}"
