"""Receipts that an executor signed and did not book as it must: proven by the payer's copy, with nobody's word needed.

Purpose: what is not in a book is never drawn, nor is an answer that is booked with fewer tokens than it has, and one
that is booked as another payer's, or nobody's, is drawn too seldom. A payer that is a member looks for its receipts in
the books and, where one is missing, puts a proof into its bundle: the receipt, and in each of the books that had to
have it the place where it would stand. Rows ascend by what the payer signed of the request, so two neighbours with a
gap between them are proof; so is the row that stands there if it does not follow from the receipt: it has another
receipt for the same request, other tokens, or another payer.

What is booked beside it takes draws away from it. So a row for what a payer asked is also proof against its executor if
it stands where it must not (`is_surplus`): with another receipt than the payer has, in two books, or later than in
those that had to have it. What a payer asked and has no receipt of it cannot show: see decision 0058.

Whose signatures: the executor's under the receipt binds it. It served the request only because the payer had signed it
(`Asking`), so it holds what a row with the payer's name needs, and can show it; nobody else can make it sign a receipt
for a request that nobody signed. So the payer's own signature, which a payer may keep back as it likes, is asked for
only where there was no such request: there a row of nobody is right as well.

Detail: which books these are, and when none of them came for too long, due_books.py says. Proofs are taken in the epoch
after the result that decides it. An executor that committed votes and no book has an empty one. A proof that does not
hold counts for nothing. What is proven counts as withheld (audit_outcomes.py).
"""

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from node.protocol.asking import booked_under, is_too_old
from node.protocol.due_books import BooksOfResult
from node.protocol.findings import ReceiptBook
from node.protocol.identifiers import ZERO_HASH, Address, Cid, Hash32
from node.protocol.merkle import merkle_levels_in_slices, merkle_path, verify_merkle_proof
from node.protocol.pricing import receipt_digest
from node.protocol.receipt_books import DIGEST_BYTES, PAYER_BYTES, BookRow, inner_hash, is_row_of, row_leaf
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

    def has(self, asking: Hash32) -> bool:
        """Whether there is a row for what was asked (`booked_under`)."""
        place = self._place(asking)
        return place < len(self._rows) and self._rows[place].asking == asking

    def tokens_of(self, asking: Hash32) -> int | None:
        """Return the tokens in the row for what was asked; None if there is none."""
        return self._rows[self._place(asking)].output_tokens if self.has(asking) else None

    def gap(self, asking: Hash32) -> BookGap | None:
        """Return where its row would stand; None if it is there."""
        if self.has(asking):
            return None
        place = self._place(asking)
        return BookGap(self._proof(place - 1), self._proof(place))

    def books_rightly(self, receipt: Receipt) -> bool:
        """Whether a receipt is in the book, by a row that follows from it."""
        asking = booked_under(receipt)
        return self.has(asking) and is_row_of(self._rows[self._place(asking)], receipt)

    def missing(self, receipt: Receipt) -> BookGap | None:
        """Return what proves that a receipt is not rightly booked; None if it is."""
        if self.books_rightly(receipt):
            return None
        asking = booked_under(receipt)
        return self.gap(asking) or BookGap(self._proof(self._place(asking)), None)

    def row_for(self, asking: Hash32) -> BookGap:
        """Return the row for what was asked as a proof has it; nothing where there is none."""
        return BookGap(self._proof(self._place(asking)) if self.has(asking) else None, None)

    def _place(self, asking: Hash32) -> int:
        return bisect_left(self._rows, asking, key=lambda row: row.asking)

    def _proof(self, index: int) -> RowProof | None:
        if not 0 <= index < len(self._rows):
            return None
        finish(self.prepare())
        row = self._rows[index]
        path = merkle_path(self._levels, index)
        return RowProof(index, row.asking, row.digest, row.output_tokens, row.payer, path)


@dataclass(frozen=True, slots=True)
class SearchedBooks:
    """The newest books of one executor that a result knows: its own, and the one before."""

    result: BooksOfResult
    earlier: SearchedBook | None
    """None if there is none, or it did not come."""
    later: SearchedBook | None

    def is_wrong(self, receipt: Receipt) -> bool:
        """Whether a receipt is not where it has to be, or stands where it must not."""
        return self._lacks(receipt) or self._has_too_much(receipt)

    def proof(self, signed: SignedReceipt) -> Omission:
        """Return what proves it; the trees of both books are built if they are not yet."""
        receipt = signed.receipt
        due = self.result.due(receipt)
        if due is not None and self._lacks(receipt):
            earlier = None if due.earlier is None or self.earlier is None else self.earlier.missing(receipt)
            later = None if due.later is None or self.later is None else self.later.missing(receipt)
            return Omission(signed, earlier, later)
        asking = booked_under(receipt)
        rows = [None if book is None else book.row_for(asking) for book in (self.earlier, self.later)]
        return Omission(signed, rows[0], rows[1])

    def _lacks(self, receipt: Receipt) -> bool:
        due = self.result.due(receipt)
        if due is None or is_too_old(receipt):
            return False
        return all(
            self._is_without(receipt, *books) for books in ((due.earlier, self.earlier), (due.later, self.later))
        )

    @staticmethod
    def _is_without(receipt: Receipt, due: ReceiptBook | None, searched: SearchedBook | None) -> bool:
        """Whether a book that is due, if one is, is here and does not have the receipt."""
        return due is None or (searched is not None and not searched.books_rightly(receipt))

    def _has_too_much(self, receipt: Receipt) -> bool:
        asking = booked_under(receipt)
        if self.later is None or not self.later.has(asking):
            return False
        is_second = self.earlier is not None and self.earlier.has(asking)
        is_wrong = self.result.is_late(receipt) or not self.later.books_rightly(receipt)
        return is_second or (receipt.asking is not None and is_wrong)


def is_gap(gap: BookGap, book: ReceiptBook, asking: Hash32) -> bool:
    """Whether a gap proves that `book` has no row for what was asked."""
    before, after = gap.before, gap.after
    first = 0 if before is None else before.index + 1
    if (after is None and first != book.count) or (after is not None and after.index != first):
        return False
    if before is not None and not (before.asking < asking and _is_row(before, book)):
        return False
    return after is None or (asking < after.asking and _is_row(after, book))


def is_misbooked(row: BookGap, book: ReceiptBook, receipt: Receipt) -> bool:
    """Whether what stands in place of a gap is the row for what was asked, and does not follow from the receipt."""
    own = row.before
    if own is None or row.after is not None or own.asking != booked_under(receipt):
        return False
    return not is_row_of(_row(own), receipt) and _is_row(own, book)


def is_omitted(omission: Omission, result: EpochResult) -> bool:
    """Whether a receipt is in none of the books that, as `result` decides, had to have it; or is booked wrongly."""
    return _is_proven(omission, BooksOfResult(result))


def _is_proven(omission: Omission, books: BooksOfResult) -> bool:
    signed = omission.signed
    receipt = signed.receipt
    due = books.due(receipt)
    if due is None or is_too_old(receipt):
        return False
    asking = booked_under(receipt)
    for proof, book in ((omission.earlier, due.earlier), (omission.later, due.later)):
        if proof is None or book is None:
            if proof is not None or book is not None:
                return False
        elif not (is_gap(proof, book, asking) or is_misbooked(proof, book, receipt)):
            return False
    return is_signed_by_executor(signed) and (receipt.asking is not None or is_signed_by_payer(signed))


def is_surplus(omission: Omission, result: EpochResult) -> bool:
    """Whether the book of `result` has a row for what was asked that must not be there: with another receipt, beside
    one in the book before, or after a book that had to have it.

    An honest executor gives one receipt for a request, and books it once, in the first of its books after it.
    """
    return _is_surplus(omission, BooksOfResult(result))


def _is_surplus(omission: Omission, books: BooksOfResult) -> bool:
    signed = omission.signed
    receipt = signed.receipt
    row = None if omission.later is None else omission.later.before
    first = None if omission.earlier is None else omission.earlier.before
    earlier, later = books.before(receipt.executor), books.own(receipt.executor)
    if later is None or row is None:
        return False
    asking = booked_under(receipt)
    if row.asking != asking or not _is_row(row, later):
        return False
    is_second = earlier is not None and first is not None and first.asking == asking and _is_row(first, earlier.book)
    is_wrong = books.is_late(receipt) or not is_row_of(_row(row), receipt)
    return (is_second or (receipt.asking is not None and is_wrong)) and is_signed_by_executor(signed)


def is_proven(omission: Omission, books: BooksOfResult) -> bool:
    """Whether a proof holds against what a result says of books, either way. The signature is looked at last: all else
    costs less."""
    return _is_proven(omission, books) or _is_surplus(omission, books)


def proven_omissions(result: EpochResult, bundles: Mapping[Address, VoteBundle]) -> dict[Hash32, SignedReceipt]:
    """Return the receipts that the bundles prove to be booked otherwise than they must be, each once, by digest."""
    books = BooksOfResult(result)
    proven = {
        receipt_digest(omission.signed.receipt): omission.signed
        for bundle in bundles.values()
        for omission in bundle.omissions
        if is_proven(omission, books)
    }
    return dict(sorted(proven.items()))


def _is_row(proof: RowProof, book: ReceiptBook) -> bool:
    if not 0 <= proof.index < book.count or not 0 <= proof.output_tokens < 1 << 32 or len(proof.payer) != PAYER_BYTES:
        return False
    if len(proof.asking) != DIGEST_BYTES or len(proof.digest) != DIGEST_BYTES:
        return False
    return verify_merkle_proof(book.root, row_leaf(proof.index, _row(proof)), proof.siblings, inner_hash)


def _row(proof: RowProof) -> BookRow:
    return BookRow(proof.asking, proof.digest, proof.output_tokens, proof.payer)
