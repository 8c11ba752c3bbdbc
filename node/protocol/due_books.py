"""In which of its books an executor had to have a receipt, as an epoch's result alone tells it.

Purpose: what is in no book is never audited. A book is in a result only if its executor's vote bundle was counted, and
an executor may hold its bundle back: by mishap, or because the block that draws from its book has come, and it does
not like the draw. So a book that no result has postpones the draw and no more. Its receipts are due in the next one.

Detail: let the newest book of an executor before a result be of epoch b. If the result, of epoch r, has a book of it,
that one has all that was signed since the book of b was made: receipts of the epochs after b up to r - 1, and of those
of b itself what came too late for the book of b. So each receipt is decided by one result: the first after its epoch
with a book of its executor. What lies between, results without a book of it or epochs without a result, makes no
difference.

If a member had weight in two results running and neither has a book of it, nothing postpones it any further: each
receipt up to the epoch of the first of both is omitted. One missing book is excused, for a bundle can be lost. Whoever
has weight in the second was there in the first: its batch was accepted, or it was seen to serve; and it must have been
there in the second as well, and earn in it. So who was down, joined in between or left owes nothing, and who hides
goes on owing, or forgoes the pay of a whole epoch.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from node.protocol.findings import CommittedBook, EarlierBook, MissingBook, ReceiptBook
from node.protocol.identifiers import Address, EpochNumber
from node.protocol.records import EpochResult, Receipt

BOOKS_REMEMBERED_EPOCHS = 8
"""So far back a result knows the newest book of each executor, and what it owes. Who has no book for longer has long
lost more than it took (docs/economics.md); more would only make results larger."""
NOTHING_DUE = EpochNumber(0)


@dataclass(frozen=True, slots=True)
class DueBooks:
    """The books that had to have a receipt, of which one is enough; without any it is omitted as it is."""

    earlier: ReceiptBook | None
    """That of the receipt's own epoch, which may have been made before the answer was given."""
    later: ReceiptBook | None
    """The first one after."""


class BooksOfResult:
    """What a result says of every executor's books, made ready once for many receipts."""

    def __init__(self, result: EpochResult) -> None:
        self._epoch = result.epoch
        self._books = {committed.executor: committed.book for committed in result.books}
        self._before = {book.executor: book for book in result.books_before}
        self._missing = {book.executor: book for book in result.books_missing}

    def own(self, executor: Address) -> ReceiptBook | None:
        """Return the book of an executor that this result took up."""
        return self._books.get(executor)

    def before(self, executor: Address) -> EarlierBook | None:
        """Return the newest book of an executor before this result, as far as it remembers."""
        return self._before.get(executor)

    def is_late(self, receipt: Receipt) -> bool:
        """Whether a book before this result's had to have a receipt: then this one must not."""
        return _is_late(receipt, self._before.get(receipt.executor))

    def due(self, receipt: Receipt) -> DueBooks | None:
        """Return the books that had to have a receipt; None if this result does not decide that."""
        before, later = self._before.get(receipt.executor), self._books.get(receipt.executor)
        first = max(0, self._epoch - BOOKS_REMEMBERED_EPOCHS) if before is None else before.epoch
        end = self._epoch
        if later is None:
            missing = self._missing.get(receipt.executor)
            if missing is None:
                return None
            first, end = max(first, missing.due_from), missing.due_before
        if not first <= receipt.epoch < end:
            return None
        is_of_its_epoch = before is not None and before.epoch == receipt.epoch
        return DueBooks(before.book if before is not None and is_of_its_epoch else None, later)

    def newest(self, executor: Address) -> EarlierBook | None:
        """Return the newest book of an executor that this result or one before it took up, as far as it remembers."""
        own = self._books.get(executor)
        return self._before.get(executor) if own is None else EarlierBook(executor, self._epoch, own)


def is_late(receipt: Receipt, result: EpochResult) -> bool:
    """Whether a book before that of `result` had to have a receipt: then this one must not."""
    return _is_late(receipt, next((book for book in result.books_before if book.executor == receipt.executor), None))


def books_before(epoch: EpochNumber, previous: EpochResult | None) -> tuple[EarlierBook, ...]:
    """Return the newest book of each executor before `epoch`, ascending by executor; `previous` is the newest result
    before it."""
    if previous is None:
        return ()
    newest = {book.executor: book for book in previous.books_before}
    newest |= {
        committed.executor: EarlierBook(committed.executor, previous.epoch, committed.book)
        for committed in previous.books
    }
    kept = (book for book in newest.values() if book.epoch >= epoch - BOOKS_REMEMBERED_EPOCHS)
    return tuple(sorted(kept, key=lambda book: book.executor.lower()))


def missing_books(
    previous: EpochResult | None,
    counted: Collection[Address],
    weights: Mapping[Address, int],
    earning: Collection[Address],
) -> tuple[MissingBook, ...]:
    """Return who had weight and no bundle among those `counted`, and so has no book, ascending by executor.

    `weights` are those in charge, `earning` who has weight by this epoch's own batches, or kept serving in it: was
    there. `previous` is the newest result before.
    """
    running = {} if previous is None else {book.executor: book for book in previous.books_missing}
    found = []
    for executor in sorted(weights, key=str.lower):
        if weights[executor] <= 0 or executor in counted:
            continue
        known = running.get(executor)
        if previous is None or known is None or executor not in earning:
            found.append(MissingBook(executor, NOTHING_DUE, NOTHING_DUE))
        else:
            found.append(MissingBook(executor, known.due_before, EpochNumber(previous.epoch + 1)))
    return tuple(found)


def book_of(books: Sequence[CommittedBook], executor: Address) -> ReceiptBook | None:
    """Return an executor's book; None if its bundle was not counted."""
    return next((committed.book for committed in books if committed.executor == executor), None)


def _is_late(receipt: Receipt, before: EarlierBook | None) -> bool:
    return before is not None and receipt.epoch < before.epoch
