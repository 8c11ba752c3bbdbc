"""Evidence is kept as long as somebody may ask for it, and forgotten without holding up anybody."""

from collections import Counter
from collections.abc import Collection
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import pytest
import trio.testing
from structlog.testing import capture_logs

from node.protocol.audit_sampling import drawn_rows
from node.protocol.audit_votes import audit_order
from node.protocol.findings import CommittedBook
from node.protocol.identifiers import EpochNumber, Hash32
from node.protocol.pricing import receipt_digest
from node.protocol.receipt_books import book_bytes, make_book, order_rows
from node.protocol.slices import ITEMS_PER_SLICE
from node.services.challenge_book import ChallengeBook
from node.services.evidence_keeping import EPOCHS_KEPT, FORGETTING_SECONDS, FORGOTTEN_AT_ONCE, EvidenceKeeping, next_lot
from node.services.kept_audits import KeptAudits
from node.services.slicing import Slicer
from node.store.books import Books
from node.store.database import Database
from node.store.given_answers import GivenAnswerTables
from tests.builders import SOME_CID, TINY, account, unasked_row
from tests.unit.protocol.audited_group import SEED, missing, previous
from tests.unit.protocol.test_receipt_books import group_of
from tests.unit.services.audit_bench import Documents
from tests.unit.services.test_omission_watch import receipt
from tests.unit.services.test_slicing import Clock


class Node:
    """A node's answers, and what keeps them."""

    def __init__(self) -> None:
        self.given = GivenAnswerTables(Database(":memory:"), account(3))
        chain = SimpleNamespace(account=account(3), state=SimpleNamespace(participants={}))
        keeper = SimpleNamespace(given=self.given)
        self.keeping = EvidenceKeeping(cast(Any, chain), cast(Any, Documents()), cast(Any, keeper), Slicer())


@pytest.fixture
def node() -> Node:
    return Node()


async def test_its_own_book_is_drawn_and_forgotten_a_bit_at_a_time(
    node: Node, mock_clock: trio.testing.MockClock
) -> None:
    rows = order_rows([unasked_row(Hash32(n.to_bytes(32)), 5) for n in range(1, 5000)])
    book, owner = make_book(rows, SOME_CID), account(3)
    node.given.save_book(0, 1, book_bytes(rows))
    for row in rows:
        node.given.keep(row.digest, b"evidence")
    lots, clock, forget = list[int](), Clock(), node.given.forget

    def forget_counting(digests: Collection[Hash32]) -> None:
        lots.append(clock.turns)
        assert len(digests) <= FORGOTTEN_AT_ONCE
        forget(digests)

    node.given.forget = forget_counting  # type: ignore[method-assign]
    known = replace(previous(books=(CommittedBook(owner, book),)), group=group_of((3, 10, (TINY,)), (4, 10, (TINY,))))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(clock.run)
        own = await node.keeping._own_drawn(known, SEED)
        assert clock.turns >= len(rows) // ITEMS_PER_SLICE
        await node.keeping._forget_all_but(own, known.epoch)
        nursery.cancel_scope.cancel()
    drawn = drawn_rows(SEED, owner, book, rows, known.group)
    assert own == {row.digest: {account(4)} for row in drawn.values()}
    assert {row.digest for row in rows if node.given.kept(row.digest)} == set(own)
    growing = [4, 8, 16, 32]  # a disk that takes no time is soon given whole lots
    assert len(lots) == len(growing) + -(-(len(rows) - len(own) - sum(growing)) // FORGOTTEN_AT_ONCE)
    assert max(Counter(lots).values()) <= 2  # trio tosses a coin for who is first in a turn


async def test_a_slow_disk_is_given_smaller_lots_to_forget(node: Node, mock_clock: trio.testing.MockClock) -> None:
    a_piece_seconds, began = 0.0011, trio.current_time()
    lots = list[int]()

    def forget_slowly(digests: Collection[Hash32]) -> None:
        is_slow = trio.current_time() - began < 1.0
        mock_clock.jump(a_piece_seconds * len(digests) if is_slow else 0.0)
        lots.append(len(digests))

    node.given.forget = forget_slowly  # type: ignore[method-assign]
    digests = [Hash32(number.to_bytes(32)) for number in range(2000)]
    await node.keeping._forget(digests)
    assert sum(lots) == len(digests)
    assert set(lots[:200]) == {4}
    assert a_piece_seconds * 4 <= FORGETTING_SECONDS
    assert lots[-2] == FORGOTTEN_AT_ONCE  # once it is quick, lots grow


def test_a_lot_is_never_empty_and_never_larger_than_all_that_is_forgotten_at_once() -> None:
    assert next_lot(1, 60.0) == 1
    assert next_lot(1, 0.0) == 2
    assert next_lot(FORGOTTEN_AT_ONCE, 0.0) == FORGOTTEN_AT_ONCE


async def test_a_book_of_its_own_that_is_not_the_committed_one_ends_no_audit_and_is_not_forgotten(
    node: Node,
) -> None:
    """A backup from before the commitment was restored: another book was made, and the old one stands on chain."""
    committed = order_rows([unasked_row(Hash32(n.to_bytes(32)), 5) for n in range(1, 3000)])
    rows = order_rows([unasked_row(Hash32(n.to_bytes(32)), 5) for n in range(1, 6)])
    node.given.save_book(0, 1, book_bytes(rows))
    node.given.keep(rows[0].digest, b"evidence")
    own_book = CommittedBook(account(3), make_book(committed, SOME_CID))
    known = replace(previous(books=(own_book,)), group=group_of((3, 10, (TINY,)), (4, 10, (TINY,))))
    with capture_logs() as logs:
        own = await node.keeping._own_drawn(known, SEED)
    assert own == {}
    assert [(entry["log_level"], entry["epoch"]) for entry in logs] == [("error", 0)]
    await node.keeping._forget_all_but(own, known.epoch)
    assert node.given.kept(rows[0].digest) == b"evidence"


NEWEST = EpochNumber(9)
"""After this epoch no result came for long."""


def evidence_number(number: int) -> Hash32:
    return Hash32((1 << 32 | number).to_bytes(32))


async def test_while_no_newer_result_comes_what_the_newest_one_draws_is_kept_and_then_forgotten(
    node: Node,
) -> None:
    """And what no result has, of its own, is kept until a book that has it is counted."""
    keeping, given, ended, fetched = node.keeping, node.given, NEWEST + 8, set[Hash32]()
    for epoch in range(NEWEST - 3, ended + 5):  # one answer of its own and one that it audited, in each epoch
        newest = EpochNumber(min(epoch - 1, NEWEST) if epoch <= ended else epoch - 1)
        await keeping._forget_old(EpochNumber(epoch), newest)
        if epoch > NEWEST + 1:
            for digest in (evidence_number(NEWEST), evidence_number(1000 + NEWEST)):
                assert (given.kept(digest) is not None) is (epoch <= ended)
        first = NEWEST + 1 if NEWEST < epoch <= ended else epoch  # until there is a result, the same is booked again
        rows = order_rows([unasked_row(evidence_number(number), 5) for number in range(first, epoch + 1)])
        given.save_book(epoch, epoch, book_bytes(rows), newest)
        given.keep(evidence_number(epoch), b"its own")
        if not NEWEST < epoch < ended:
            given.count_book(epoch)
        kept = KeptAudits(keeping._store, EpochNumber(epoch))
        audited = evidence_number(1000 + newest)
        vote = replace(missing(0), receipt_digest=audited)
        if audited not in fetched:
            given.keep(audited, b"of another")
            fetched.add(audited)
        kept[audit_order(vote)] = vote
        kept.write()
        waiting = [number for number in range(NEWEST + 1, ended + 1) if given.kept(evidence_number(number))]
        assert waiting == [number for number in range(NEWEST + 1, ended + 1) if number <= epoch < ended + 3]


async def test_what_may_be_asked_for_now_is_not_forgotten(node: Node) -> None:
    asked, other = evidence_number(1), evidence_number(2)
    node.given.keep(asked, b"evidence")
    node.given.keep(other, b"evidence")
    node.keeping._allowed = {asked: frozenset({account(4)})}
    await node.keeping._forget([asked, other])
    assert node.given.kept(asked) == b"evidence"
    assert node.given.kept(other) is None


async def test_where_no_book_of_its_own_was_counted_nothing_is_forgotten(node: Node) -> None:
    row = unasked_row(Hash32(bytes([1]) * 32), 5)
    node.given.save_book(0, 1, book_bytes([row]))
    node.given.keep(row.digest, b"evidence")
    own = await node.keeping._own_drawn(previous(books=()), SEED)
    await node.keeping._forget_all_but(own, EpochNumber(0))
    assert node.given.kept(row.digest) == b"evidence"


async def test_what_was_challenged_is_forgotten_when_nobody_asks_for_it_any_more(
    node: Node, mock_clock: trio.testing.MockClock
) -> None:
    store = Books(Database(":memory:"), account(3))
    book, signed = ChallengeBook(store), [receipt(number) for number in range(2)]
    first, second = (receipt_digest(one.receipt) for one in signed)
    for one in signed:
        book.add(one)
        node.given.keep(receipt_digest(one.receipt), b"of a private answer")
    book.take(EpochNumber(5))
    await node.keeping.forget_challenged(book, EpochNumber(4 + EPOCHS_KEPT))
    assert node.given.kept(first) is not None
    node.keeping._allowed = {second: frozenset({account(4)})}
    await node.keeping.forget_challenged(book, EpochNumber(5 + EPOCHS_KEPT))
    assert node.given.kept(first) is None
    assert node.given.kept(second) is not None, "somebody may still see it"
    node.keeping._allowed = {}
    await node.keeping.forget_challenged(book, EpochNumber(6 + EPOCHS_KEPT))
    assert node.given.kept(second) is None


async def test_what_was_audited_and_challenged_stays_as_long_as_it_is_challenged(
    node: Node, mock_clock: trio.testing.MockClock
) -> None:
    book, signed = ChallengeBook(Books(Database(":memory:"), account(3))), [receipt(number) for number in range(2)]
    challenged, audited = (receipt_digest(one.receipt) for one in signed)
    book.add(signed[0])
    kept = KeptAudits(cast(Any, node.keeping)._store, EpochNumber(5))
    for number, digest in enumerate((challenged, audited)):
        node.given.keep(digest, b"evidence")
        vote = replace(missing(number), receipt_digest=digest)
        kept[audit_order(vote)] = vote
    kept.write()
    newest = replace(previous(books=()), epoch=EpochNumber(4 + EPOCHS_KEPT))
    await node.keeping.begin(EpochNumber(5 + EPOCHS_KEPT), newest, SEED, book.held())
    assert (node.given.kept(challenged), node.given.kept(audited)) == (b"evidence", None)
    book.forgotten([challenged])
    assert book.held() == frozenset()
