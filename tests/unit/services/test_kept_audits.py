"""An epoch's audits on the disk: what was written is there after a restart, and a vote costs one page."""

from collections.abc import Mapping
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from node.protocol.audit_votes import NO_DIGEST, REJUDGED, audit_order
from node.protocol.audits import NO_FIGURES
from node.protocol.codec import to_bytes
from node.protocol.findings import AuditVote
from node.protocol.identifiers import EpochNumber, Hash32, ModelId, NodeId
from node.protocol.verdicts import Verdict
from node.services.kept_audits import PAGES_PER_SLICE, VOTES_PER_PAGE, KeptAudits
from node.store.books import Books
from node.store.database import Database
from tests.builders import account

EPOCH = EpochNumber(3)


def vote(number: int, reason: str = "") -> AuditVote:
    """Every other one is of an answer that is judged again."""
    draw, digest = (number, NO_DIGEST) if number % 2 else (REJUDGED, Hash32(number.to_bytes(32)))
    executor = account(1 + number % 5)
    return AuditVote(executor, draw, NodeId("node"), ModelId("model"), digest, Verdict.VALID, NO_FIGURES, reason)


class CountingBooks(Books):
    """Counts what is written."""

    written_bytes = 0

    transactions = 0

    def put_document(self, key: str, data: bytes) -> None:
        self.transactions += 1
        self.written_bytes += len(data)
        super().put_document(key, data)

    def put_documents(self, documents: Mapping[str, bytes]) -> None:
        self.transactions += 1
        self.written_bytes += sum(map(len, documents.values()))
        super().put_documents(documents)


@pytest.fixture
def books() -> CountingBooks:
    return CountingBooks(Database(":memory:"), account(1))


changes = st.lists(
    st.tuples(st.integers(0, 60), st.sampled_from(("set", "pop", "write", "restart")), st.sampled_from(("", "late"))),
    max_size=80,
)


@settings(max_examples=60, deadline=None)
@given(changes)
def test_what_was_written_is_there_after_a_restart_in_a_bundles_order(made: list[tuple[int, str, str]]) -> None:
    store = Books(Database(":memory:"), account(1))
    kept, expected = KeptAudits(store, EPOCH), dict[int, AuditVote]()
    for number, change, reason in made:
        if change == "set":
            kept[audit_order(vote(number))] = expected[number] = vote(number, reason)
        elif change == "pop":
            assert kept.pop(audit_order(vote(number)), None) == expected.pop(number, None)
        else:
            kept.write()
            if change == "restart":
                kept = KeptAudits(store, EPOCH)
        assert kept.votes == tuple(sorted(expected.values(), key=audit_order))
    kept.write()
    assert KeptAudits(store, EPOCH).votes == kept.votes
    assert KeptAudits(store, EpochNumber(EPOCH + 1)).votes == ()


def test_a_vote_costs_a_page_however_many_there_are(books: CountingBooks) -> None:
    kept, one = KeptAudits(books, EPOCH), len(to_bytes(vote(2000, "no-time")))
    for number in range(1000):
        kept[audit_order(vote(number))] = vote(number, "no-time")
    kept.write()
    books.written_bytes = 0
    kept[audit_order(vote(700))] = replace(vote(700), verdict=Verdict.INVALID)
    kept.write()
    assert 0 < books.written_bytes <= (VOTES_PER_PAGE + 1) * one
    assert KeptAudits(books, EPOCH)[audit_order(vote(700))].verdict is Verdict.INVALID


def test_however_many_pages_have_changed_they_are_one_transaction_or_one_a_slice(books: CountingBooks) -> None:
    """A transaction for each page waited for the disk twenty times, while nobody else had a turn."""
    pages = 5 * PAGES_PER_SLICE
    for slices in (0, 5):
        kept = KeptAudits(books, EpochNumber(EPOCH + slices))
        kept.update({audit_order(vote(number)): vote(number) for number in range(VOTES_PER_PAGE * pages)})
        books.transactions = 0
        if slices:
            counts = [books.transactions for _ in kept.write_in_slices()]
            assert counts == list(range(1, slices + 1))
        else:
            kept.write()
            assert books.transactions == 1
        assert KeptAudits(books, kept.epoch).votes == kept.votes


def test_what_changes_between_two_slices_is_written_as_well(books: CountingBooks) -> None:
    kept = KeptAudits(books, EPOCH)
    kept.update({audit_order(vote(number)): vote(number) for number in range(VOTES_PER_PAGE * 2 * PAGES_PER_SLICE)})
    slices = kept.write_in_slices()
    next(slices)
    kept[audit_order(vote(0))] = vote(0, "late")
    for _ in slices:
        pass
    assert KeptAudits(books, EPOCH).votes == kept.votes


def test_nothing_is_written_where_nothing_has_changed(books: CountingBooks) -> None:
    kept = KeptAudits(books, EPOCH)
    kept[audit_order(vote(1))] = vote(1)
    kept.write()
    books.written_bytes = 0
    kept.write()
    KeptAudits(books, EPOCH).write()
    assert books.written_bytes == 0


def test_a_page_that_cannot_be_read_costs_its_own_votes_alone(books: CountingBooks) -> None:
    kept = KeptAudits(books, EPOCH)
    for number in range(2 * VOTES_PER_PAGE):
        kept[audit_order(vote(number))] = vote(number)
    kept.write()
    books.put_document(f"audits/{EPOCH}/0", b"of another version")
    left = KeptAudits(books, EPOCH)
    assert set(left) == {audit_order(vote(number)) for number in range(VOTES_PER_PAGE, 2 * VOTES_PER_PAGE)}
    left[audit_order(vote(0))] = vote(0)
    left.write()
    assert KeptAudits(books, EPOCH).votes == left.votes
