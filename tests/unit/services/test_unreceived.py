"""Answers that a book has and nobody got: told from those that were cut short, and held against their executor here."""

from types import SimpleNamespace
from typing import Any, cast

from node.protocol.asking import booked_under
from node.protocol.identifiers import EpochNumber, Hash32, ModelId, RequestId
from node.protocol.receipt_books import booked_row, order_rows
from node.services.faults import CLEAN_SECONDS, MADE_UP_SECONDS, Evidence, Fault, FaultBook, load_evidence
from node.services.omission_keeping import OmissionKeeping
from node.services.slicing import Slicer
from node.services.unreceived import (
    APART_SECONDS,
    BOOK_EPOCHS,
    FREE_TIMES,
    KEPT_MAX,
    KEPT_PER_EXECUTOR_MAX,
    MADE_UP_ROWS_MIN,
    ON_THE_WAY_TOKENS,
    Unreceived,
    UnreceivedBook,
    made_up,
    tokens_given_at_most,
)
from node.store.books import Books
from node.store.database import Database
from tests.builders import account
from tests.unit.protocol.test_audit_evidence import EXECUTOR
from tests.unit.services.test_omission_watch import receipt, world

EPOCH = EpochNumber(5)


def books() -> Books:
    return Books(Database(":memory:"), account(1))


def asked(number: int, tokens_max: int = 64, executor: int = 2, ended_at: int | None = None) -> Unreceived:
    asking, at = Hash32(number.to_bytes(32)), number * APART_SECONDS if ended_at is None else ended_at
    return Unreceived(account(executor), asking, RequestId(bytes(32)), ModelId("tiny"), tokens_max, at)


def test_what_was_cut_short_is_told_from_what_was_made_up() -> None:
    requests = [asked(number) for number in range(10)]
    honest = {one.asking: 64 for one in requests}
    assert made_up(requests, honest) == []
    for count in range(6):
        booked = honest | {one.asking: 65 for one in requests[:count]}
        assert made_up(requests, booked) == (requests[:count] if count >= MADE_UP_ROWS_MIN else [])
    assert made_up(requests, {Hash32(bytes([9]) * 32): 512}) == []


def test_what_ended_at_the_same_time_counts_once() -> None:
    """A line that breaks ends all that run over it."""
    outage = [asked(number, ended_at=1000 + number) for number in range(APART_SECONDS)]
    later = [asked(100 + number, ended_at=2000 * number) for number in range(1, MADE_UP_ROWS_MIN)]
    booked = {one.asking: 65 for one in (*outage, *later)}
    assert made_up(outage, booked) == []
    assert made_up(outage + later[:-1], booked) == []
    assert made_up(outage + later, booked) == outage + later
    drifting = [asked(number, ended_at=number * (APART_SECONDS - 1)) for number in range(2 * MADE_UP_ROWS_MIN - 1)]
    assert made_up(drifting, booked) == drifting  # not as one, though each ended soon after another


def test_what_was_on_the_way_is_allowed_for() -> None:
    assert tokens_given_at_most(10, 16, is_free=False) == 10 + ON_THE_WAY_TOKENS
    assert tokens_given_at_most(10, 500, is_free=False) == 1010
    assert tokens_given_at_most(10, 500, is_free=True) == 10 + FREE_TIMES * 1000


def test_requests_are_looked_for_as_long_as_a_book_may_have_them_and_over_a_restart() -> None:
    store = books()
    for age in range(6):
        UnreceivedBook(store).add(EpochNumber(EPOCH - age), asked(age))
    found = UnreceivedBook(store).booked_in(EPOCH)[account(2)]
    assert {one.asking for one in found} == {asked(age).asking for age in range(BOOK_EPOCHS + 1)}
    UnreceivedBook(store).forget(found)
    assert UnreceivedBook(store).booked_in(EPOCH) == {}
    assert len(store.document_keys("unreceived/")) == 6 - len(found)


def test_who_fails_all_the_time_takes_nobody_s_room() -> None:
    store = books()
    book = UnreceivedBook(store)
    for number in range(KEPT_PER_EXECUTOR_MAX + 10):
        book.add(EPOCH, asked(number))
    book.add(EPOCH, asked(9999, executor=3))
    found = book.booked_in(EPOCH)
    assert {executor: len(those) for executor, those in found.items()} == {
        account(2): KEPT_PER_EXECUTOR_MAX,
        account(3): 1,
    }
    book.add(EpochNumber(EPOCH + 1), asked(1))  # in the next epoch there is room again
    assert len(store.document_keys(f"unreceived/{EPOCH + 1}/")) == 1
    assert KEPT_MAX >= 16 * KEPT_PER_EXECUTOR_MAX


def test_requests_of_two_epochs_that_end_by_turns_have_no_more_room() -> None:
    store = books()
    book = UnreceivedBook(store)
    for number in range(KEPT_PER_EXECUTOR_MAX + 10):
        for epoch in (EPOCH, EpochNumber(EPOCH + 1)):
            book.add(epoch, asked(number))
    for epoch in (EPOCH, EpochNumber(EPOCH + 1)):
        assert len(store.document_keys(f"unreceived/{epoch}/")) == KEPT_PER_EXECUTOR_MAX
        assert not book.has_room(epoch, account(2))
        assert book.has_room(epoch, account(3))
    book.add(EpochNumber(EPOCH + 2), asked(1))
    assert not book.has_room(EPOCH, account(3))  # it ended too late
    assert not book.has_room(EpochNumber(EPOCH + 1), account(2))
    assert [*book._counts] == [EPOCH + 1, EPOCH + 2]


def test_what_cannot_be_read_is_forgotten() -> None:
    store = books()
    UnreceivedBook(store).add(EPOCH, asked(1))
    store.put_document(f"unreceived/{EPOCH}/ff", b"no request")
    assert len(UnreceivedBook(store).booked_in(EPOCH)[account(2)]) == 1
    assert len(store.document_keys("unreceived/")) == 1


class Time:
    now = 1_000_000

    def __call__(self) -> int:
        return self.now


def test_its_executor_is_asked_last_for_a_day_over_a_restart_too_and_then_no_more() -> None:
    store, clock = books(), Time()
    FaultBook(store, clock).add_made_up(account(2), [asked(1), asked(2), asked(3)])
    book = FaultBook(store, clock)
    book.absolve(account(2))  # one answer that is whole makes it no better
    assert book.is_faulty(account(2))
    assert not book.is_faulty(account(3))
    (evidence,) = load_evidence(store, limit=9)
    assert isinstance(evidence, Evidence)
    assert (evidence.code, evidence.request_digest) == (Fault.MADE_UP.value, asked(1).asking)
    assert "3 answers" in evidence.detail
    clock.now += int(MADE_UP_SECONDS)
    assert not book.is_faulty(account(2))
    assert MADE_UP_SECONDS <= CLEAN_SECONDS


async def test_a_gateway_finds_rows_for_what_it_never_got_and_holds_them_against_their_executor_once(
    autojump_clock: object,
) -> None:
    """Of two executors, one books what it gave before the line broke, the other what it never gave."""
    signed = [receipt(number) for number in range(8)]  # of two tokens each
    watch, result = world(signed, signed)
    store = books()
    kept = UnreceivedBook(store)
    for number, one in enumerate(signed[:6]):
        asking = booked_under(one.receipt)
        most = 1 if number < MADE_UP_ROWS_MIN else 64
        at = number * APART_SECONDS
        kept.add(result.epoch, Unreceived(EXECUTOR, asking, one.receipt.request_id, one.receipt.model_id, most, at))
    network = SimpleNamespace(serve=lambda *_what, **_how: None)
    keeping = OmissionKeeping(
        cast(Any, SimpleNamespace(account=account(1))), cast(Any, network), watch._content, store, watch._presence,
        Slicer(), bytes,
    )  # fmt: skip
    keeping._watch = watch
    told = list[tuple[str, set[Hash32]]]()
    keeping.on_made_up = lambda executor, found: told.append((executor, {one.asking for one in found}))
    for _ in range(2):
        await keeping.run(EpochNumber(result.epoch + 1), result)
    rows = order_rows([booked_row(one) for one in signed[:MADE_UP_ROWS_MIN]])
    assert told == [(EXECUTOR, {row.asking for row in rows})]
