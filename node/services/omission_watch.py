"""A payer's watch over receipt books: finds receipts of its own answers that executors left out, booked otherwise than
they must or a second time, and proves it; also of executors that have no book where one was due. Every payer has one:
what becomes of a proof, omission_keeping.py says."""

import hashlib
import heapq
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Collection, Iterator, Mapping, Sequence
from contextlib import aclosing

import structlog
import trio

from node.ports import BadContentError, Chain, Content, ContentUnavailableError, Store
from node.protocol.asking import is_too_old
from node.protocol.audit_evidence import are_names_short
from node.protocol.due_books import BOOKS_REMEMBERED_EPOCHS, BooksOfResult
from node.protocol.findings import ReceiptBook
from node.protocol.identifiers import Address, EpochNumber, Hash32
from node.protocol.omission_choice import in_bundle_order
from node.protocol.omissions import EMPTY_BOOK, OMISSIONS_MAX, SearchedBook, SearchedBooks
from node.protocol.pricing import receipt_digest
from node.protocol.receipt_books import BOOK_BYTES_MAX, BookError, BookRow, read_book_in_slices
from node.protocol.records import EpochResult, Omission, SignedReceipt
from node.services.presence import PresenceTable
from node.services.slicing import Slicer

log = structlog.get_logger(__name__)

RECEIPTS_READ = 1 << 19
"""The newest, what it gave itself among them, in which those are sought that a result decides: some busy epochs."""
RECEIPTS_LOOKED_AT = 1000
"""Of each kind of these, by lot: a payer need not check all of its receipts for omitting to be risky."""
RECEIPTS_PER_PAGE = 128
"""Read from the disk before others get their turn: a few milliseconds."""
FOUND_PER_EXECUTOR_MAX = 320
"""Proofs, and no more than a bundle carries before all executors were looked at. In bundles of several members so many
outweigh the 62 draws of the largest book (docs/economics.md): who fills a book up with true answers of its own, and
leaves the wrong ones out, loses more than these bring."""
FOUND_MAX = 640
"""Of one epoch: 2 MiB."""
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

    async def find(
        self, result: EpochResult, known: Collection[Omission] = (), keep: Callable[[Omission], None] | None = None
    ) -> tuple[Omission, ...]:
        """Return what the books of `result`, and those that it lacks, prove, in a bundle's order; against one executor
        FOUND_PER_EXECUTOR_MAX at most, against one without a book one proof.

        `known` was found before a restart, and is not looked for again; it is returned with what is new. That is given
        to `keep` at once, one by one: what comes after may take long, and a restart must not lose it.
        """
        books = BooksOfResult(result)
        found = {receipt_digest(omission.signed.receipt): omission for omission in known}
        counts = Counter(omission.signed.receipt.executor for omission in known)
        receipts = await self._own_receipts(books, result.epoch)
        for per_executor_max in (OMISSIONS_MAX, FOUND_PER_EXECUTOR_MAX):
            for executor, signed in receipts.items():
                has_more = per_executor_max == OMISSIONS_MAX or counts[executor] >= OMISSIONS_MAX
                most = 1 if books.own(executor) is None else per_executor_max  # without a book one proof takes all
                if not has_more or counts[executor] >= most:
                    continue
                async with aclosing(self._of_executor(books, executor, signed, found)) as omissions:
                    async for omission in omissions:
                        counts[executor] += 1
                        found[receipt_digest(omission.signed.receipt)] = omission
                        if keep is not None:
                            keep(omission)
                        if counts[executor] >= most or len(found) >= FOUND_MAX:
                            break
                if len(found) >= FOUND_MAX:
                    break
        return in_bundle_order(found.values())

    async def _of_executor(
        self, books: BooksOfResult, executor: Address, signed: Sequence[SignedReceipt], found: Collection[Hash32]
    ) -> AsyncGenerator[Omission, None]:
        """Yield what proves that receipts, but those `found`, are not booked as they must, as it is found."""
        before = books.before(executor)
        searched = SearchedBooks(
            books,
            await self._searched(None if before is None else before.book, executor),
            await self._searched(books.own(executor), executor),
        )
        for receipt in signed:
            await trio.lowlevel.checkpoint()
            digest = receipt_digest(receipt.receipt)
            if digest in found or not searched.is_wrong(receipt.receipt):
                continue
            for book in (searched.earlier, searched.later):
                if book is not None:
                    await self._slicer.run(book.prepare())
            log.warning("an executor has not booked a receipt as it must", executor=executor, receipt=digest.hex())
            yield searched.proof(receipt)

    async def booked(
        self, result: EpochResult, asked: Mapping[Address, Collection[Hash32]]
    ) -> AsyncIterator[tuple[Address, dict[Hash32, int]]]:
        """Yield each executor with the tokens that its book in `result` has for what it was asked."""
        books = BooksOfResult(result)
        for executor, askings in asked.items():
            searched = await self._searched(books.own(executor), executor)
            if searched is not None:
                rows = {asking: searched.tokens_of(asking) for asking in askings}
                yield executor, {asking: tokens for asking, tokens in rows.items() if tokens is not None}

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

    async def _own_receipts(self, books: BooksOfResult, epoch: EpochNumber) -> dict[Address, list[SignedReceipt]]:
        """Return this account's receipts that the books of the result of `epoch` may show to be booked wrongly, by
        executor: those that they had to have, and older ones that they must not have any more; of very many a lot of
        each that no executor can foresee, for it hangs on the newest receipt."""
        salt, with_long_names = b"", 0
        due, older = _Lot(RECEIPTS_LOOKED_AT), _Lot(RECEIPTS_LOOKED_AT)
        async for signed in self._newest(EpochNumber(epoch - BOOKS_REMEMBERED_EPOCHS)):
            receipt = signed.receipt
            digest = receipt_digest(receipt)
            salt = salt or digest
            if is_too_old(receipt):
                continue
            if not are_names_short(receipt):
                with_long_names += 1
                continue
            if books.due(receipt) is not None:
                due.add(salt, digest, signed)
            elif receipt.asking is not None and books.own(receipt.executor) is not None and books.is_late(receipt):
                older.add(salt, digest, signed)
        if with_long_names:  # of a gateway that did not look at names yet
            log.warning("receipts with too long a name cannot be missed in books", receipts=with_long_names)
        found: dict[Address, list[SignedReceipt]] = {}
        for signed in (*due.drawn(), *older.drawn()):
            found.setdefault(signed.receipt.executor, []).append(signed)
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

    async def _searched(self, book: ReceiptBook | None, executor: Address) -> SearchedBook | None:
        """Return a book to look for receipts in; None if there is none, or it does not come."""
        rows = None if book is None else await self._rows(book, executor)
        return None if rows is None else SearchedBook(rows)

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


class _Lot:
    """Draws some of many receipts, by a hash."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._drawn: list[tuple[int, Hash32, SignedReceipt]] = []

    def add(self, salt: bytes, digest: Hash32, signed: SignedReceipt) -> None:
        """Have one more take part."""
        place = (-int.from_bytes(hashlib.sha256(salt + digest).digest()), digest, signed)
        if len(self._drawn) < self._count:
            heapq.heappush(self._drawn, place)
        else:
            heapq.heappushpop(self._drawn, place)

    def drawn(self) -> Iterator[SignedReceipt]:
        """Yield those that were drawn."""
        return (signed for _, _, signed in self._drawn)
