"""What a node keeps of answers for those who audit them, its own and what it fetched: who may see it, and how long.

*Purpose.* Of its own answers those that were drawn are kept, for their auditors; of others' those that it audited, for
whoever judges them again. All else is forgotten, in lots, so that a large book stops nothing else.
"""

from collections.abc import Collection, Iterable, Mapping
from itertools import islice
from typing import Protocol

import structlog
import trio

from node.ports import Chain, Store
from node.protocol.audit_evidence import AuditEvidence
from node.protocol.audit_sampling import auditors_of, drawn_rows_in_slices
from node.protocol.audit_tasks import judges_by_answer
from node.protocol.codec import SchemaError
from node.protocol.identifiers import Address, EpochNumber, Hash32, PeerId
from node.protocol.receipt_books import BookError, read_book_in_slices, read_rows
from node.protocol.records import EpochResult
from node.protocol.shown_evidence import evidence_bytes_in_slices, read_evidence_in_slices
from node.services.fuller_evidence import keep_fuller
from node.services.kept_audits import KeptAudits
from node.services.receipt_book import ReceiptBookKeeper
from node.services.slicing import Slicer

log = structlog.get_logger(__name__)

FORGOTTEN_AT_ONCE = 64
"""Pieces of evidence: more at once would save nothing."""
FORGOTTEN_FIRST = 4
"""So few before it is known how quick the disk is."""
FORGETTING_SECONDS = 0.005
"""What a lot of them may take, while nobody else has a turn: a disk that is busy, or reads what it has not at hand, is
given smaller lots."""
EPOCHS_KEPT = 3
"""Evidence of others is kept so long: an accusation may be open for some epochs. Counted from the newest result, as
long as there is none after it: its books are drawn from in every epoch until then."""
FETCHED_BYTES_MAX = 1 << 27
"""Of evidence of others that is kept in one epoch: what is kept of this node's own answers shares the room, and must
not be driven out. What is beyond is fetched anew if it is needed again."""


class Challenged(Protocol):
    """What is kept because this node challenges it: neither its own books nor its audits need have it."""

    def held(self) -> Collection[Hash32]:
        """Return those whose evidence is to be kept, as long as `over` does not name them."""

    def over(self, newest_result: EpochNumber) -> tuple[Hash32, ...]:
        """Return those whose evidence nobody asks for any more, until `forgotten` is told."""

    def forgotten(self, digests: Collection[Hash32]) -> None:
        """Note that their evidence is gone."""


class EvidenceKeeping:
    """Evidence of one epoch after the other. Lets into `audit/3` whom the draw lets in (`receipt_book.Admission`)."""

    def __init__(self, chain: Chain, store: Store, keeper: ReceiptBookKeeper, slicer: Slicer) -> None:
        self._chain = chain
        self._store = store
        self._keeper = keeper
        self._slicer = slicer
        self._allowed: Mapping[Hash32, frozenset[Address]] = {}
        """Who may see which answer; of the present epoch's draw."""
        self._still_asked: frozenset[EpochNumber] = frozenset()
        """Old epochs whose evidence is kept since no newer result has come. At most EPOCHS_KEPT; after a restart they
        are not known, and what is kept of them only goes when there is no room."""
        self._fetched_bytes = 0
        """Of evidence of others that was kept in this epoch."""

    async def begin(
        self, epoch: EpochNumber, previous: EpochResult, seed: Hash32, challenged: Collection[Hash32] = ()
    ) -> None:
        """Let those in who audit or judge by `previous` what is kept here, and forget what nobody asks for any more.

        Not what this node challenged, though it audited it too: that goes by `forget_challenged` alone.
        """
        own = await self._own_drawn(previous, seed)
        self._allowed = {**own, **judges_by_answer(previous)}
        await self._forget_all_but(own, previous.epoch)
        await self._forget_old(epoch, previous.epoch, challenged)
        self._fetched_bytes = 0

    async def forget_challenged(self, challenged: Challenged, newest_result: EpochNumber) -> None:
        """Forget what was challenged and cannot be judged any more: it may be private."""
        over = [digest for digest in challenged.over(newest_result) if digest not in self._allowed]
        await self._forget(over)
        challenged.forgotten(over)

    def may_see(self, peer: PeerId, digest: Hash32) -> bool:
        """Whether a peer was drawn to audit the receipt `digest`, or judges it again."""
        allowed = self._allowed.get(digest, frozenset())
        participants = self._chain.state.participants
        return any(participants[account].peer_id == peer for account in allowed if account in participants)

    async def kept(self, digest: Hash32) -> AuditEvidence | None:
        """Return what is kept of an answer; None if there is nothing that can be read."""
        data = self._keeper.given.kept(digest)
        try:
            return None if data is None else await self._slicer.run(read_evidence_in_slices(data))
        except SchemaError as error:
            log.error("stored evidence cannot be read; it is fetched anew", reason=str(error)[:200])
            self._keeper.given.forget([digest])
            return None

    async def keep_fetched(self, evidence: AuditEvidence) -> None:
        """Keep evidence of others for those who judge it as well, as far as there is room for it."""
        data = await self._slicer.run(evidence_bytes_in_slices(evidence))
        if self._fetched_bytes + len(data) <= FETCHED_BYTES_MAX:
            self._fetched_bytes += len(data)
            keep_fuller(self._keeper.given, evidence, data)

    async def _own_drawn(self, previous: EpochResult, seed: Hash32) -> dict[Hash32, frozenset[Address]]:
        """Return who audits which of this node's own answers; nothing if its book here is not the committed one."""
        account = self._chain.account
        own = next((committed for committed in previous.books if committed.executor == account), None)
        data = self._keeper.given.book(previous.epoch)
        if own is None or not data:
            return {}
        try:
            rows = await self._slicer.run(read_book_in_slices(data, own.book))
        except BookError as error:
            log.error(
                "this node's book of receipts is not the one that it committed to: its answers of that epoch cannot be "
                "shown to auditors and count as withheld; this happens when a backup from before the commitment is "
                "restored, and ends with the next epoch's book",
                epoch=previous.epoch,
                reason=str(error),
            )
            return {}
        drawn = await self._slicer.run(drawn_rows_in_slices(seed, account, own.book, rows, previous.group))
        return {row.digest: frozenset(auditors_of(seed, account, draw, previous.group)) for draw, row in drawn.items()}

    async def _forget_all_but(self, drawn: Collection[Hash32], epoch: EpochNumber) -> None:
        """Forget this node's own answers in the book of `epoch` that were not drawn; all stay if none was drawn, for
        then the result has no book of this node's."""
        if drawn:
            rows = read_rows(self._keeper.given.book(epoch) or b"")
            await self._forget(row.digest for row in rows if row.digest not in drawn)

    async def _forget_old(
        self, epoch: EpochNumber, newest_result: EpochNumber, challenged: Collection[Hash32] = ()
    ) -> None:
        """Forget evidence that nobody asks for any more: this node's own and what it fetched."""
        old = self._still_asked | {EpochNumber(epoch - EPOCHS_KEPT)}
        last = min(epoch, newest_result + 1) - EPOCHS_KEPT
        self._still_asked = frozenset(number for number in old if last < number <= newest_result)
        for number in sorted(old - self._still_asked):
            if self._keeper.given.is_counted(number):  # what others have is booked again, and kept until then
                await self._forget(row.digest for row in read_rows(self._keeper.given.book(number) or b""))
            if number <= newest_result:  # after it, each epoch's audits are of the same answers, this one's as well
                audited = (vote.receipt_digest for vote in KeptAudits(self._store, number).votes)
                await self._forget(digest for digest in audited if digest not in challenged)
        # Nothing pushes vectors out: what books passed over, or was drawn while this node was away, has to go as well.
        await self._forget(self._keeper.given.old_vectors(newest_result - EPOCHS_KEPT))

    async def _forget(self, digests: Iterable[Hash32]) -> None:
        """Forget evidence in lots, between which others have their turn; but nothing that may be asked for now."""
        left, count = (digest for digest in digests if digest not in self._allowed), FORGOTTEN_FIRST
        while lot := list(islice(left, count)):
            began = trio.current_time()
            self._keeper.given.forget(lot)
            count = next_lot(len(lot), trio.current_time() - began)
            await trio.lowlevel.checkpoint()


def next_lot(count: int, seconds: float) -> int:
    """Return how many to forget at once after `count` took so long: as many as fit, at most twice as many, and one."""
    fitting = 2 * count if 2 * seconds <= FORGETTING_SECONDS else int(count * FORGETTING_SECONDS / seconds)
    return max(1, min(fitting, FORGOTTEN_AT_ONCE))
