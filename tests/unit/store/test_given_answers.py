"""What an executor keeps of its answers: bounded, durable, and in books until one of them is counted."""

import sqlite3
from dataclasses import replace
from pathlib import Path

import pytest

from node.protocol.identifiers import Hash32, RequestId
from node.protocol.pricing import receipt_digest
from node.protocol.records import SignedReceipt
from node.store import migrations
from node.store.books import Books
from node.store.database import Database
from node.store.given_answers import BOOKS_KEPT, GivenAnswerTables
from node.store.migrations import MIGRATIONS, migrate
from tests.builders import account
from tests.unit.protocol.test_audit_evidence import ANSWER, EXECUTOR, receipt_for


def digest(number: int) -> Hash32:
    return Hash32(number.to_bytes(32))


def signed(number: int, executor: str = EXECUTOR) -> SignedReceipt:
    receipt = replace(receipt_for(ANSWER), request_id=RequestId(number.to_bytes(32)), executor=account(0x2))
    return SignedReceipt(replace(receipt, executor=executor), b"\x01" * 65, b"\x02" * 65)  # type: ignore[arg-type]


def tables(database: Database, **limits: int) -> GivenAnswerTables:
    return GivenAnswerTables(database, EXECUTOR, **limits)


def test_what_is_kept_is_found_until_it_is_forgotten() -> None:
    given = tables(Database(":memory:"))
    given.keep(digest(1), b"one")
    given.keep(digest(1), b"another")  # the first stays: a digest names one answer
    given.keep(digest(2), b"two")
    assert given.kept(digest(1)) == b"one"
    given.forget([digest(1), digest(3)])
    assert given.kept(digest(1)) is None
    assert given.kept(digest(2)) == b"two"


def test_the_oldest_are_forgotten_beyond_the_bound_also_after_a_restart(tmp_path: Path) -> None:
    database = Database(tmp_path / "store.sqlite")
    given = tables(database, kept_bytes_max=30)
    for number in range(3):
        given.keep(digest(number), b"x" * 10)
    database.close()
    database = Database(tmp_path / "store.sqlite")
    given = tables(database, kept_bytes_max=30)
    given.keep(digest(3), b"x" * 20)
    assert [given.kept(digest(number)) is not None for number in range(4)] == [False, False, True, True]
    database.close()


def test_what_is_forgotten_makes_room_and_no_more_than_it_took() -> None:
    given = tables(Database(":memory:"), kept_bytes_max=30)
    for number in range(3):
        given.keep(digest(number), b"x" * 10)
    given.forget([digest(1), digest(1), digest(7)])
    given.keep(digest(3), b"x" * 10)
    assert [given.kept(digest(number)) is not None for number in range(4)] == [True, False, True, True]
    given.keep(digest(4), b"x")
    assert given.kept(digest(0)) is None


def test_what_is_kept_instead_takes_the_place_and_the_room_of_what_was_here() -> None:
    given = tables(Database(":memory:"), kept_bytes_max=30)
    for number in range(3):
        given.keep(digest(number), b"x" * 10)
    given.keep_instead(digest(0), b"y" * 10)
    assert [given.kept(digest(number)) for number in range(3)] == [b"y" * 10, b"x" * 10, b"x" * 10]
    given.keep(digest(3), b"x")  # the oldest goes: what came in place of another is new
    assert [given.kept(digest(number)) is not None for number in range(4)] == [True, False, True, True]
    given.keep_instead(digest(4), b"z" * 9)
    assert [given.kept(digest(number)) is not None for number in range(5)] == [True, False, True, True, True]


def test_vectors_have_a_room_of_their_own_and_push_nothing_out(tmp_path: Path) -> None:
    database = Database(tmp_path / "store.sqlite")
    given = tables(database, kept_bytes_max=30, vectors_bytes_max=30)
    for number in range(3):
        given.keep(digest(number), b"x" * 10)
        assert given.has_room_for_vectors()
        given.keep_vectors(digest(10 + number), b"v" * 10)
    assert not given.has_room_for_vectors()
    given.keep_vectors(digest(13), b"v" * 10)  # of a call that had begun while there was room
    given.keep_vectors(digest(13), b"v" * 10)
    assert all(given.kept(digest(number)) is not None for number in (0, 1, 2, 10, 11, 12, 13))
    given.keep(digest(3), b"x" * 10)
    assert [given.kept(digest(number)) is not None for number in (0, 1, 10)] == [False, True, True]
    given.forget([digest(10)])
    database.close()
    given = tables(Database(tmp_path / "store.sqlite"), vectors_bytes_max=30)
    assert not given.has_room_for_vectors()
    given.forget([digest(11), digest(11), digest(1)])
    assert given.has_room_for_vectors()


def test_vectors_are_old_once_a_book_that_was_counted_long_ago_had_to_have_them() -> None:
    database = Database(":memory:")
    books, given = Books(database, EXECUTOR), tables(database)
    digests = [receipt_digest(signed(number).receipt) for number in range(4)]
    for number in range(4):
        given.keep_vectors(digests[number], b"vectors")
        if number < 3:
            books.save_receipt(signed(number))
    assert given.old_vectors(100) == ()
    given.save_book(5, 1, b"")
    given.save_book(6, 2, b"rows")
    given.count_book(6)
    given.save_book(7, 3, b"rows")  # no result has it: what is in it is still due
    assert given.old_vectors(5) == ()
    assert sorted(given.old_vectors(6)) == sorted(given.old_vectors(100)) == sorted(digests[:2])


def test_every_receipt_of_this_executor_is_in_exactly_one_book_that_is_counted() -> None:
    database = Database(":memory:")
    books, given = Books(database, EXECUTOR), tables(database)
    for number in range(5):
        books.save_receipt(signed(number))
    books.save_receipt(signed(9, executor=account(7)))  # one that this node got as a payer
    first, last = given.new_receipts(limit=3)
    assert [receipt.receipt.request_id for receipt in first] == [signed(n).receipt.request_id for n in range(3)]
    given.save_book(7, last, b"rows")
    given.count_book(7)
    second, last = given.new_receipts(limit=10)
    assert [receipt.receipt.request_id for receipt in second] == [signed(n).receipt.request_id for n in (3, 4)]
    given.save_book(8, last, b"")
    given.count_book(8)
    assert given.new_receipts(limit=10)[0] == ()


def test_what_a_book_has_that_was_not_counted_is_booked_again_with_what_came_since(tmp_path: Path) -> None:
    database = Database(tmp_path / "store.sqlite")
    books, given = Books(database, EXECUTOR), tables(database)
    for epoch in range(1, 4):
        books.save_receipt(signed(epoch))
        receipts, last = given.new_receipts(limit=10)
        assert [receipt.receipt.request_id for receipt in receipts] == [
            signed(number).receipt.request_id for number in range(1, epoch + 1)
        ]
        given.save_book(epoch, last, b"rows")
        assert not given.is_counted(epoch)
    given.count_book(2)
    given.count_book(9)  # there is none
    database.close()
    given = tables(Database(tmp_path / "store.sqlite"))
    assert [given.is_counted(epoch) for epoch in (1, 2, 3, 9)] == [False, True, False, False]
    receipts, _ = given.new_receipts(limit=10)
    assert [receipt.receipt.request_id for receipt in receipts] == [signed(3).receipt.request_id]


def test_the_newest_book_that_was_counted_stays_however_many_were_not_since() -> None:
    """Without it, all receipts that this node ever signed would be booked anew."""
    given = tables(Database(":memory:"))
    for epoch in (1, 2):
        given.save_book(epoch, 10 * epoch, b"rows")
        given.count_book(epoch)
    for epoch in range(3, 50):
        given.save_book(epoch, 1000, b"rows")
    assert [epoch for epoch in range(50) if given.book(epoch) is not None] == [2, *range(50 - BOOKS_KEPT, 50)]
    assert given.new_receipts(limit=10) == ((), 20)


def test_books_from_before_it_was_noted_which_were_counted_are_not_booked_again() -> None:
    """Answers in them may be forgotten already."""
    connection = sqlite3.connect(":memory:", isolation_level=None)
    before = next(number for number, step in enumerate(MIGRATIONS) if "is_counted" in step)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(migrations, "MIGRATIONS", MIGRATIONS[:before])
        migrate(connection)
    connection.execute("INSERT INTO receipt_books VALUES (7, 5, x'')")
    migrate(connection)
    assert connection.execute("SELECT is_counted FROM receipt_books WHERE epoch = 7").fetchone() == (1,)


def test_the_first_book_of_an_epoch_stays_and_old_ones_go() -> None:
    given = tables(Database(":memory:"))
    given.save_book(1, 5, b"first")
    given.save_book(1, 9, b"second")
    assert given.book(1) == b"first"
    assert given.book(2) is None
    for epoch in range(2, 2 + BOOKS_KEPT):
        given.save_book(epoch, 10, b"")
    assert given.book(1) is None
    assert given.book(2 + BOOKS_KEPT - 1) == b""


def test_the_book_of_the_newest_result_stays_until_there_is_a_newer_one_and_few_with_it() -> None:
    """Its answers are drawn in every epoch until then."""
    given, newest = tables(Database(":memory:")), 9
    for epoch in range(50):
        given.save_book(epoch, 10, b"%d" % epoch, min(epoch, newest))
    kept = [epoch for epoch in range(50) if given.book(epoch) is not None]
    assert kept == [*range(newest - BOOKS_KEPT + 1, newest + 1), *range(50 - BOOKS_KEPT, 50)]
    given.save_book(50, 10, b"", 49)
    assert given.book(newest) is None
