"""The durable books as services see them: duties, vouchers, receipts, evidence, documents."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from node.protocol.dossiers import AnswerEvidence, VectorEvidence
from node.protocol.identifiers import Address, EpochNumber, Hash32, RequestId, TokenAmount
from node.protocol.records import SignedReceipt, Voucher


class EquivocationError(Exception):
    """A duty was already done with another content: signing this one could be slashed."""


@dataclass(frozen=True, slots=True)
class SignedVoucher:
    """A voucher with its payer's signature."""

    payer: Address
    payee: Address
    voucher: Voucher
    signature: bytes


class Store(Protocol):
    """Durable books. Every method returns only when its effect would survive kill -9; of vouchers and receipts, which
    come often, `durable` tells when it would survive the loss of power too.
    """

    async def durable(self) -> None:
        """Wait until all that was saved so far survives the loss of power: before it has an effect elsewhere."""

    def record_duty(self, duty: str, digest: Hash32) -> None:
        """Remember what is about to be signed for `duty` (e.g. `votes/7`), before it is signed.

        Same digest again: no effect. Another digest: EquivocationError, and nothing must be signed.
        """

    def issued_voucher(self, channel_id: Hash32) -> SignedVoucher | None:
        """The newest voucher this node signed as payer."""

    def save_issued_voucher(self, signed: SignedVoucher) -> None:
        """Write a voucher; it leaves this node after `durable`. Refuses (ValueError) one below the newest."""

    def received_voucher(self, channel_id: Hash32) -> SignedVoucher | None:
        """The newest voucher this node holds as payee."""

    def save_received_voucher(self, signed: SignedVoucher) -> None:
        """Write a verified voucher; tokens are released for it after `durable`.

        Refuses (ValueError) one below the newest.
        """

    def received_vouchers(self) -> tuple[SignedVoucher, ...]:
        """The newest voucher of each channel this node is paid from."""

    def save_receipt(
        self,
        signed: SignedReceipt,
        answer: AnswerEvidence | VectorEvidence | None = None,
        *,
        answers_kept_max: int = 0,
    ) -> None:
        """Keep a receipt this node gave or got; again, only if both sides signed it and not the one that is kept.

        With it, the `answer` of this node's user, and the newest `answers_kept_max` of all.
        """

    def receipts_of(self, request_id: RequestId) -> tuple[SignedReceipt, ...]:
        """All receipts of one request, in order: several where executors failed."""

    def answer_of(self, request_id: RequestId, executor: Address) -> AnswerEvidence | VectorEvidence | None:
        """What a receipt of this node's user is about, if it is kept."""

    def receipts(self, *, limit: int) -> tuple[SignedReceipt, ...]:
        """The newest receipts, newest first."""

    def newest_given(self) -> int:
        """The number of the newest receipt of this executor; they are numbered in order. 0 if there is none."""

    def receipts_given(self, *, after: int, limit: int) -> tuple[tuple[int, SignedReceipt], ...]:
        """Receipts of this executor with a number above `after`, with their numbers, oldest first."""

    def receipts_got(self, *, before: int | None, limit: int) -> tuple[tuple[SignedReceipt, ...], int]:
        """Of the `limit` receipts with a number below `before`, or of the newest, those of other executors, newest
        first; and the `before` of the next ones, 0 if there are none."""

    def receipt_totals(self) -> tuple[int, int, TokenAmount]:
        """(answers, output tokens, price) over all receipts of this executor that their payers signed."""

    def save_evidence(self, participant: Address, at: int, code: str, data: bytes) -> None:
        """Keep what `participant` did wrong, at `at` (UNIX seconds). Bounded for each and for all: the oldest goes."""

    def evidence(self, *, limit: int, participant: Address | None = None) -> tuple[bytes, ...]:
        """The newest evidence, newest first; of one participant, or of all."""

    def save_statement(self, epoch: EpochNumber, member: Address, data: bytes) -> None:
        """Keep what `member` said about the result of `epoch`; what was said of epochs before the last one goes."""

    def statements(self) -> tuple[tuple[Address, bytes], ...]:
        """What members said, with who said it: epoch by epoch, in the order in which it came."""

    def put_document(self, key: str, data: bytes) -> None:
        """Keep a small document under a key (e.g. the last EpochResult); replaces."""

    def put_documents(self, documents: Mapping[str, bytes]) -> None:
        """Keep documents by their keys, all or none, without waiting for the disk: the loss of power undoes what was
        put since `durable`, or since anything was put by `put_document`."""

    def get_document(self, key: str) -> bytes | None:
        """Return a document or None."""

    def document_keys(self, prefix: str) -> tuple[str, ...]:
        """The keys of all documents that begin so, ascending."""

    def forget_document(self, key: str) -> None:
        """Forget a document, if there is one. What the loss of power brings back is only forgotten once more."""
