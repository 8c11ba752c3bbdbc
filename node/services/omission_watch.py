"""A payer's watch over receipt books: finds receipts of its own answers that executors left out, booked otherwise than
they must or a second time, and proves it."""

from collections.abc import Sequence

import structlog
import trio

from node.ports import BadContentError, Chain, Content, ContentUnavailableError, Store
from node.protocol.asking import is_too_old
from node.protocol.audit_evidence import are_names_short
from node.protocol.findings import ReceiptBook
from node.protocol.identifiers import Address
from node.protocol.omissions import EMPTY_BOOK, OMISSIONS_MAX, SearchedBook, SearchedBooks, book_of
from node.protocol.pricing import receipt_digest
from node.protocol.receipt_books import BOOK_BYTES_MAX, BookError, BookRow, read_book_in_slices
from node.protocol.records import EpochResult, Omission, SignedReceipt
from node.services.presence import PresenceTable
from node.services.slicing import Slicer

log = structlog.get_logger(__name__)

RECEIPTS_LOOKED_AT = 1000
"""The newest: a payer need not check all of its receipts for omitting to be risky."""
TRIES = 3
RETRY_SECONDS = 5.0


class OmissionWatch:
    """Looks for this account's receipts in the books of two results."""

    def __init__(
        self, chain: Chain, content: Content, store: Store, presence: PresenceTable, slicer: Slicer | None = None
    ) -> None:
        """`slicer` is what other long computations of this daemon run by as well."""
        self._chain = chain
        self._content = content
        self._store = store
        self._presence = presence
        self._slicer = slicer or Slicer()

    async def find(self, result: EpochResult) -> tuple[Omission, ...]:
        """Return what the books of `result` and of the one before it prove to be omitted, in a bundle's order."""
        if result.books_before is None:
            return ()
        found: list[Omission] = []
        for executor, signed in self._own_receipts(result).items():
            if len(found) >= OMISSIONS_MAX:
                break
            earlier, later = book_of(result.books_before, executor), book_of(result.books, executor)
            if earlier is None or later is None:
                continue
            rows_before, rows = await self._rows(earlier, executor), await self._rows(later, executor)
            if rows_before is None or rows is None:
                continue
            books = SearchedBooks(result.epoch, SearchedBook(rows_before), SearchedBook(rows))
            for receipt in signed:
                await trio.lowlevel.checkpoint()
                if len(found) >= OMISSIONS_MAX or not books.is_wrong(receipt.receipt):
                    continue
                for book in (books.earlier, books.later):
                    await self._slicer.run(book.prepare())
                digest = receipt_digest(receipt.receipt).hex()
                log.warning("an executor has not booked a receipt as it must", executor=executor, receipt=digest)
                found.append(books.proof(receipt))
        return tuple(sorted(found, key=lambda omission: receipt_digest(omission.signed.receipt)))

    def _own_receipts(self, result: EpochResult) -> dict[Address, list[SignedReceipt]]:
        account = self._chain.account
        found: dict[Address, list[SignedReceipt]] = {}
        for signed in self._store.receipts(limit=RECEIPTS_LOOKED_AT):
            receipt = signed.receipt
            is_own = receipt.payer == account and receipt.executor != account and signed.payer_signature != b""
            is_late = receipt.epoch > result.epoch or is_too_old(receipt, result.epoch)
            is_unasked = receipt.asking is None and receipt.epoch != result.epoch - 1
            if is_own and not is_late and not is_unasked and are_names_short(receipt):
                found.setdefault(receipt.executor, []).append(signed)
        return found

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
