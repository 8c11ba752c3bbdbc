"""Receipt books: how an executor binds itself to its receipts before anybody knows which of them are audited.

A book is a file of rows, one for each receipt that the executor signed since its last book: the receipt's digest and
the answer's output tokens. Rows ascend by digest, so that there is one file for one set of receipts, nobody is listed
twice, and whoever holds a receipt finds at once whether it was left out. A digest tells nothing of the answer: a
receipt's request id is random.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from node.protocol.findings import ReceiptBook
from node.protocol.identifiers import Cid, Hash32
from node.protocol.merkle import merkle_root

DIGEST_BYTES = 32
TOKENS_BYTES = 4
ROW_BYTES = DIGEST_BYTES + TOKENS_BYTES
ROWS_MAX = 1 << 18
"""9 MiB: three answers a second for a day. An executor with more splits its account; more at once would cost each of
its auditors as much as a batch of nonces."""
BOOK_BYTES_MAX = ROWS_MAX * ROW_BYTES


class BookError(ValueError):
    """A file that is not the book that was committed to."""


@dataclass(frozen=True, slots=True)
class BookRow:
    """One receipt."""

    digest: Hash32
    output_tokens: int


def make_book(rows: Sequence[BookRow], content_cid: Cid) -> ReceiptBook:
    """Return the commitment to `rows`, whose bytes are the content `content_cid`."""
    ordered = order_rows(rows)
    return ReceiptBook(len(ordered), sum(row.output_tokens for row in ordered), book_root(ordered), content_cid)


def order_rows(rows: Sequence[BookRow]) -> tuple[BookRow, ...]:
    """Return rows in the book's order."""
    return tuple(sorted(rows, key=lambda row: row.digest))


def book_bytes(rows: Sequence[BookRow]) -> bytes:
    """Return the content of a book."""
    return b"".join(row.digest + row.output_tokens.to_bytes(TOKENS_BYTES) for row in order_rows(rows))


def book_root(rows: Sequence[BookRow]) -> Hash32:
    """Return the Merkle root: leaf n is SHA-256 of (0x00, n as 8 bytes, row n), an inner node of (0x01, both below)."""
    return merkle_root([row_leaf(n, row) for n, row in enumerate(rows)], inner_hash)


def row_leaf(index: int, row: BookRow) -> Hash32:
    """Return the leaf of a row; its place is part of it."""
    data = b"\x00" + index.to_bytes(8) + row.digest + row.output_tokens.to_bytes(TOKENS_BYTES)
    return Hash32(hashlib.sha256(data).digest())


def inner_hash(data: bytes) -> bytes:
    """Return the hash of an inner node of a book's tree."""
    return hashlib.sha256(b"\x01" + data).digest()


def read_rows(data: bytes) -> tuple[BookRow, ...]:
    """Cut the content of a book into rows, unchecked."""
    return tuple(
        BookRow(
            Hash32(data[start : start + DIGEST_BYTES]),
            int.from_bytes(data[start + DIGEST_BYTES : start + ROW_BYTES]),
        )
        for start in range(0, len(data), ROW_BYTES)
    )


def read_book(data: bytes, book: ReceiptBook) -> tuple[BookRow, ...]:
    """Read the content of `book`; raise BookError unless it is exactly what was committed to."""
    if book.count > ROWS_MAX or len(data) != book.count * ROW_BYTES:
        raise BookError(f"a book of {book.count} receipts has not {len(data)} bytes")
    rows = read_rows(data)
    if any(before.digest >= after.digest for before, after in pairwise(rows)):
        raise BookError("its receipts do not ascend, each once")
    if sum(row.output_tokens for row in rows) != book.output_tokens:
        raise BookError(f"its answers do not have {book.output_tokens} tokens together")
    if book_root(rows) != book.root:
        raise BookError("its rows do not have the root that was committed to")
    return rows
