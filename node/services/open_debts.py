"""Answers to open prompts that this node gave and was not paid for: who owes one gets no other.

An open prompt is paid after its answer. So what a payer can take without paying is one answer per executor and day, and
it needed a registration and a funded channel for that. Kept in the store: a restart forgives nothing.
"""

from dataclasses import dataclass

import structlog

from node.ports import Store, WallClock
from node.protocol.codec import SchemaError, from_bytes, to_bytes
from node.protocol.identifiers import Address, RequestId
from node.protocol.records import SignedReceipt

log = structlog.get_logger(__name__)

DEBTS_MAX = 256
"""Answers unpaid at the same time. When they are so many, no more are given until some are paid or forgiven."""
FORGIVEN_SECONDS = 24 * 3600
"""A day: whoever could not pay because one of both was down has had the time; a thief gains an answer a day."""
PAID_MAX = 1024
"""Request ids remembered as paid, so that a payment that is sent again is told so."""
KEY = "open-prompts/unpaid"


@dataclass(frozen=True, slots=True)
class Debt:
    """An answer that is to be paid."""

    receipt: SignedReceipt
    since: int
    """UNIX seconds."""


@dataclass(frozen=True, slots=True)
class _Debts:
    items: tuple[Debt, ...]


class OpenDebts:
    """The answers that are not paid yet."""

    def __init__(self, store: Store, wall_clock: WallClock) -> None:
        self._store = store
        self._wall_clock = wall_clock
        self._debts = {debt.receipt.receipt.request_id: debt for debt in self._load()}
        self._paid: dict[RequestId, None] = {}

    def refusal(self, payer: Address) -> str | None:
        """Return why `payer` gets no answer now; None if it gets one."""
        self._forgive()
        if any(debt.receipt.receipt.payer == payer for debt in self._debts.values()):
            return "it has not paid for an answer yet"
        if len(self._debts) >= DEBTS_MAX:
            return f"{DEBTS_MAX} answers are not paid yet"
        return None

    def add(self, debt: Debt) -> None:
        """An answer goes out. Written down before it does."""
        self._debts[debt.receipt.receipt.request_id] = debt
        self._save()

    def get(self, request_id: RequestId) -> Debt | None:
        """Return what is owed for a request."""
        return self._debts.get(request_id)

    def was_paid(self, request_id: RequestId) -> bool:
        """Whether the answer to a request was paid lately."""
        return request_id in self._paid

    def paid(self, request_id: RequestId) -> None:
        """An answer is paid."""
        self._paid[request_id] = None
        if len(self._paid) > PAID_MAX:
            del self._paid[next(iter(self._paid))]
        self.drop(request_id)

    def drop(self, request_id: RequestId) -> None:
        """Nothing is owed for a request: it is paid, or another answer won."""
        if self._debts.pop(request_id, None) is not None:
            self._save()

    def _forgive(self) -> None:
        now = self._wall_clock()
        old = [identity for identity, debt in self._debts.items() if now - debt.since > FORGIVEN_SECONDS]
        for identity in old:
            log.warning("an answer to an open prompt was never paid", payer=self._debts[identity].receipt.receipt.payer)
            self.drop(identity)

    def _load(self) -> tuple[Debt, ...]:
        data = self._store.get_document(KEY)
        try:
            return from_bytes(_Debts, data).items if data is not None else ()
        except SchemaError as error:
            log.warning("unpaid answers of an older version are forgotten", reason=str(error))
            return ()

    def _save(self) -> None:
        self._store.put_document(KEY, to_bytes(_Debts(tuple(self._debts.values()))))
