"""A payer's watch over receipt books: finds receipts of its own answers that executors left out, and proves it; also of
executors that have no book where one was due.

It also finds those that are booked as if this payer had not signed. Nothing proves when it did; but they are drawn by
their tokens alone, so others can be booked in their way (audit_sampling.py), and are worth a challenge."""

import hashlib
import heapq
from collections.abc import AsyncIterator, Sequence

import structlog
import trio

from node.ports import BadContentError, Chain, Content, ContentUnavailableError, Store
from node.protocol.audit_evidence import are_names_short
from node.protocol.due_books import BOOKS_REMEMBERED_EPOCHS, BooksOfResult, DueBooks
from node.protocol.findings import ReceiptBook
from node.protocol.identifiers import Address, EpochNumber, Hash32
from node.protocol.omissions import EMPTY_BOOK, OMISSIONS_MAX, SearchedBook
from node.protocol.pricing import receipt_digest
from node.protocol.receipt_books import BOOK_BYTES_MAX, BookError, BookRow, booked_tokens, read_book_in_slices
from node.protocol.records import EpochResult, Omission, SignedReceipt
from node.services.presence import PresenceTable
from node.services.slicing import Slicer

log = structlog.get_logger(__name__)

RECEIPTS_READ = 1 << 19
"""The newest, what it gave itself among them, in which those are sought that a result decides: some busy epochs."""
RECEIPTS_LOOKED_AT = 1000
"""Of these, by lot: a payer need not check all of its receipts for omitting to be risky."""
RECEIPTS_PER_PAGE = 128
"""Read from the disk before others get their turn: a few milliseconds."""
TRIES = 3
RETRY_SECONDS = 5.0


class OmissionWatch:
    """Looks for this account's receipts in the books that had to have them by now."""

    def __init__(
        self, chain: Chain, content: Content, store: Store, presence: PresenceTable, slicer: Slicer | None = None
    ) -> None:
        """`slicer` is what other long computations of this daemon run by as well."""
        self._chain = chain
        self._content = content
        self._store = store
        self._presence = presence
        self._slicer = slicer or Slicer()
        self.unnamed: tuple[SignedReceipt, ...] = ()
        """Of the receipts that were looked at last: those booked as if this payer had not signed."""

    async def find(self, result: EpochResult) -> tuple[Omission, ...]:
        """Return what `result` decides to be omitted, in a bundle's order."""
        self.unnamed = ()
        found: list[Omission] = []
        unnamed: list[SignedReceipt] = []
        for executor, signed in (await self._own_receipts(result)).items():
            if len(found) >= OMISSIONS_MAX:
                break
            books: dict[ReceiptBook, SearchedBook | None] = {}
            for receipt, due in signed:
                await trio.lowlevel.checkpoint()
                searched = await self._searched(due, executor, books)
                if searched is None:
                    continue
                digest = receipt_digest(receipt.receipt)
                if booked_tokens(receipt.receipt) and any(book.names_nobody(digest) for book in searched):
                    unnamed.append(receipt)
                if len(found) >= OMISSIONS_MAX or any(book.books_rightly(digest, receipt.receipt) for book in searched):
                    continue
                for book in searched:
                    await self._slicer.run(book.prepare())
                gaps = iter([book.missing(digest, receipt.receipt) for book in searched])
                earlier = None if due.earlier is None else next(gaps)
                later = None if due.later is None else next(gaps)
                log.warning("an executor left a receipt out of its books", executor=executor, receipt=digest.hex())
                found.append(Omission(receipt, earlier, later))
                if due.later is None:
                    break  # nothing of it is audited, so one receipt takes all: there is room for what others left out
        if unnamed:
            log.warning("answers that this node signed for are booked as if it had not", answers=len(unnamed))
        self.unnamed = tuple(unnamed)
        return tuple(sorted(found, key=lambda omission: receipt_digest(omission.signed.receipt)))

    async def hold(self, result: EpochResult) -> None:
        """Fetch the books of `result` that had to have receipts of its own epoch, if they were given in time.

        Now they are drawn from, so to hide them costs their executors the draws. When the next book of theirs decides,
        that is over, and what is here then needs not be asked for.
        """
        books = {committed.executor: committed.book for committed in result.books}
        asked = set[Address]()
        async for signed in self._newest(result.epoch):
            executor = signed.receipt.executor
            if signed.receipt.epoch == result.epoch and executor in books and executor not in asked:
                asked.add(executor)
                await self._rows(books[executor], executor)

    async def _own_receipts(self, result: EpochResult) -> dict[Address, list[tuple[SignedReceipt, DueBooks]]]:
        """Return this account's receipts of which `result` decides whether they are omitted, by executor; of very many
        a lot that no executor can foresee, for it hangs on the newest receipt."""
        books, salt = BooksOfResult(result), b""
        chosen: list[tuple[int, Hash32, SignedReceipt, DueBooks]] = []
        async for signed in self._newest(EpochNumber(result.epoch - BOOKS_REMEMBERED_EPOCHS)):
            digest = receipt_digest(signed.receipt)
            salt = salt or digest
            due = books.due(signed.receipt) if are_names_short(signed.receipt) else None
            if due is not None:
                lot = int.from_bytes(hashlib.sha256(salt + digest).digest())
                place = (-lot, digest, signed, due)
                if len(chosen) < RECEIPTS_LOOKED_AT:
                    heapq.heappush(chosen, place)
                else:
                    heapq.heappushpop(chosen, place)
        found: dict[Address, list[tuple[SignedReceipt, DueBooks]]] = {}
        for _, _, signed, due in chosen:
            found.setdefault(signed.receipt.executor, []).append((signed, due))
        return found

    async def _newest(self, first: EpochNumber) -> AsyncIterator[SignedReceipt]:
        """Yield receipts that this account signed as the payer, newest first, until they are older than `first`."""
        before: int | None = None
        for _ in range(RECEIPTS_READ // RECEIPTS_PER_PAGE):
            page, before = self._store.receipts_got(before=before, limit=RECEIPTS_PER_PAGE)
            for signed in page:
                if signed.receipt.payer == self._chain.account and signed.payer_signature != b"":
                    yield signed
            if before == 0 or (page and all(signed.receipt.epoch < first for signed in page)):
                return
            await trio.lowlevel.checkpoint()

    async def _searched(
        self, due: DueBooks, executor: Address, known: dict[ReceiptBook, SearchedBook | None]
    ) -> list[SearchedBook] | None:
        """Return the books that are due, the earlier first; None if one does not come. `known` are those fetched."""
        searched = []
        for book in (due.earlier, due.later):
            if book is None:
                continue
            if book not in known:
                rows = await self._rows(book, executor)
                known[book] = None if rows is None else SearchedBook(rows)
            found = known[book]
            if found is None:
                return None
            searched.append(found)
        return searched

    async def _rows(self, book: ReceiptBook, executor: Address) -> Sequence[BookRow] | None:
        """Return a book's rows; None if it does not come, or is not what was committed to: auditors count that."""
        if book == EMPTY_BOOK:
            return ()
        for _ in range(TRIES):
            try:
                providers = self._presence.providers(executor)
                data = await self._content.read_bytes(book.content_cid, providers, limit_bytes=BOOK_BYTES_MAX)
                return await self._slicer.run(read_book_in_slices(data, book))
            except ContentUnavailableError:
                await trio.sleep(RETRY_SECONDS)
            except (BadContentError, BookError):
                return None
        return None
