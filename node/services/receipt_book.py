"""The executor's side of audits: keeps what its answers were, commits to their receipts, hands over what is drawn.

*Purpose.* Who audits what is drawn only after the book is on chain, so at first everything is kept; once the draw from
a book is known, all that was not drawn is forgotten. A book that no result took up is drawn from by nobody: what is in
it is booked again, for it is still due (due_books.py). Private answers are in the book by their digest and without
tokens, and nothing of them is kept but the receipt, which is all there is to show if their row is drawn; so it is for
private vectors. Of others, sketches, tokens and the request are kept, in a room of their own.

*Detail.* The same store serves what this node has audited itself: the others who judge an accusation ask everybody.
"""

from collections.abc import Collection
from dataclasses import replace
from typing import Protocol

import structlog
import trio

from node.ports import Call, CallFailedError, Content, Network, Store
from node.protocol.asking import is_too_old
from node.protocol.audit_evidence import AuditEvidence, kept_answer
from node.protocol.audits import ClaimedLogprobs
from node.protocol.codec import SchemaError, from_bytes, to_bytes
from node.protocol.dossiers import AnswerEvidence, VectorEvidence
from node.protocol.findings import EarlierBook, ReceiptBook
from node.protocol.identifiers import EpochNumber, Hash32, PeerId
from node.protocol.omissions import EMPTY_BOOK
from node.protocol.pricing import receipt_digest
from node.protocol.receipt_books import (
    ROWS_MAX,
    BookRow,
    book_bytes_in_slices,
    booked_row,
    make_book_in_slices,
)
from node.protocol.records import SignedReceipt
from node.protocol.shown_evidence import evidence_to_bytes, split_evidence
from node.services.audit_frames import ASK_BYTES_MAX, CHUNK_BYTES, METHOD, AuditAsk
from node.services.keeping import store_proof
from node.services.slicing import Slicer

log = structlog.get_logger(__name__)

RECEIPTS_PER_SLICE = 64
"""Read from the disk before others get their turn: some milliseconds."""
CALLS_MAX = 16
"""Auditors that are served at once; evidence is small and read from the disk."""


class GivenAnswers(Protocol):
    """Where an executor keeps what it may have to show. Bounded; every method returns when its effect is durable."""

    def keep(self, digest: Hash32, data: bytes) -> None:
        """Keep what an auditor of the receipt `digest` would need; what is here of it stays."""

    def keep_instead(self, digest: Hash32, data: bytes) -> None:
        """Keep it in place of what is here, as the newest."""

    def keep_vectors(self, digest: Hash32, data: bytes) -> None:
        """Likewise of vectors, which have a room of their own and push nothing out."""

    def has_room_for_vectors(self) -> bool:
        """Whether there is room for vectors beside those that may still have to be shown."""

    def old_vectors(self, booked_by: int) -> tuple[Hash32, ...]:
        """Return the digests of vectors that a book which was counted, of the epoch `booked_by` or an older one, has or
        passed over for good."""

    def kept(self, digest: Hash32) -> bytes | None:
        """Return what is kept of an answer, or None."""

    def forget(self, digests: Collection[Hash32]) -> None:
        """Forget answers that are not audited."""

    def new_receipts(self, *, limit: int, after: int | None = None) -> tuple[tuple[SignedReceipt, ...], int]:
        """Return the receipts signed since the last book that was counted, oldest first, and how far they reach; or
        those beyond `after`, how far an earlier page reached."""

    def save_book(self, epoch: int, last_sequence: int, data: bytes, newest_result: int | None = None) -> None:
        """Write the rows of an epoch's book; the first one stays, and so does that of the newest result's epoch."""

    def book(self, epoch: int) -> bytes | None:
        """Return the rows of an epoch's book, or None if there is none yet."""

    def count_book(self, epoch: int) -> None:
        """Note that a result has the book of an epoch: what it has is in no later one."""

    def is_counted(self, epoch: int) -> bool:
        """Whether that was noted of the book of an epoch."""


class Admission(Protocol):
    """Says who may see what."""

    def may_see(self, peer: PeerId, digest: Hash32) -> bool:
        """Whether a peer was drawn to audit the receipt `digest`, or judges it again."""


class ReceiptBookKeeper:
    """Keeps answers and makes books. Serves `audit/3` once `serve` was called."""

    def __init__(self, content: Content, store: Store, given: GivenAnswers) -> None:
        self._content = content
        self._store = store
        self.given = given
        self._slicer = Slicer()
        self._due_before = EpochNumber(0)
        """What was asked for and answered before this epoch was due in a book that a result has."""
        self._lost_before = EpochNumber(0)
        """What was signed before this epoch may be in a book that a result has and this node does not know."""
        self._admission: Admission | None = None

    def keep(
        self,
        signed: SignedReceipt,
        answer: AnswerEvidence,
        claimed: tuple[ClaimedLogprobs, ...],
        request_signature: bytes = b"",
    ) -> None:
        """Keep an answer that this node gives, of a private one only who asked: before the receipt has both signatures.

        `request_signature` is the payer's, if it asked this node by a request: without it no auditor believes who paid.
        """
        kept = None if signed.receipt.is_private else kept_answer(answer, claimed)
        evidence = AuditEvidence(signed, kept, request_signature)
        self.given.keep(receipt_digest(signed.receipt), evidence_to_bytes(evidence))

    def keep_vectors(
        self, signed: SignedReceipt, given: VectorEvidence, request: bytes, request_signature: bytes
    ) -> None:
        """Keep vectors that this node gives and the canonical request for them, as `keep` does answers in tokens."""
        evidence, digest = AuditEvidence(signed, None, request_signature), receipt_digest(signed.receipt)
        if signed.receipt.is_private:
            self.given.keep(digest, evidence_to_bytes(evidence))
        else:
            self.given.keep_vectors(digest, evidence_to_bytes(replace(evidence, vectors=given, request=request)))

    async def book(self, epoch: EpochNumber, newest_result: EpochNumber | None = None) -> ReceiptBook | None:
        """Return this node's book of `epoch`, made now if it is not yet; None if there is nothing to commit to.

        The same after a crash: what was committed to once is what is audited. The book of `newest_result`, an epoch,
        stays however old it is.
        """
        data = self.given.book(epoch)
        if data is None:
            rows, last = await self._new_rows()
            data = await self._slicer.run(book_bytes_in_slices(rows))
            self.given.save_book(epoch, last, data, newest_result)
            data = self.given.book(epoch)  # the first one stays, if it was asked for twice at once
        if not data:
            return None
        cid = await store_proof(self._content, data, epoch, "receipt book")
        return await self._slicer.run(make_book_in_slices(data, cid))

    async def note_counted(self, counted: EarlierBook | None) -> None:
        """Take note of this node's newest book in a result, before anything of it is forgotten.

        If it is not the book that is here, which happens after a backup was restored, what is here of its epoch is most
        likely in it, and is not booked again: twice would be proven against this node.
        """
        if counted is None:
            return
        self._due_before, self._lost_before = counted.epoch, EpochNumber(0)
        if self.given.is_counted(counted.epoch):
            return
        data = self.given.book(counted.epoch)
        book = EMPTY_BOOK
        if data:
            book = await self._slicer.run(make_book_in_slices(data, counted.book.content_cid))
        if data is not None and book == counted.book:
            self.given.count_book(counted.epoch)
        else:
            self._lost_before = EpochNumber(counted.epoch + 1)

    async def _new_rows(self) -> tuple[list[BookRow], int]:
        """Return the rows of what was signed since the last book that was counted, and how far they reach.

        What was asked long before it was answered stays out, for no auditor would take it, and no payer misses it; and
        what was due before: it is in a book, or left out already, and would be blamed once more.
        """
        rows: dict[Hash32, BookRow] = {}
        receipts, reached = self.given.new_receipts(limit=RECEIPTS_PER_SLICE)
        while True:
            for signed in receipts:
                receipt = signed.receipt
                is_late = receipt.asking is not None and receipt.epoch < self._due_before
                if is_too_old(receipt) or is_late or receipt.epoch < self._lost_before:
                    continue
                row = booked_row(signed)
                rows[row.asking] = row
                if row.output_tokens == 0:
                    self.given.keep(row.digest, evidence_to_bytes(AuditEvidence(signed, None)))
            if len(receipts) < RECEIPTS_PER_SLICE or len(rows) > ROWS_MAX - RECEIPTS_PER_SLICE:
                return list(rows.values()), reached  # if there are more, they are in the next book
            await trio.lowlevel.checkpoint()
            receipts, reached = self.given.new_receipts(limit=RECEIPTS_PER_SLICE, after=reached)

    def serve(self, network: Network, admission: Admission) -> None:
        """Hand evidence over to whoever `admission` lets in."""
        self._admission = admission
        network.serve(METHOD, self._serve, concurrency=CALLS_MAX)

    async def _serve(self, call: Call) -> None:
        if len(call.payload) > ASK_BYTES_MAX:
            raise CallFailedError("bad-request", f"{len(call.payload)} bytes, at most {ASK_BYTES_MAX}")
        try:
            ask = from_bytes(AuditAsk, call.payload)
        except SchemaError as error:
            raise CallFailedError("bad-request", str(error)[:200]) from error
        if self._admission is None or not self._admission.may_see(call.peer_id, ask.digest):
            raise CallFailedError("not-drawn", "you were not drawn to audit this answer")
        try:
            data = self._evidence(ask.digest)
        except SchemaError as error:
            log.error("stored evidence cannot be read: its answer counts as withheld", reason=str(error)[:200])
            data = None
        if data is None:
            raise CallFailedError("not-kept", "nothing is kept of this answer")
        for start in range(0, len(data), CHUNK_BYTES):
            await call.send(data[start : start + CHUNK_BYTES])
        log.debug("an auditor has what it asked for", peer=call.peer_id, digest=ask.digest.hex()[:12])

    def _evidence(self, digest: Hash32) -> bytes | None:
        """Return the evidence with the receipt as it is now: the payer may have signed since. The rest goes as it is:
        every auditor would have this node read up to 16 MiB of its own. Raises SchemaError.
        """
        data = self.given.kept(digest)
        if data is None:
            return None
        signed, rest = split_evidence(data)
        receipt = signed.receipt
        newest = next(
            (found for found in self._store.receipts_of(receipt.request_id) if found.receipt == receipt), None
        )
        return data if newest is None else to_bytes(newest) + rest
