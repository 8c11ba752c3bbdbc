"""Receipt books: how an executor binds itself to its receipts before anybody knows which of them are audited.

A book is a file of rows, one for each receipt that the executor signed since its last book: what was signed of the
request (asking.py), the receipt's digest, the tokens that can be drawn of it, and who asked (`booked_row`). These
follow from the receipt: who books others is found out by the draw (audit_sampling.py) or by the payer (omissions.py).
Rows ascend by the request's digest, so that there is one file for one set of receipts, no request is answered twice in
it, and whoever holds a receipt finds at once whether it was left out or another stands in its place. Neither digest
tells anything of the answer: a request's id is random.
"""

import hashlib
import heapq
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from operator import attrgetter
from typing import overload

from node.protocol.asking import booked_under
from node.protocol.findings import ReceiptBook
from node.protocol.identifiers import Address, Cid, Hash32
from node.protocol.merkle import GrowingRoot
from node.protocol.pricing import receipt_digest
from node.protocol.records import Receipt, SignedReceipt
from node.protocol.slices import ITEMS_PER_SLICE, Slices, finish

DIGEST_BYTES = 32
TOKENS_BYTES = 4
PAYER_BYTES = 20
ROW_BYTES = 2 * DIGEST_BYTES + TOKENS_BYTES + PAYER_BYTES
NOBODY = bytes(PAYER_BYTES)
"""In place of a payer that signed neither request nor receipt, for an executor could name whom it likes; and where no
token can be drawn, for who asks in private is named to nobody."""
ROWS_MAX = 1 << 18
"""22 MiB: three answers a second for a day. An executor with more splits its account; more at once would cost each of
its auditors as much as a batch of nonces."""
BOOK_BYTES_MAX = ROWS_MAX * ROW_BYTES


class BookError(ValueError):
    """A file that is not the book that was committed to."""


@dataclass(frozen=True, slots=True)
class BookRow:
    """One receipt."""

    asking: Hash32
    """What the payer signed of the request, or the receipt's digest where nothing was (`booked_under`)."""
    digest: Hash32
    """The receipt's."""
    output_tokens: int
    """`booked_tokens` of it."""
    payer: bytes = NOBODY
    """The 20 bytes of the account that asked for the answer, or NOBODY."""

    @property
    def data(self) -> bytes:
        """A row as the file has it."""
        return self.asking + self.digest + self.output_tokens.to_bytes(TOKENS_BYTES) + self.payer


class BookRows(Sequence[BookRow]):
    """The rows of a book as its content has them: made when they are looked at, for the largest has 262,144."""

    __slots__ = ("_data",)

    def __init__(self, data: bytes) -> None:
        """`data` is the content of a book."""
        self._data = data

    def __len__(self) -> int:
        return len(self._data) // ROW_BYTES

    @overload
    def __getitem__(self, place: int) -> BookRow: ...

    @overload
    def __getitem__(self, place: slice) -> list[BookRow]: ...

    def __getitem__(self, place: int | slice) -> BookRow | list[BookRow]:
        if isinstance(place, slice):
            return [self[index] for index in range(*place.indices(len(self)))]
        start = range(0, len(self._data), ROW_BYTES)[place]
        digest = start + DIGEST_BYTES
        tokens = digest + DIGEST_BYTES
        payer = tokens + TOKENS_BYTES
        return BookRow(
            Hash32(self._data[start:digest]),
            Hash32(self._data[digest:tokens]),
            int.from_bytes(self._data[tokens:payer]),
            self._data[payer : start + ROW_BYTES],
        )


def booked_tokens(receipt: Receipt) -> int:
    """Return the tokens of an answer that can be drawn: none where the payer's request asked for what nobody may read
    or check.

    If these were drawn as well, an executor would hide what it cheats at behind millions of them, which it makes up
    for itself as both sides and for which auditors have to excuse it. Its own word, that its engine did not follow the
    rule, excuses nothing: else it would hide by that word.
    """
    return 0 if receipt.is_private or not receipt.is_within_rule else drawable_tokens(receipt)


def drawable_tokens(receipt: Receipt) -> int:
    """Return the tokens by which an answer is drawn if it may be read: those written; where vectors were made of those
    read, these. Both are what is paid for."""
    return receipt.prompt_tokens if receipt.vectors else receipt.output_tokens


def booked_row(signed: SignedReceipt) -> BookRow:
    """Return the row that its executor makes of a receipt; a payer's signatures were checked when they came."""
    receipt = signed.receipt
    payers = booked_payers(receipt)
    payer = payers[0] if receipt.asking or signed.payer_signature else payers[-1]
    return BookRow(booked_under(receipt), receipt_digest(receipt), booked_tokens(receipt), payer)


def booked_payers(receipt: Receipt) -> tuple[bytes, ...]:
    """Return whom a row of a receipt may name: who asked for it, and nobody where nothing can be drawn.

    Where no request was signed, nobody always may be named: the receipt's signature may come after the book was made,
    and nobody else can tell when it came.
    """
    if not booked_tokens(receipt):
        return (NOBODY,)
    payer = payer_bytes(receipt.payer)
    return (payer,) if receipt.asking else (payer, NOBODY)


def is_row_of(row: BookRow, receipt: Receipt) -> bool:
    """Whether a row follows from a receipt."""
    digests = (booked_under(receipt), receipt_digest(receipt))
    is_named = row.payer in booked_payers(receipt)
    return (row.asking, row.digest) == digests and row.output_tokens == booked_tokens(receipt) and is_named


def payer_bytes(account: Address) -> bytes:
    """Return an account as rows have it; NOBODY for what is none, as in a receipt that somebody made up."""
    try:
        found = bytes.fromhex(account.removeprefix("0x"))
    except ValueError:
        return NOBODY
    return found if len(found) == PAYER_BYTES else NOBODY


def make_book(rows: Sequence[BookRow], content_cid: Cid) -> ReceiptBook:
    """Return the commitment to `rows`, whose bytes are the content `content_cid`."""
    return finish(make_book_in_slices(book_bytes(rows), content_cid))


def make_book_in_slices(data: bytes, content_cid: Cid) -> Slices[ReceiptBook]:
    """Return the commitment to the content `data` of a book (`book_bytes`), in slices."""
    root, total = GrowingRoot(inner_hash), 0
    rows = BookRows(data)
    for start in range(0, len(rows), ITEMS_PER_SLICE):
        for index, row in enumerate(rows[start : start + ITEMS_PER_SLICE], start):
            root.add_leaf(row_leaf(index, row))
            total += row.output_tokens
        yield
    return ReceiptBook(len(rows), total, root.root(), content_cid)


def order_rows(rows: Sequence[BookRow]) -> tuple[BookRow, ...]:
    """Return rows in the book's order."""
    return tuple(sorted(rows, key=attrgetter("asking")))


def book_bytes(rows: Sequence[BookRow]) -> bytes:
    """Return the content of a book."""
    return finish(book_bytes_in_slices(rows))


def book_bytes_in_slices(rows: Sequence[BookRow]) -> Slices[bytes]:
    """Return the content of a book, in slices."""
    parts = []
    for start in range(0, len(rows), ITEMS_PER_SLICE):
        parts.append(order_rows(rows[start : start + ITEMS_PER_SLICE]))
        yield
    merged, data = heapq.merge(*parts, key=attrgetter("asking")), bytearray()
    while part := list(islice(merged, ITEMS_PER_SLICE)):
        data += b"".join(row.data for row in part)
        yield
    return bytes(data)


def row_leaf(index: int, row: BookRow) -> Hash32:
    """Return the leaf of row `index`: SHA-256 of (0x00, the index as 8 bytes, the row)."""
    return Hash32(hashlib.sha256(b"\x00" + index.to_bytes(8) + row.data).digest())


def inner_hash(data: bytes) -> bytes:
    """Return an inner node of a book's tree: SHA-256 of (0x01, both below)."""
    return hashlib.sha256(b"\x01" + data).digest()


def read_rows(data: bytes) -> BookRows:
    """Return the rows in the content of a book, unchecked."""
    return BookRows(data)


def read_book(data: bytes, book: ReceiptBook) -> BookRows:
    """Read the content of `book`; raise BookError unless it is exactly what was committed to."""
    return finish(read_book_in_slices(data, book))


def read_book_in_slices(data: bytes, book: ReceiptBook) -> Slices[BookRows]:
    """Return `read_book` in slices: the largest book, which anybody may commit to, takes a second."""
    if book.count > ROWS_MAX or len(data) != book.count * ROW_BYTES:
        raise BookError(f"a book of {book.count} receipts has not {len(data)} bytes")
    rows = BookRows(data)
    root, total, last = GrowingRoot(inner_hash), 0, b""
    digests: set[Hash32] = set()
    for start in range(0, len(rows), ITEMS_PER_SLICE):
        for index, row in enumerate(rows[start : start + ITEMS_PER_SLICE], start):
            if row.asking <= last:
                raise BookError("its rows do not ascend, each request once")
            last = row.asking
            digests.add(row.digest)
            total += row.output_tokens
            root.add_leaf(row_leaf(index, row))
        yield
    if len(digests) != len(rows):
        raise BookError("it lists a receipt for several requests")
    if total != book.output_tokens:
        raise BookError(f"its answers do not have {book.output_tokens} tokens together")
    if root.root() != book.root:
        raise BookError("its rows do not have the root that was committed to")
    return rows
