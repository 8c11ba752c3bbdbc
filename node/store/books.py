"""The daemon's books: duties signed, vouchers issued and received, receipts, documents. Implements the Store port."""

import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass

from node.ports import EquivocationError, SignedVoucher
from node.protocol.codec import from_bytes, to_bytes
from node.protocol.dossiers import AnswerEvidence, VectorEvidence
from node.protocol.identifiers import Address, EpochNumber, Hash32, RequestId, TokenAmount
from node.protocol.pricing import receipt_digest
from node.protocol.records import SignedReceipt
from node.store.database import Database

RECEIPTS_PER_QUERY_MAX = 1_000
"""A page of receipts; more at once would hold the event loop."""
EVIDENCE_PER_PARTICIPANT_MAX = 64
"""Kept of one participant: nobody pushes out what is known of others."""
EVIDENCE_MAX = 4096
STATEMENT_EPOCHS_KEPT = 2
"""What members say of a result decides in its epoch, and may still arrive in the next one."""
ANSWER_BYTES_MAX = 384 * 1024
"""A larger answer is not kept: as JSON it must fit a frame of the control socket."""
LAST_CHARACTER = "\U0010ffff"
RECEIPT_FORMAT = 5
"""Of records in the table: the second has commitments to the draw, a time and the payer's signature, the third says
whether the request was within the rule, the fourth what the payer signed of it and what was told of tokens, the fifth
how many vectors were given."""


@dataclass(frozen=True, slots=True)
class _Kept:
    """What a receipt is about, as it is stored: one of both."""

    answer: AnswerEvidence | None = None
    vectors: VectorEvidence | None = None


def _kept(answer: AnswerEvidence | VectorEvidence) -> _Kept:
    return _Kept(answer=answer) if isinstance(answer, AnswerEvidence) else _Kept(vectors=answer)


class Books:
    """The Store port over SQLite."""

    def __init__(self, database: Database, account: str) -> None:
        """`account` is this node's own: receipts it signed itself are its income."""
        self.database = database
        self._account = account
        self._totals: tuple[int, int, TokenAmount] | None = None
        self._newest: dict[tuple[str, Hash32], SignedVoucher] = {}
        """Vouchers as the tables have them: they are read many times a second. Only this object writes them."""

    async def durable(self) -> None:
        """Wait until all that was saved survives the loss of power."""
        await self.database.durable()

    def record_duty(self, duty: str, digest: Hash32) -> None:
        """Remember what will be signed for `duty`; raise EquivocationError if it was something else before."""
        with self.database.transaction() as connection:
            row = connection.execute("SELECT digest FROM duties WHERE duty = ?", (duty,)).fetchone()
            if row is None:
                connection.execute("INSERT INTO duties VALUES (?, ?)", (duty, digest))
            elif row[0] != digest:
                raise EquivocationError(
                    f"{duty}: already signed {row[0].hex()}, will not sign {digest.hex()}; nothing was sent"
                )

    def issued_voucher(self, channel_id: Hash32) -> SignedVoucher | None:
        """The newest voucher signed as payer."""
        return self._voucher("issued_vouchers", channel_id)

    def save_issued_voucher(self, signed: SignedVoucher) -> None:
        """Write a voucher before it is sent."""
        self._save_voucher("issued_vouchers", signed)

    def received_voucher(self, channel_id: Hash32) -> SignedVoucher | None:
        """The newest voucher held as payee."""
        return self._voucher("received_vouchers", channel_id)

    def save_received_voucher(self, signed: SignedVoucher) -> None:
        """Write a voucher before tokens are released for it."""
        self._save_voucher("received_vouchers", signed)

    def received_vouchers(self) -> tuple[SignedVoucher, ...]:
        """The newest voucher of every channel that pays this node."""
        return self._all("received_vouchers")

    def issued_vouchers(self) -> tuple[SignedVoucher, ...]:
        """The newest voucher of every channel this node pays from."""
        return self._all("issued_vouchers")

    def save_receipt(
        self,
        signed: SignedReceipt,
        answer: AnswerEvidence | VectorEvidence | None = None,
        *,
        answers_kept_max: int = 0,
    ) -> None:
        """Keep a receipt, as it came first, or as it came first with both signatures.

        With it, its answer, if any are to be kept; the oldest above `answers_kept_max` are forgotten.
        """
        receipt = signed.receipt
        data = b"" if answer is None or answers_kept_max <= 0 else to_bytes(_kept(answer))
        is_countersigned = signed.payer_signature != b""
        with self.database.quick_transaction() as connection:
            changed = connection.execute(
                "INSERT INTO receipts "
                "(digest, request_id, executor, output_tokens, price, record, format, is_countersigned) "
                "VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (digest) DO UPDATE SET "
                "record = excluded.record, is_countersigned = 1 "
                "WHERE excluded.is_countersigned AND NOT receipts.is_countersigned",
                (
                    receipt_digest(receipt),
                    receipt.request_id,
                    receipt.executor,
                    receipt.output_tokens,
                    str(receipt.price),
                    to_bytes(signed),
                    RECEIPT_FORMAT,
                    int(is_countersigned),
                ),
            ).rowcount
            if 0 < len(data) <= ANSWER_BYTES_MAX:
                connection.execute(
                    "INSERT OR IGNORE INTO answers (request_id, executor, record) VALUES (?, ?, ?)",
                    (receipt.request_id, receipt.executor, data),
                )
                _forget_answers(connection, answers_kept_max)
        if changed and is_countersigned and receipt.executor == self._account and self._totals is not None:
            answers, output_tokens, price = self._totals
            self._totals = answers + 1, output_tokens + receipt.output_tokens, TokenAmount(price + receipt.price)

    def forget_answers(self, *, kept_max: int) -> None:
        """Forget the oldest answers above `kept_max`."""
        with self.database.transaction() as connection:
            _forget_answers(connection, kept_max)

    def receipts_of(self, request_id: RequestId) -> tuple[SignedReceipt, ...]:
        """All receipts of one request, in order: several where executors failed."""
        rows = self.database.connection.execute(
            "SELECT record FROM receipts WHERE request_id = ? AND format = ? ORDER BY sequence LIMIT ?",
            (request_id, RECEIPT_FORMAT, RECEIPTS_PER_QUERY_MAX),
        )
        return tuple(from_bytes(SignedReceipt, record) for (record,) in rows)

    def answer_of(self, request_id: RequestId, executor: Address) -> AnswerEvidence | VectorEvidence | None:
        """What a receipt of this node's user is about, if it is kept."""
        row = self.database.connection.execute(
            "SELECT record FROM answers WHERE request_id = ? AND executor = ?", (request_id, executor)
        ).fetchone()
        if row is None:
            return None
        kept = from_bytes(_Kept, row[0])
        return kept.answer or kept.vectors

    def receipts(self, *, limit: int) -> tuple[SignedReceipt, ...]:
        """The newest receipts, newest first."""
        rows = self.database.connection.execute(
            "SELECT record FROM receipts WHERE format = ? ORDER BY sequence DESC LIMIT ?",
            (RECEIPT_FORMAT, min(limit, RECEIPTS_PER_QUERY_MAX)),
        )
        return tuple(from_bytes(SignedReceipt, record) for (record,) in rows)

    def newest_given(self) -> int:
        """The number of the newest receipt of this executor; 0 if there is none."""
        row = self.database.connection.execute(
            "SELECT MAX(sequence) FROM receipts WHERE executor = ?", (self._account,)
        ).fetchone()
        return int(row[0] or 0)

    def receipts_given(self, *, after: int, limit: int) -> tuple[tuple[int, SignedReceipt], ...]:
        """Receipts of this executor with a number above `after`, with their numbers, oldest first."""
        rows = self.database.connection.execute(
            "SELECT sequence, record FROM receipts WHERE sequence > ? AND executor = ? AND format = ? "
            "ORDER BY sequence LIMIT ?",
            (after, self._account, RECEIPT_FORMAT, limit),
        ).fetchall()
        return tuple((int(sequence), from_bytes(SignedReceipt, record)) for sequence, record in rows)

    def receipts_got(self, *, before: int | None, limit: int) -> tuple[tuple[SignedReceipt, ...], int]:
        """Of the `limit` receipts with a number below `before`, or of the newest, those of other executors, newest
        first; and the `before` of the next ones, 0 if there are none."""
        connection = self.database.connection
        if before is None:
            (before,) = connection.execute("SELECT COALESCE(MAX(sequence), 0) + 1 FROM receipts").fetchone()
        first = max(1, before - min(limit, RECEIPTS_PER_QUERY_MAX))  # not by a limit: all may be this executor's own
        rows = connection.execute(
            "SELECT record FROM receipts WHERE sequence >= ? AND sequence < ? AND executor != ? AND format = ? "
            "ORDER BY sequence DESC",
            (first, before, self._account, RECEIPT_FORMAT),
        ).fetchall()
        return tuple(from_bytes(SignedReceipt, record) for (record,) in rows), 0 if first == 1 else first

    def receipt_totals(self) -> tuple[int, int, TokenAmount]:
        """(answers, output tokens, price) of all answers this node gave and was paid for.

        All receipts are read the first time; from then on the totals grow with each.
        """
        if self._totals is None:
            self._totals = self._summed_receipts()
        return self._totals

    def _summed_receipts(self) -> tuple[int, int, TokenAmount]:
        rows = self.database.connection.execute(
            "SELECT output_tokens, price FROM receipts WHERE executor = ? AND is_countersigned", (self._account,)
        ).fetchall()
        # Summed here, not by SQLite: amounts exceed its 64 bits.
        return len(rows), sum(tokens for tokens, _ in rows), TokenAmount(sum(int(price) for _, price in rows))

    def save_evidence(self, participant: Address, at: int, code: str, data: bytes) -> None:
        """Keep a piece of evidence, and forget the oldest beyond what is kept for one and for all."""
        with self.database.quick_transaction() as connection:
            connection.execute(
                "INSERT INTO evidence (participant, at, code, record) VALUES (?, ?, ?, ?)",
                (participant, at, code, data),
            )
            connection.execute(
                "DELETE FROM evidence WHERE sequence IN (SELECT sequence FROM evidence WHERE participant = ? "
                "ORDER BY sequence DESC LIMIT -1 OFFSET ?)",
                (participant, EVIDENCE_PER_PARTICIPANT_MAX),
            )
            connection.execute(
                "DELETE FROM evidence WHERE sequence <= (SELECT max(sequence) FROM evidence) - ?", (EVIDENCE_MAX,)
            )

    def evidence(self, *, limit: int, participant: Address | None = None) -> tuple[bytes, ...]:
        """The newest evidence, newest first."""
        rows = self.database.connection.execute(
            "SELECT record FROM evidence WHERE ?1 IS NULL OR participant = ?1 ORDER BY sequence DESC LIMIT ?2",
            (participant, min(limit, EVIDENCE_MAX)),
        )
        return tuple(bytes(record) for (record,) in rows)

    def save_statement(self, epoch: EpochNumber, member: Address, data: bytes) -> None:
        """Keep what a member said about the result of an epoch, and forget what is too old to be asked for."""
        with self.database.quick_transaction() as connection:
            connection.execute(
                "INSERT INTO result_statements (epoch, member, record) VALUES (?, ?, ?)", (epoch, member, data)
            )
            connection.execute("DELETE FROM result_statements WHERE epoch <= ?", (epoch - STATEMENT_EPOCHS_KEPT,))

    def statements(self) -> tuple[tuple[Address, bytes], ...]:
        """What members said, with who said it: epoch by epoch, in the order in which it came."""
        rows = self.database.connection.execute("SELECT member, record FROM result_statements ORDER BY epoch, sequence")
        return tuple((Address(member), bytes(record)) for member, record in rows)

    def put_document(self, key: str, data: bytes) -> None:
        """Keep a document, replacing one of the same key."""
        with self.database.transaction() as connection:
            connection.execute("INSERT OR REPLACE INTO documents VALUES (?, ?)", (key, data))

    def put_documents(self, documents: Mapping[str, bytes]) -> None:
        """Keep documents by their keys, all or none; after `durable` the loss of power leaves them."""
        with self.database.quick_transaction() as connection:
            connection.executemany("INSERT OR REPLACE INTO documents VALUES (?, ?)", documents.items())

    def get_document(self, key: str) -> bytes | None:
        """Return a document or None."""
        row = self.database.connection.execute("SELECT data FROM documents WHERE key = ?", (key,)).fetchone()
        return None if row is None else bytes(row[0])

    def document_keys(self, prefix: str) -> tuple[str, ...]:
        """The keys of all documents that begin so, ascending."""
        rows = self.database.connection.execute(
            "SELECT key FROM documents WHERE key >= ? AND key < ? ORDER BY key", (prefix, prefix + LAST_CHARACTER)
        )
        return tuple(str(key) for (key,) in rows)

    def forget_document(self, key: str) -> None:
        """Forget a document, if there is one."""
        with self.database.quick_transaction() as connection:
            connection.execute("DELETE FROM documents WHERE key = ?", (key,))

    def _all(self, table: str) -> tuple[SignedVoucher, ...]:
        rows = self.database.connection.execute(f"SELECT record FROM {table} ORDER BY channel_id")  # noqa: S608 - ours
        return tuple(from_bytes(SignedVoucher, record) for (record,) in rows)

    def _voucher(self, table: str, channel_id: Hash32) -> SignedVoucher | None:
        known = self._newest.get((table, channel_id))
        if known is not None:
            return known
        row = self.database.connection.execute(
            f"SELECT record FROM {table} WHERE channel_id = ?",  # noqa: S608 - one of two names of our own
            (channel_id,),
        ).fetchone()
        if row is None:
            return None
        found = self._newest[table, channel_id] = from_bytes(SignedVoucher, row[0])
        return found

    def _save_voucher(self, table: str, signed: SignedVoucher) -> None:
        voucher = signed.voucher
        known = self._voucher(table, voucher.channel_id)
        if known is not None and known.voucher.cumulative > voucher.cumulative:
            raise ValueError(
                f"a voucher over {known.voucher.cumulative} is held; one over {voucher.cumulative} would lose money"
            )
        with self.database.quick_transaction() as connection:
            connection.execute(
                f"INSERT OR REPLACE INTO {table} VALUES (?, ?, ?)",  # noqa: S608 - one of two names of our own
                (voucher.channel_id, str(voucher.cumulative), to_bytes(signed)),
            )
        self._newest[table, voucher.channel_id] = signed


def _forget_answers(connection: sqlite3.Connection, kept_max: int) -> None:
    connection.execute(
        "DELETE FROM answers WHERE sequence <= (SELECT max(sequence) FROM answers) - ?", (max(0, kept_max),)
    )
