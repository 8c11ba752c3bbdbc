"""When an executor had to have a receipt in a book: whatever bundles and results are missing, the honest are not blamed
for it, and who leaves a receipt out is.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from node.protocol.due_books import BOOKS_REMEMBERED_EPOCHS, BooksOfResult, books_before, missing_books
from node.protocol.findings import CommittedBook, EarlierBook, MissingBook, ReceiptBook
from node.protocol.identifiers import Cid, EpochNumber, Hash32, TokenAmount
from node.protocol.records import EpochGroup, EpochResult, Receipt
from tests.builders import account
from tests.unit.protocol.test_audit_evidence import ANSWER, EXECUTOR, receipt_for

Given = tuple[int, bool]
"""A receipt: its epoch, and whether it was given after the book of that epoch was made."""


@dataclass(frozen=True)
class Epoch:
    """What happens in one."""

    has_result: bool
    has_weight: bool
    has_bundle: bool
    """That is counted, if there is a result, and the member has weight."""


@dataclass(frozen=True)
class Decided:
    """What one result says of the executor."""

    result: EpochResult
    books: dict[ReceiptBook, frozenset[Given]]
    """What its books have, by what stands for them in results."""

    def omits(self, wanted: Given) -> bool:
        due = BooksOfResult(self.result).due(receipt(wanted[0]))
        if due is None:
            return False
        return all(wanted not in self.books[book] for book in (due.earlier, due.later) if book is not None)


def receipt(epoch: int) -> Receipt:
    return replace(receipt_for(ANSWER), epoch=EpochNumber(epoch))


def book_number(number: int) -> ReceiptBook:
    return ReceiptBook(1, number, Hash32(number.to_bytes(32)), Cid(""))


def live_through(history: Sequence[Epoch], hidden: frozenset[Given] = frozenset()) -> list[Decided]:
    """Return all results while an executor gives two receipts in each epoch, and books all but those `hidden`."""
    previous: EpochResult | None = None
    waiting: set[Given] = set()
    books: dict[ReceiptBook, frozenset[Given]] = {}
    decided = []
    for number, epoch in enumerate(history):
        waiting.add((number, False))
        own = book_number(number)
        books[own] = frozenset(waiting - hidden)
        if epoch.has_result:
            is_counted = epoch.has_bundle and epoch.has_weight
            previous = EpochResult(
                EpochNumber(number),
                EpochGroup(EpochNumber(number + 1), (), ()),
                (),
                TokenAmount(0),
                books=(CommittedBook(EXECUTOR, own),) if is_counted else (),
                books_before=books_before(EpochNumber(number), previous),
                books_missing=missing_books(
                    previous, [EXECUTOR] if is_counted else [], {EXECUTOR: int(epoch.has_weight)}, [EXECUTOR]
                ),
            )
            waiting = set() if is_counted else waiting
            decided.append(Decided(previous, books))
        waiting.add((number, True))
    return decided


epochs = st.builds(Epoch, st.booleans(), st.booleans(), st.booleans())
histories = st.lists(epochs, min_size=1, max_size=14)
EVERYTHING = [(number, is_late) for number in range(14) for is_late in (False, True)]


def missed_twice(history: Sequence[Epoch]) -> bool:
    """Whether two results running lack a book of a member that had weight in both."""
    results = [epoch for epoch in history if epoch.has_result]
    return any(
        first.has_weight and second.has_weight and not first.has_bundle and not second.has_bundle
        for first, second in pairwise(results)
    )


@given(histories)
def test_an_honest_executor_that_never_misses_two_results_running_omits_nothing(history: list[Epoch]) -> None:
    """Whatever epochs have no result, and whenever it joins, leaves or is without weight."""
    if missed_twice(history):
        return
    assert not any(result.omits(wanted) for result in live_through(history) for wanted in EVERYTHING)


@given(histories)
def test_who_misses_two_is_blamed_for_what_was_due_in_both_and_once(history: list[Epoch]) -> None:
    decided = live_through(history)
    for wanted in EVERYTHING:
        blamed = [one.result for one in decided if one.omits(wanted)]
        for result in blamed:
            assert result.books == ()
            earlier = max(one.result.epoch for one in decided if one.result.epoch < result.epoch)
            assert wanted[0] <= earlier
            for number in (earlier, result.epoch):
                assert history[number].has_weight
                assert not history[number].has_bundle
        runs = [result.epoch for result in blamed]
        # A stay without weight begins the count anew; while it goes on, each receipt is blamed once.
        between = [history[number].has_weight for number in range(runs[0], runs[-1] + 1)] if runs else []
        assert len(runs) <= 1 or not all(between)


@given(histories, st.sampled_from(EVERYTHING))
def test_whoever_books_a_receipt_nowhere_is_found_by_the_first_result_that_decides(
    history: list[Epoch], wanted: Given
) -> None:
    decided = live_through(history, frozenset({wanted}))
    blaming = [one.result.epoch for one in decided if one.omits(wanted)]
    after = [one.result for one in decided if one.result.epoch > wanted[0]]
    with_book = [result.epoch for result in after if result.books]
    if with_book and with_book[0] - wanted[0] <= BOOKS_REMEMBERED_EPOCHS:
        assert with_book[0] in blaming
    assert not any(number in blaming for number in with_book[1:])  # and by no other
    in_time = [result for result in after if result.epoch - wanted[0] <= BOOKS_REMEMBERED_EPOCHS]
    due = [one for result in in_time for one in result.books_missing if one.due_from <= wanted[0] < one.due_before]
    assert blaming or not due


def test_hiding_a_bundle_postpones_and_hiding_two_is_found() -> None:
    shown, hidden, empty = Epoch(True, True, True), Epoch(True, True, False), Epoch(False, True, True)
    early, late = (1, False), (1, True)
    cases: list[tuple[list[Epoch], Given, list[int]]] = [
        ([shown, shown, hidden, shown], early, [3]),  # a gap in its own book and in the next one that there is
        ([shown, shown, hidden, shown], late, [3]),
        ([shown, hidden, shown, shown], early, [2]),
        ([shown, hidden, hidden, shown], early, [2, 3]),  # shown without it: once more
        ([shown, hidden, hidden, hidden, hidden], early, [2]),
        ([shown, hidden, empty, hidden, shown], early, [3, 4]),
        ([shown, hidden, empty, shown], early, [3]),
        ([shown, empty, empty, shown, shown], late, [3]),
        ([shown, shown, shown, shown], early, [2]),
    ]
    for history, wanted, blaming in cases:
        decided = live_through(history, frozenset({wanted}))
        assert [one.result.epoch for one in decided if one.omits(wanted)] == blaming


def test_who_has_weight_in_the_second_result_only_owes_nothing_yet() -> None:
    joins = [Epoch(True, False, False), Epoch(True, True, False), Epoch(True, False, False), Epoch(True, True, False)]
    assert not any(one.omits(wanted) for one in live_through(joins) for wanted in EVERYTHING)


def test_who_was_not_there_in_the_second_epoch_either_is_not_blamed_for_its_outage() -> None:
    """Its batch of the first was accepted; it went before the votes, and came back after those of the second."""
    weights, first = {EXECUTOR: 5}, MissingBook(EXECUTOR, EpochNumber(0), EpochNumber(0))
    once = EpochResult(EpochNumber(3), EpochGroup(EpochNumber(4), (), ()), (), TokenAmount(0), books_missing=(first,))
    assert missing_books(once, [], weights, []) == (first,)
    assert missing_books(once, [], weights, [EXECUTOR]) == (MissingBook(EXECUTOR, EpochNumber(0), EpochNumber(4)),)


def test_a_result_remembers_so_many_epochs_and_says_who_is_missing_in_order() -> None:
    newest: EpochResult | None = None
    weights = {account(number): number % 3 for number in range(1, 9)}
    for number in range(BOOKS_REMEMBERED_EPOCHS + 3):
        counted = [account(1), account(7)] if number == 1 else [account(4)]
        newest = EpochResult(
            EpochNumber(number),
            EpochGroup(EpochNumber(number + 1), (), ()),
            (),
            TokenAmount(0),
            books=tuple(CommittedBook(executor, book_number(number)) for executor in counted),
            books_before=books_before(EpochNumber(number), newest),
            books_missing=missing_books(newest, counted, weights, weights),
        )
        known = {(before.executor, before.epoch) for before in newest.books_before}
        assert (account(4), EpochNumber(number - 1)) in known or number in (0, 2)
        assert ((account(1), EpochNumber(1)) in known) is (1 < number <= 1 + BOOKS_REMEMBERED_EPOCHS)
        owing = [account(number) for number in range(1, 9) if number % 3 and account(number) not in counted]
        for listed in (newest.books_before, newest.books_missing):
            names = [entry.executor.lower() for entry in listed]
            assert names == sorted(names)
        assert {entry.executor for entry in newest.books_missing} == set(owing)
    assert newest is not None
    assert MissingBook(account(2), EpochNumber(newest.epoch - 1), newest.epoch) in newest.books_missing
    assert BooksOfResult(newest).newest(account(4)) == EarlierBook(account(4), newest.epoch, book_number(newest.epoch))
    assert BooksOfResult(newest).newest(account(1)) is None
