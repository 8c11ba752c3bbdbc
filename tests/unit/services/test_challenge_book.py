"""What is to be challenged is challenged once, whatever happens in between."""

from collections.abc import Collection, Iterator
from types import SimpleNamespace
from typing import Any, cast

import pytest
from structlog.testing import capture_logs

from node.protocol.audit_votes import CHALLENGE_EPOCHS_MAX, CHALLENGES_MAX
from node.protocol.chain_state import EPOCHS_KEPT as VOTES_KEPT_EPOCHS
from node.protocol.codec import to_bytes
from node.protocol.identifiers import EpochNumber, Hash32
from node.protocol.pricing import receipt_digest
from node.protocol.records import SignedReceipt, VoteBundle
from node.services.challenge_book import (
    DOCUMENT,
    WAITING_MAX,
    ChallengeBook,
    Judged,
    judged_by_result,
)
from node.services.evidence_keeping import EPOCHS_KEPT
from node.services.validating import votes_document
from node.store.books import Books
from node.store.database import Database
from tests.builders import account
from tests.unit.services.test_omission_watch import receipt

EPOCH, NEXT_EPOCH = EpochNumber(7), EpochNumber(8)
RECEIPTS = [receipt(number) for number in range(WAITING_MAX + 3)]


@pytest.fixture
def store() -> Iterator[Books]:
    database = Database(":memory:")
    yield Books(database, account(1))
    database.close()


def written(store: Books, epoch: int, taken: Collection[SignedReceipt]) -> None:
    """Have the store hold the bundle of an epoch that challenges so much."""
    bundle = VoteBundle(EpochNumber(epoch), account(1), (), challenges=tuple(taken))
    store.put_document(votes_document(EpochNumber(epoch)), to_bytes(bundle))


def everything(store: Books, book: ChallengeBook) -> list[SignedReceipt]:
    """All that waits, epoch by epoch."""
    found: list[SignedReceipt] = []
    for epoch in range(NEXT_EPOCH, NEXT_EPOCH + len(RECEIPTS)):
        taken = book.take(EpochNumber(epoch))
        written(store, epoch, taken)
        found += taken
    return found


def in_order(receipts: Collection[SignedReceipt]) -> list[SignedReceipt]:
    return sorted(receipts, key=lambda signed: receipt_digest(signed.receipt))


def no_result(_: EpochNumber, __: Collection[Hash32]) -> None:
    """Of no epoch there is one."""


def left_out(_: EpochNumber, __: Collection[Hash32]) -> tuple[Hash32, ...]:
    """Each result has others judged."""
    return ()


def test_a_restart_loses_nothing_that_waits(store: Books) -> None:
    book = ChallengeBook(store)
    book.add(RECEIPTS[0])
    book.add(RECEIPTS[1])
    assert list(ChallengeBook(store).take(EPOCH)) == in_order(RECEIPTS[:2])


def test_what_is_in_a_bundle_is_not_challenged_again_after_a_restart(store: Books) -> None:
    book = ChallengeBook(store)
    for signed in RECEIPTS[: CHALLENGES_MAX + 1]:
        book.add(signed)
    assert len(book.take(EPOCH)) == CHALLENGES_MAX
    store.put_document(votes_document(EPOCH), b"the bundle")
    assert everything(store, ChallengeBook(store)) == [RECEIPTS[CHALLENGES_MAX]]


def test_what_was_taken_for_a_bundle_that_was_never_written_is_challenged_in_the_next(store: Books) -> None:
    book = ChallengeBook(store)
    for signed in RECEIPTS[: CHALLENGES_MAX + 1]:
        book.add(signed)
    first = book.take(EPOCH)
    again = ChallengeBook(store)
    assert again.take(EPOCH) == first
    written(store, EPOCH, first)
    assert again.take(NEXT_EPOCH) == (RECEIPTS[CHALLENGES_MAX],)
    written(store, NEXT_EPOCH, (RECEIPTS[CHALLENGES_MAX],))
    assert again.take(NEXT_EPOCH) == ()


def test_what_an_earlier_bundle_took_does_not_come_back_when_its_votes_are_forgotten(store: Books) -> None:
    book = ChallengeBook(store)
    book.add(RECEIPTS[0])
    assert book.take(EPOCH) == (RECEIPTS[0],)
    store.put_document(votes_document(EPOCH), b"the bundle")
    assert book.take(NEXT_EPOCH) == ()
    store.forget_document(votes_document(EPOCH))
    assert ChallengeBook(store).take(EpochNumber(80)) == ()


@pytest.mark.parametrize("restarts", [False, True])
@pytest.mark.parametrize("has_result", [False, True])
def test_what_a_bundle_took_whose_epoch_has_no_result_is_challenged_in_the_next(
    store: Books, *, has_result: bool, restarts: bool
) -> None:
    asked: list[EpochNumber] = []

    def ask(epoch: EpochNumber, digests: Collection[Hash32]) -> Collection[Hash32] | None:
        asked.append(epoch)
        return digests if has_result else None

    book = ChallengeBook(store, ask)
    for signed in RECEIPTS[: CHALLENGES_MAX + 1]:
        book.add(signed)
    first = book.take(EPOCH)
    written(store, EPOCH, first)
    if restarts:
        book = ChallengeBook(store, ask)
    assert asked == []
    left = (RECEIPTS[CHALLENGES_MAX],)
    assert book.take(NEXT_EPOCH) == (left if has_result else first)
    written(store, NEXT_EPOCH, left if has_result else first)
    assert book.take(NEXT_EPOCH) == (() if has_result else left)
    assert asked == [EPOCH]


@pytest.mark.parametrize("passed", [VOTES_KEPT_EPOCHS - 1, VOTES_KEPT_EPOCHS])
def test_what_may_be_judged_so_long_ago_that_the_chain_does_not_tell_is_not_challenged_again(
    store: Books, passed: int
) -> None:
    book = ChallengeBook(store, no_result)
    book.add(RECEIPTS[0])
    book.add(RECEIPTS[1])
    taken = book.take(EPOCH)
    written(store, EPOCH, taken)
    assert book.take(EPOCH) == ()
    assert book.take(EpochNumber(EPOCH + passed)) == (taken if passed < VOTES_KEPT_EPOCHS else ())


def test_all_that_was_taken_for_an_epoch_comes_back(store: Books) -> None:
    """Also what a bundle took that could not be read after a restart, and the one made in its place."""
    book = ChallengeBook(store, no_result)
    for signed in RECEIPTS[: 2 * CHALLENGES_MAX]:
        book.add(signed)
    first = book.take(EPOCH)
    store.put_document(votes_document(EPOCH), b"of another version")
    second = book.take(EPOCH)
    assert in_order((*first, *second)) == in_order(RECEIPTS[: 2 * CHALLENGES_MAX])
    assert book.take(NEXT_EPOCH) == first
    written(store, NEXT_EPOCH, first)
    assert book.take(NEXT_EPOCH) == second


@pytest.mark.parametrize("restarts", [False, True])
def test_two_bundles_for_one_epoch_have_the_same_until_one_is_written(store: Books, *, restarts: bool) -> None:
    book = ChallengeBook(store)
    for signed in RECEIPTS[: CHALLENGES_MAX + 1]:
        book.add(signed)
    first = book.take(EPOCH)
    book.add(RECEIPTS[CHALLENGES_MAX + 1])
    if restarts:
        book = ChallengeBook(store)
    assert book.take(EPOCH) == first
    written(store, EPOCH, first)
    assert list(book.take(NEXT_EPOCH)) == in_order(RECEIPTS[CHALLENGES_MAX : CHALLENGES_MAX + 2])


def test_what_a_result_left_out_waits_behind_all_others_and_what_it_has_is_not_challenged_again(store: Books) -> None:
    judged = receipt_digest(RECEIPTS[0].receipt)
    book = ChallengeBook(store, lambda _, __: (judged,))
    for signed in RECEIPTS[: 2 * CHALLENGES_MAX - 1]:
        book.add(signed)
    written(store, EPOCH, book.take(EPOCH))
    second = book.take(NEXT_EPOCH)
    assert list(second) == in_order((*RECEIPTS[CHALLENGES_MAX : 2 * CHALLENGES_MAX - 1], RECEIPTS[1]))
    written(store, NEXT_EPOCH, second)
    assert list(book.take(EpochNumber(9))) == in_order((*RECEIPTS[2 : CHALLENGES_MAX + 2],))


def test_what_every_result_leaves_out_is_given_up_and_its_evidence_goes(store: Books) -> None:
    book, digest = ChallengeBook(store, left_out), receipt_digest(RECEIPTS[0].receipt)
    book.add(RECEIPTS[0])
    last = EPOCH - 1 + CHALLENGE_EPOCHS_MAX
    for epoch in range(EPOCH, last + 1):
        assert over(book, epoch - 1) == ()
        taken = book.take(EpochNumber(epoch))
        written(store, epoch, taken)
        assert taken == (RECEIPTS[0],), epoch
    assert book.take(EpochNumber(last + 1)) == ()
    assert over(book, last + EPOCHS_KEPT - 1) == ()
    assert over(book, last + EPOCHS_KEPT) == (digest,)


@pytest.mark.parametrize("judged", [no_result, left_out])
def test_what_a_bundle_left_out_because_of_a_fault_does_not_come_back_to_do_the_same(
    store: Books, judged: Judged
) -> None:
    book = ChallengeBook(store, judged)
    for signed in RECEIPTS[:2]:
        book.add(signed)
    book.take(EPOCH)
    written(store, EPOCH, ())
    assert book.take(NEXT_EPOCH) == ()


def test_a_bundle_that_was_never_written_is_not_asked_about(store: Books) -> None:
    book = ChallengeBook(store)
    book.add(RECEIPTS[0])
    assert book.take(EPOCH) == book.take(NEXT_EPOCH) == (RECEIPTS[0],)


FIRST, SECOND, THIRD = (receipt_digest(signed.receipt) for signed in RECEIPTS[:3])


@pytest.mark.parametrize(
    ("has_result", "is_here", "is_committed", "judged"),
    [
        (False, False, True, None),
        (True, True, True, {FIRST}),
        (True, True, False, {FIRST}),
        (True, False, True, {FIRST, SECOND, THIRD}),
        (True, False, False, set()),
    ],
)
def test_an_answer_is_judged_if_the_accepted_result_has_it(
    *, has_result: bool, is_here: bool, is_committed: bool, judged: set[Hash32] | None
) -> None:
    me = account(1)
    state = SimpleNamespace(
        results={EPOCH: "summary"} if has_result else {}, vote_bundles={EPOCH: {me: "cid"}} if is_committed else {}
    )
    outcomes = (
        SimpleNamespace(accused=(), challenged=(FIRST,)),
        SimpleNamespace(accused=(SECOND, THIRD), challenged=(THIRD, Hash32(b"x" * 32))),  # and perhaps not drawn
    )
    result = SimpleNamespace(audits=outcomes) if is_here else None
    chain, epochs = SimpleNamespace(account=me, state=state), SimpleNamespace(result=lambda epoch: result)
    found = judged_by_result(cast(Any, chain), cast(Any, epochs), EPOCH, (FIRST, SECOND, THIRD))
    assert (None if found is None else set(found)) == judged


def test_what_waits_is_bounded_and_the_oldest_goes(store: Books) -> None:
    book = ChallengeBook(store)
    for signed in RECEIPTS:
        book.add(signed)
    assert in_order(everything(store, ChallengeBook(store))) == in_order(RECEIPTS[-WAITING_MAX:])


def test_an_answer_that_is_named_twice_is_challenged_once(store: Books) -> None:
    book = ChallengeBook(store)
    assert [book.add(RECEIPTS[0]), book.add(RECEIPTS[1]), book.add(RECEIPTS[0])] == [0, 1, -1]
    assert book.take(EPOCH) == tuple(in_order(RECEIPTS[:2]))
    assert book.add(RECEIPTS[0]) == -1


def test_what_cannot_be_read_is_told_and_does_not_stop_the_daemon(store: Books) -> None:
    store.put_document(DOCUMENT, b"rubbish")
    with capture_logs() as lines:
        book = ChallengeBook(store)
    assert [line["log_level"] for line in lines] == ["warning"]
    book.add(RECEIPTS[0])
    assert ChallengeBook(store).take(EPOCH) == (RECEIPTS[0],)


def over(book: ChallengeBook, newest_result: int) -> tuple[Hash32, ...]:
    return book.over(EpochNumber(newest_result))


def test_what_was_judged_is_over_some_epochs_later_until_it_is_forgotten_also_over_a_restart(store: Books) -> None:
    book, digest = ChallengeBook(store), receipt_digest(RECEIPTS[0].receipt)
    book.add(RECEIPTS[0])
    assert over(book, EPOCH - 1) == ()
    book.take(EPOCH)
    store.put_document(votes_document(EPOCH), b"the bundle")
    book.take(NEXT_EPOCH)
    assert over(book, EPOCH + EPOCHS_KEPT - 1) == ()
    assert over(book, EPOCH + EPOCHS_KEPT) == (digest,)
    book = ChallengeBook(store)
    assert over(book, EPOCH + EPOCHS_KEPT) == (digest,)
    book.forgotten([digest])
    assert over(ChallengeBook(store), 1000) == ()


def test_what_no_bundle_takes_is_given_up_in_the_end(store: Books) -> None:
    book, digest = ChallengeBook(store), receipt_digest(RECEIPTS[0].receipt)
    book.add(RECEIPTS[0])
    assert over(book, EPOCH) == over(book, EPOCH + CHALLENGE_EPOCHS_MAX - 1) == ()
    assert over(book, EPOCH + CHALLENGE_EPOCHS_MAX) == (digest,)
    assert book.take(EpochNumber(100)) == ()


def test_what_had_no_room_to_wait_is_over_at_once(store: Books) -> None:
    book = ChallengeBook(store)
    for signed in RECEIPTS:
        book.add(signed)
    assert over(book, EPOCH) == tuple(receipt_digest(signed.receipt) for signed in RECEIPTS[:3])


def test_what_is_challenged_again_is_kept_anew(store: Books) -> None:
    book, digest = ChallengeBook(store), receipt_digest(RECEIPTS[0].receipt)
    book.add(RECEIPTS[0])
    written(store, EPOCH, book.take(EPOCH))
    book.take(NEXT_EPOCH)
    assert book.add(RECEIPTS[0]) == 0
    assert over(book, EPOCH + EPOCHS_KEPT) == ()
    book.take(EpochNumber(EPOCH + EPOCHS_KEPT))
    assert over(book, EPOCH + 2 * EPOCHS_KEPT) == (digest,)


def test_what_a_bundle_took_whose_epoch_has_no_result_is_not_what_a_full_book_drops(store: Books) -> None:
    book = ChallengeBook(store, no_result)
    for signed in RECEIPTS[:CHALLENGES_MAX]:
        book.add(signed)
    taken = book.take(EPOCH)
    written(store, EPOCH, taken)
    for signed in RECEIPTS[CHALLENGES_MAX:]:
        book.add(signed)
    assert book.take(NEXT_EPOCH) == taken
