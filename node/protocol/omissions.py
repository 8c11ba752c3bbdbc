"""Receipts that an executor signed and left out of its books: proven by the payer's copy, with nobody's word needed.

Purpose: what is not in a book is never drawn, nor is an answer that is booked with fewer tokens than it has, and one
that is booked as another payer's is drawn too seldom. A payer
that is a member looks for its receipts in the books and, where one is missing, puts a proof into its bundle: the
receipt with both signatures, and in each of the books that had to have it the place where it would stand. Rows ascend
by digest, so two neighbours with a gap between them are proof; so is the receipt's own row if it says other tokens
than follow from the receipt, or names another payer.

Detail: which books these are, and when none of them came for too long, due_books.py says. Proofs are taken in the epoch
after the result that decides it. An executor that committed votes and no book has an empty one. A proof that does not
hold counts for nothing. What is proven counts as withheld (audit_outcomes.py).
"""

from bisect import bisect_left
from collections.abc import Mapping, Sequence

from node.protocol.due_books import BooksOfResult
from node.protocol.findings import ReceiptBook
from node.protocol.identifiers import ZERO_HASH, Address, Cid, Hash32
from node.protocol.merkle import merkle_levels_in_slices, merkle_path, verify_merkle_proof
from node.protocol.pricing import receipt_digest
from node.protocol.receipt_books import NOBODY, PAYER_BYTES, BookRow, booked_tokens, inner_hash, is_payer_of, row_leaf
from node.protocol.receipts import is_signed_by_executor, is_signed_by_payer
from node.protocol.records import BookGap, EpochResult, Omission, Receipt, RowProof, SignedReceipt, VoteBundle
from node.protocol.slices import ITEMS_PER_SLICE, Slices, finish

OMISSIONS_MAX = 16
"""In one bundle: a proof has some 3 KiB, and checking it costs two signatures."""
SIBLINGS_MAX = 18
"""Levels of the tree of the largest book."""
EMPTY_BOOK = ReceiptBook(0, 0, ZERO_HASH, Cid(""))
"""Of a member that committed votes and no receipts."""


class SearchedBook:
    """A book in which receipts are looked for; the tree over its rows is built before the first proof, and once."""

    def __init__(self, rows: Sequence[BookRow]) -> None:
        """`rows` are a book's, in its order."""
        self._rows = rows
        self._levels: list[list[Hash32]] = []

    def prepare(self) -> Slices[None]:
        """Build the tree in slices: of the largest book it takes a second."""
        if not self._levels:
            leaves: list[Hash32] = []
            for start in range(0, len(self._rows), ITEMS_PER_SLICE):
                part = self._rows[start : start + ITEMS_PER_SLICE]
                leaves += [row_leaf(index, row) for index, row in enumerate(part, start)]
                yield
            self._levels = yield from merkle_levels_in_slices(leaves, inner_hash)

    def has(self, digest: Hash32) -> bool:
        """Whether a receipt is in the book."""
        place = self._place(digest)
        return place < len(self._rows) and self._rows[place].digest == digest

    def gap(self, digest: Hash32) -> BookGap | None:
        """Return where a receipt would stand; None if it is there."""
        if self.has(digest):
            return None
        place = self._place(digest)
        return BookGap(self._proof(place - 1), self._proof(place))

    def books_rightly(self, digest: Hash32, receipt: Receipt) -> bool:
        """Whether a receipt is in the book, by a row that may follow from it."""
        return self.has(digest) and _is_right(self._rows[self._place(digest)], receipt)

    def names_nobody(self, digest: Hash32) -> bool:
        """Whether a receipt is in the book as one that its payer never signed."""
        return self.has(digest) and self._rows[self._place(digest)].payer == NOBODY

    def missing(self, digest: Hash32, receipt: Receipt) -> BookGap | None:
        """Return what proves that a receipt is not rightly booked; None if it is."""
        if self.books_rightly(digest, receipt):
            return None
        return self.gap(digest) or BookGap(self._proof(self._place(digest)), None)

    def _place(self, digest: Hash32) -> int:
        return bisect_left(self._rows, digest, key=lambda row: row.digest)

    def _proof(self, index: int) -> RowProof | None:
        if not 0 <= index < len(self._rows):
            return None
        finish(self.prepare())
        row = self._rows[index]
        return RowProof(index, row.digest, row.output_tokens, row.payer, merkle_path(self._levels, index))


def is_gap(gap: BookGap, book: ReceiptBook, digest: Hash32) -> bool:
    """Whether a gap proves that `book` does not have the receipt."""
    before, after = gap.before, gap.after
    first = 0 if before is None else before.index + 1
    if (after is None and first != book.count) or (after is not None and after.index != first):
        return False
    if before is not None and not (before.digest < digest and _is_row(before, book)):
        return False
    return after is None or (digest < after.digest and _is_row(after, book))


def is_misbooked(row: BookGap, book: ReceiptBook, digest: Hash32, receipt: Receipt) -> bool:
    """Whether what stands in place of a gap is the receipt's own row, and cannot follow from it."""
    own = row.before
    if own is None or row.after is not None or own.digest != digest:
        return False
    return not _is_right(_row(own), receipt) and _is_row(own, book)


def is_omitted(omission: Omission, result: EpochResult) -> bool:
    """Whether a receipt is in none of the books that, as `result` decides, had to have it; or is booked wrongly."""
    return _is_proven(omission, BooksOfResult(result))


def _is_proven(omission: Omission, books: BooksOfResult) -> bool:
    signed = omission.signed
    receipt = signed.receipt
    due = books.due(receipt)
    if due is None:
        return False
    digest = receipt_digest(receipt)
    for proof, book in ((omission.earlier, due.earlier), (omission.later, due.later)):
        if proof is None or book is None:
            if proof is not None or book is not None:
                return False
        elif not (is_gap(proof, book, digest) or is_misbooked(proof, book, digest, receipt)):
            return False
    return is_signed_by_executor(signed) and is_signed_by_payer(signed)


def proven_omissions(result: EpochResult, bundles: Mapping[Address, VoteBundle]) -> dict[Hash32, SignedReceipt]:
    """Return the receipts whose omission the bundles prove, each once, by digest."""
    books = BooksOfResult(result)
    proven = {
        receipt_digest(omission.signed.receipt): omission.signed
        for bundle in bundles.values()
        for omission in bundle.omissions
        if _is_proven(omission, books)
    }
    return dict(sorted(proven.items()))


def _is_row(proof: RowProof, book: ReceiptBook) -> bool:
    if not 0 <= proof.index < book.count or not 0 <= proof.output_tokens < 1 << 32 or len(proof.digest) != 32:
        return False
    if len(proof.payer) != PAYER_BYTES:
        return False
    return verify_merkle_proof(book.root, row_leaf(proof.index, _row(proof)), proof.siblings, inner_hash)


def _is_right(row: BookRow, receipt: Receipt) -> bool:
    return row.output_tokens == booked_tokens(receipt) and is_payer_of(row.payer, receipt)


def _row(proof: RowProof) -> BookRow:
    return BookRow(proof.digest, proof.output_tokens, proof.payer)
