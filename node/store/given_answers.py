"""What an executor keeps of the answers it gave, for as long as they may be audited, and its receipt books.

Implements `node.services.receipt_book.GivenAnswers`. Bounded in bytes: what is forgotten first is the oldest, and
counts as withheld if it is drawn, so the bound is far above what an honest node needs. Vectors take far more room: a
busy node would forget what is due, and its answers in tokens with it. So they have a room of their own, where nothing
is forgotten while it is due; when it is full, no more are given (`has_room_for_vectors`).
"""

import sqlite3
from collections.abc import Collection

from node.protocol.codec import from_bytes
from node.protocol.identifiers import Hash32
from node.protocol.records import SignedReceipt
from node.store.books import RECEIPT_FORMAT
from node.store.database import Database

KEPT_BYTES_MAX = 1 << 30
"""Some 250,000 answers of 500 tokens with their prompts."""
VECTORS_BYTES_MAX = 4 << 30
"""Of vectors, some 1.6 million of 400 tokens: unless the operator says otherwise (`[node] vectors_kept_bytes_max`)."""
BOOKS_KEPT = 4
"""Of the newest epochs, and as many up to the newest result, whose book is drawn from until there is a newer one:
nobody asks for others. The newest that was counted stays besides: what was signed after it is still to be booked."""


class GivenAnswerTables:
    """Given answers over SQLite."""

    def __init__(
        self,
        database: Database,
        account: str,
        *,
        kept_bytes_max: int = KEPT_BYTES_MAX,
        vectors_bytes_max: int = VECTORS_BYTES_MAX,
    ) -> None:
        """`account` is this node's own: its receipts as an executor are those it signed."""
        self._database = database
        self._account = account
        self._kept_bytes_max = kept_bytes_max
        self._vectors_bytes_max = vectors_bytes_max
        (self._kept_bytes,) = database.connection.execute(
            "SELECT COALESCE(SUM(LENGTH(record)), 0) FROM given_answers"
        ).fetchone()
        (self._vectors_bytes,) = database.connection.execute(
            "SELECT COALESCE(SUM(LENGTH(record)), 0) FROM given_vectors"
        ).fetchone()

    def keep(self, digest: Hash32, data: bytes) -> None:
        """Keep what an auditor of the receipt `digest` would need; what is here of it stays."""
        with self._database.quick_transaction() as connection:
            self._add(connection, digest, data)

    def keep_instead(self, digest: Hash32, data: bytes) -> None:
        """Keep it in place of what is here, as the newest."""
        with self._database.quick_transaction() as connection:
            found = connection.execute("SELECT LENGTH(record) FROM given_answers WHERE digest = ?", (digest,))
            self._kept_bytes -= sum(size for (size,) in found.fetchall())
            connection.execute("DELETE FROM given_answers WHERE digest = ?", (digest,))
            self._add(connection, digest, data)

    def _add(self, connection: sqlite3.Connection, digest: Hash32, data: bytes) -> None:
        added = connection.execute(
            "INSERT OR IGNORE INTO given_answers (digest, record) VALUES (?, ?)", (digest, data)
        ).rowcount
        self._kept_bytes += len(data) * added
        while self._kept_bytes > self._kept_bytes_max:
            oldest = connection.execute(
                "SELECT sequence, LENGTH(record) FROM given_answers ORDER BY sequence LIMIT 1"
            ).fetchone()
            if oldest is None:
                break
            connection.execute("DELETE FROM given_answers WHERE sequence = ?", (oldest[0],))
            self._kept_bytes -= oldest[1]

    def keep_vectors(self, digest: Hash32, data: bytes) -> None:
        """Likewise of vectors; they push nothing out, neither answers nor each other."""
        with self._database.quick_transaction() as connection:
            added = connection.execute(
                "INSERT OR IGNORE INTO given_vectors (digest, record) VALUES (?, ?)", (digest, data)
            ).rowcount
            self._vectors_bytes += len(data) * added

    def has_room_for_vectors(self) -> bool:
        """Whether there is room for vectors beside those that may still have to be shown."""
        is_free: bool = self._vectors_bytes < self._vectors_bytes_max
        return is_free

    def old_vectors(self, booked_by: int) -> tuple[Hash32, ...]:
        """Return the digests of vectors that a book which was counted, of the epoch `booked_by` or an older one, has or
        passed over for good."""
        rows = self._database.connection.execute(
            "SELECT given_vectors.digest FROM given_vectors JOIN receipts USING (digest) WHERE receipts.sequence <= "
            "(SELECT MAX(last_sequence) FROM receipt_books WHERE is_counted AND epoch <= ?)",
            (booked_by,),
        ).fetchall()
        return tuple(Hash32(bytes(digest)) for (digest,) in rows)

    def kept(self, digest: Hash32) -> bytes | None:
        """Return what is kept of an answer, or None."""
        row = self._database.connection.execute(
            "SELECT record FROM given_answers WHERE digest = ?1 UNION ALL "
            "SELECT record FROM given_vectors WHERE digest = ?1",
            (digest,),
        ).fetchone()
        return None if row is None else bytes(row[0])

    def forget(self, digests: Collection[Hash32]) -> None:
        """Forget answers that are not audited. What the loss of power brings back is only forgotten once more."""
        answers_bytes = vectors_bytes = 0
        with self._database.quick_transaction() as connection:
            for digest in digests:
                found = connection.execute("SELECT LENGTH(record) FROM given_answers WHERE digest = ?", (digest,))
                answers_bytes += sum(size for (size,) in found.fetchall())
                connection.execute("DELETE FROM given_answers WHERE digest = ?", (digest,))
                found = connection.execute("SELECT LENGTH(record) FROM given_vectors WHERE digest = ?", (digest,))
                vectors_bytes += sum(size for (size,) in found.fetchall())
                connection.execute("DELETE FROM given_vectors WHERE digest = ?", (digest,))
        self._kept_bytes -= answers_bytes
        self._vectors_bytes -= vectors_bytes

    def new_receipts(self, *, limit: int, after: int | None = None) -> tuple[tuple[SignedReceipt, ...], int]:
        """Return the receipts this node signed as executor since its last book that was counted, oldest first, and how
        far they reach; or those beyond `after`."""
        if after is None:
            (after,) = self._database.connection.execute(
                "SELECT COALESCE(MAX(last_sequence), 0) FROM receipt_books WHERE is_counted"
            ).fetchone()
        rows = self._database.connection.execute(
            "SELECT sequence, record FROM receipts WHERE sequence > ? AND executor = ? AND format = ? "
            "ORDER BY sequence LIMIT ?",
            (after, self._account, RECEIPT_FORMAT, limit),
        ).fetchall()
        return tuple(from_bytes(SignedReceipt, record) for _, record in rows), int(rows[-1][0] if rows else after)

    def save_book(self, epoch: int, last_sequence: int, data: bytes, newest_result: int | None = None) -> None:
        """Write the book of an epoch: its rows, empty if there are none. The first one stays."""
        drawn_from = epoch if newest_result is None else newest_result
        with self._database.transaction() as connection:
            connection.execute(
                "INSERT OR IGNORE INTO receipt_books (epoch, last_sequence, rows) VALUES (?, ?, ?)",
                (epoch, last_sequence, data),
            )
            connection.execute(
                "DELETE FROM receipt_books WHERE epoch <= (SELECT MAX(epoch) FROM receipt_books) - ?1 "
                "AND NOT (?2 - ?1 < epoch AND epoch <= ?2) "
                "AND epoch IS NOT (SELECT MAX(epoch) FROM receipt_books WHERE is_counted)",
                (BOOKS_KEPT, drawn_from),
            )

    def count_book(self, epoch: int) -> None:
        """Note that a result has the book of an epoch: what is in it, and was signed before, is in no later one."""
        with self._database.transaction() as connection:
            connection.execute("UPDATE receipt_books SET is_counted = 1 WHERE epoch = ?", (epoch,))

    def is_counted(self, epoch: int) -> bool:
        """Whether that was noted of the book of an epoch."""
        row = self._database.connection.execute(
            "SELECT is_counted FROM receipt_books WHERE epoch = ?", (epoch,)
        ).fetchone()
        return row is not None and bool(row[0])

    def book(self, epoch: int) -> bytes | None:
        """Return the rows of the book of an epoch, or None if there is none yet."""
        row = self._database.connection.execute("SELECT rows FROM receipt_books WHERE epoch = ?", (epoch,)).fetchone()
        return None if row is None else bytes(row[0])
