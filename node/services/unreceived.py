"""What this node asked for, signed, and has no receipt of: answers to these may stand in no book in full.

*Purpose.* Whoever is asked has a signed request, and may book an answer to it that it never gave: made up, it takes
draws away from what it answered wrongly (decision 0058). Nobody else can tell, for nothing proves what never came. So
it is held against the executor here only: this gateway asks it last for a while (faults.py).

*Detail.* An honest executor books what it gave when its user left or the line broke: as many tokens as came here, and
those that were on the way. Each request is written down with so many, some of each executor in each epoch; what books
have beyond that was made up. A few such rows may be a mishap, so they count only together.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
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
ON_THE_WAY_TOKENS = 64
"""What an executor may give unpaid, as far as is known before it says so; twice what it says, if that is more."""
FREE_TIMES = 4
"""More may be on the way where nobody waits for payments."""
MADE_UP_ROWS_MIN = 3
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


def tokens_given_at_most(tokens: int, unpaid_tokens_max: int, *, is_free: bool) -> int:
    """Return how many tokens an honest executor may have given of which `tokens` came; `unpaid_tokens_max` is what it
    said that it gives unpaid, 0 if it said nothing."""
    on_the_way = max(ON_THE_WAY_TOKENS, 2 * unpaid_tokens_max)
    return tokens + on_the_way * (FREE_TIMES if is_free else 1)


class UnreceivedBook:
    """Requests without a receipt, by epoch, in the store."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._epoch = EpochNumber(-1)
        self._counts: Counter[Address] = Counter()
        """Of `_epoch`; after a restart they begin anew."""

    def has_room(self, epoch: EpochNumber, executor: Address) -> bool:
        """Whether a request of `epoch` to `executor` would be written down: to make a record takes some hashing."""
        if epoch != self._epoch:
            return True
        return self._counts[executor] < KEPT_PER_EXECUTOR_MAX and self._counts.total() < KEPT_MAX

    def add(self, epoch: EpochNumber, asked: Unreceived) -> None:
        """Write a request of `epoch` down, if there is room."""
        if not self.has_room(epoch, asked.executor):
            return
        if epoch != self._epoch:
            self._epoch, self._counts = epoch, Counter()
        self._counts[asked.executor] += 1
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
    """Return which requests an executor booked with more tokens than it can have given; none if they are so few that it
    may be a mishap. `booked` are the tokens in its book, by what was signed of the request."""
    found = [one for one in asked if booked.get(one.asking, 0) > one.tokens_max]
    return found if len(found) >= MADE_UP_ROWS_MIN else []


def _document(epoch: EpochNumber, asking: Hash32) -> str:
    return f"{KIND}/{epoch}/{asking.hex()}"
