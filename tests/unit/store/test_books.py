"""The books survive what they promise to survive, and never take a step back."""

import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from node.ports import SignedVoucher
from node.protocol.dossiers import AnswerEvidence, VectorEvidence
from node.protocol.identifiers import ZERO_HASH, Hash32, RequestId, TokenAmount
from node.protocol.records import SignedReceipt, Voucher
from node.protocol.sampling import SamplingParameters
from node.store.books import Books
from node.store.database import Database
from node.store.given_answers import GivenAnswerTables
from node.store.migrations import MIGRATIONS
from tests.builders import account
from tests.unit.protocol.test_pricing import RECEIPT

CHANNEL = Hash32(b"c" * 32)
CHILD = """
import sys
from pathlib import Path
from node.store.books import Books
from node.store.database import Database
from tests.builders import account
from tests.unit.store.test_books import voucher
books = Books(Database(Path(sys.argv[1])), account(1))
for cumulative in range(1, 1_000_000):
    books.save_received_voucher(voucher(cumulative))
    print(cumulative, flush=True)
"""


def voucher(cumulative: int) -> SignedVoucher:
    return SignedVoucher(account(1), account(2), Voucher(CHANNEL, TokenAmount(cumulative), ZERO_HASH), b"s" * 65)


def test_a_voucher_that_was_taken_survives_kill_9(tmp_path: Path) -> None:
    path = tmp_path / "quern.sqlite"
    child = subprocess.Popen([sys.executable, "-c", CHILD, str(path)], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    taken = 0
    while taken < 40:
        taken = int(child.stdout.readline())
    os.kill(child.pid, signal.SIGKILL)
    said = [int(line) for line in child.stdout.read().split("\n")[:-1]]
    child.wait(10)
    held = Books(Database(path), account(1)).received_voucher(CHANNEL)
    assert held is not None
    assert held.voucher.cumulative >= max([taken, *said])


def test_a_lower_voucher_is_refused_before_and_after_a_restart(tmp_path: Path) -> None:
    database = Database(tmp_path / "quern.sqlite")
    Books(database, account(1)).save_issued_voucher(voucher(10))
    database.close()
    books = Books(Database(tmp_path / "quern.sqlite"), account(1))
    with pytest.raises(ValueError, match="lose money"):
        books.save_issued_voucher(voucher(9))
    books.save_issued_voucher(voucher(11))
    with pytest.raises(ValueError, match="lose money"):
        books.save_issued_voucher(voucher(10))
    assert books.issued_voucher(CHANNEL) == voucher(11)
    assert books.received_voucher(CHANNEL) is None


def test_a_receipt_is_replaced_only_by_the_one_that_both_signed() -> None:
    books = Books(Database(":memory:"), RECEIPT.executor)
    alone, both = SignedReceipt(RECEIPT, b"e" * 65), SignedReceipt(RECEIPT, b"e" * 65, b"p" * 65)
    books.save_receipt(alone)
    assert books.receipt_totals() == (0, 0, 0)
    books.save_receipt(both)
    assert books.receipt_totals() == (1, RECEIPT.output_tokens, RECEIPT.price)
    books.save_receipt(alone)
    books.save_receipt(replace(both, signature=b"x" * 65))
    assert books.receipts(limit=9) == (both,)


def test_each_receipt_of_a_request_is_kept_and_the_books_have_each() -> None:
    """Who asks twice under one id must not find one of both left out."""
    database = Database(":memory:")
    books, given = Books(database, RECEIPT.executor), GivenAnswerTables(database, RECEIPT.executor)
    first, second = (SignedReceipt(replace(RECEIPT, at=at), b"e" * 65, b"p" * 65) for at in (1, 2))
    for signed in (first, replace(second, payer_signature=b""), second, first):
        books.save_receipt(signed)
    assert books.receipts_of(RECEIPT.request_id) == (first, second)
    assert given.new_receipts(limit=9)[0] == (first, second)
    assert books.receipt_totals() == (2, 2 * RECEIPT.output_tokens, 2 * RECEIPT.price)


def test_totals_that_grow_with_each_receipt_are_those_that_all_receipts_sum_to() -> None:
    """The monitoring asks for them every few seconds, for years."""
    database = Database(":memory:")
    books = Books(database, RECEIPT.executor)
    asked: list[str] = []
    database.connection.set_trace_callback(asked.append)
    for at in range(1, 9):
        receipt = replace(RECEIPT, at=at, output_tokens=at, executor=RECEIPT.executor if at % 4 else account(7))
        alone = SignedReceipt(receipt, b"e" * 65)
        for signed in (alone, replace(alone, payer_signature=b"p" * 65), alone)[: 1 + at % 3]:
            books.save_receipt(signed)
            books.receipt_totals()
    assert books.receipt_totals() == Books(database, RECEIPT.executor).receipt_totals()
    assert books.receipt_totals()[0] > 1
    assert sum("SELECT output_tokens" in query for query in asked) == 2  # at the first question to each


def test_receipts_of_an_older_version_keep_counting_and_their_places_are_not_given_again() -> None:
    database = Database(":memory:")
    books = Books(database, RECEIPT.executor)
    books.save_receipt(SignedReceipt(RECEIPT, b"e" * 65, b"p" * 65))
    step = next(number for number, script in enumerate(MIGRATIONS) if "signed_receipts" in script)
    connection = database.connection
    connection.execute("DROP TABLE receipts")
    connection.executescript(f"BEGIN; {MIGRATIONS_OF_RECEIPTS} COMMIT;")
    values = (RECEIPT.request_id, RECEIPT.executor, RECEIPT.output_tokens, str(RECEIPT.price), b"of format 3", 3, 1)
    connection.execute("INSERT INTO receipts VALUES (7, ?, ?, ?, ?, ?, ?, ?)", values)
    connection.executescript(f"BEGIN; {MIGRATIONS[step]} COMMIT;")
    assert books.receipts(limit=9) == ()
    assert books.receipt_totals() == (1, RECEIPT.output_tokens, RECEIPT.price)
    books.save_receipt(SignedReceipt(RECEIPT, b"e" * 65, b"p" * 65))
    assert books.newest_given() == 8


MIGRATIONS_OF_RECEIPTS = """
    CREATE TABLE receipts (
        sequence INTEGER PRIMARY KEY AUTOINCREMENT, request_id BLOB NOT NULL, executor TEXT NOT NULL,
        output_tokens INTEGER NOT NULL, price TEXT NOT NULL, record BLOB NOT NULL,
        format INTEGER NOT NULL DEFAULT 1, is_countersigned INTEGER NOT NULL DEFAULT 1, UNIQUE (request_id, executor)
    ) STRICT;
"""


def test_receipts_of_others_are_read_page_by_page_newest_first() -> None:
    books = Books(Database(":memory:"), account(1))
    got = []
    for number in range(5):
        for executor in (account(1), RECEIPT.executor):
            receipt = replace(RECEIPT, request_id=RequestId(bytes([number]) * 32), executor=executor)
            signed = SignedReceipt(receipt, b"e" * 65)
            books.save_receipt(signed)
            got += [signed] * (executor == RECEIPT.executor)
    read: list[SignedReceipt] = []
    before, pages = None, 0
    while before != 0:
        page, before = books.receipts_got(before=before, limit=3)
        assert len(page) <= 2  # of three, the others are its own
        read += page
        pages += 1
    assert read == got[::-1]
    assert pages == 4
    assert Books(Database(":memory:"), account(1)).receipts_got(before=None, limit=3) == ((), 0)


def test_vectors_are_kept_and_read_back_as_what_they_are() -> None:
    books = Books(Database(":memory:"), account(1))
    given = VectorEvidence(((1, 2), (3,)), 128, bytes(260))
    books.save_receipt(SignedReceipt(RECEIPT, b"e" * 65, b"p" * 65), given, answers_kept_max=2)
    assert books.answer_of(RECEIPT.request_id, RECEIPT.executor) == given


def test_only_the_newest_answers_are_kept_and_none_if_so_wished() -> None:
    books = Books(Database(":memory:"), account(1))
    answer = AnswerEvidence((1,), (2,), "two", SamplingParameters(), 3, None, (), "")
    ids = [RequestId(bytes([number]) * 32) for number in range(5)]
    for number, request_id in enumerate(ids):
        signed = SignedReceipt(replace(RECEIPT, request_id=request_id), b"e" * 65, b"p" * 65)
        books.save_receipt(signed, answer if number != 1 else None, answers_kept_max=2)
    kept = [books.answer_of(request_id, RECEIPT.executor) is not None for request_id in ids]
    assert kept == [False, False, False, True, True]
    huge = replace(answer, text="x" * 10**6)
    other = SignedReceipt(replace(RECEIPT, request_id=RequestId(b"h" * 32)), b"e" * 65, b"p" * 65)
    books.save_receipt(other, huge, answers_kept_max=2)
    assert books.answer_of(other.receipt.request_id, RECEIPT.executor) is None
    assert books.receipts_of(other.receipt.request_id) == (other,)
    books.forget_answers(kept_max=0)
    assert not any(books.answer_of(request_id, RECEIPT.executor) for request_id in ids)
