"""Receipts left out of books: the payer's copy proves it, and nothing else does."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from node.protocol import omissions
from node.protocol.asking import ANSWER_EPOCHS_MAX, booked_under, is_of_its_time
from node.protocol.audit_outcomes import NO_BOOK, OMITTED, audit_outcomes
from node.protocol.audit_votes import AuditVoteError, check_audits
from node.protocol.codec import from_bytes, to_bytes
from node.protocol.due_books import BooksOfResult
from node.protocol.findings import CommittedBook, EarlierBook, MissingBook, ReceiptBook
from node.protocol.identifiers import EpochNumber, Hash32, NodeId, RequestId, TokenAmount
from node.protocol.omissions import (
    EMPTY_BOOK,
    OMISSIONS_MAX,
    SearchedBook,
    SearchedBooks,
    is_gap,
    is_misbooked,
    is_omitted,
    is_surplus,
    proven_omissions,
)
from node.protocol.pricing import receipt_digest
from node.protocol.receipt_books import NOBODY, BookRow, booked_row, make_book, order_rows, payer_bytes, row_leaf
from node.protocol.records import (
    Asking,
    BookGap,
    EpochGroup,
    EpochResult,
    Omission,
    RowProof,
    SignedReceipt,
    VoteBundle,
)
from node.protocol.verdicts import Verdict
from tests.builders import SOME_CID, account, unasked_row
from tests.unit.protocol.audited_group import SEEDS, WEIGHTS, band_of
from tests.unit.protocol.test_audit_evidence import ANSWER, ASKING, EXECUTOR, evidence_of

SIGNED = evidence_of().signed
DIGEST = receipt_digest(SIGNED.receipt)
ASKED = booked_under(SIGNED.receipt)
PAYER = payer_bytes(SIGNED.receipt.payer)


def row_of(digest: Hash32 = DIGEST, *, tokens: int = 2, payer: bytes = PAYER) -> BookRow:
    """The receipt's row, right but for what is given."""
    return BookRow(ASKED, digest, tokens, payer)


ROWS = order_rows([unasked_row(Hash32(bytes([n]) * 32), n) for n in range(0, 250, 25)])
WITH_IT = order_rows([*ROWS, row_of()])
Q = SIGNED.receipt.epoch
UNASKED = evidence_of(asking=None).signed
"""A receipt of the same answer, asked for by no request to its executor."""


def book(rows: tuple[BookRow, ...] = ROWS) -> ReceiptBook:
    return make_book(rows, SOME_CID) if rows else EMPTY_BOOK


def result(earlier: ReceiptBook, later: ReceiptBook, *, epoch: int = Q + 1) -> EpochResult:
    return EpochResult(
        EpochNumber(epoch),
        EpochGroup(EpochNumber(epoch + 1), (), ()),
        (),
        TokenAmount(0),
        books=(CommittedBook(EXECUTOR, later),),
        books_before=(EarlierBook(EXECUTOR, EpochNumber(epoch - 1), earlier),),
    )


def missing(due_from: int, due_before: int) -> MissingBook:
    return MissingBook(EXECUTOR, EpochNumber(due_from), EpochNumber(due_before))


def omission(earlier: tuple[BookRow, ...] = ROWS, later: tuple[BookRow, ...] = ROWS) -> Omission:
    first, second = SearchedBook(earlier).gap(ASKED), SearchedBook(later).gap(ASKED)
    assert first is not None
    assert second is not None
    return Omission(SIGNED, first, second)


@given(st.sets(st.integers(0, 2**256 - 1), max_size=12), st.integers(0, 2**256 - 1))
def test_whoever_is_not_in_a_book_has_a_gap_there_and_nobody_else(numbers: set[int], wanted: int) -> None:
    rows = order_rows([unasked_row(Hash32(n.to_bytes(32)), n % 100) for n in numbers])
    digest = Hash32(wanted.to_bytes(32))
    gap = SearchedBook(rows).gap(digest)
    assert (gap is None) == (wanted in numbers)
    if gap is not None:
        assert is_gap(gap, book(rows), digest)


def test_the_tree_over_a_book_is_built_once_however_many_receipts_are_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    built = []

    def counted(index: int, row: BookRow) -> Hash32:
        built.append(index)
        return row_leaf(index, row)

    monkeypatch.setattr(omissions, "row_leaf", counted)
    searched = SearchedBook(ROWS)
    assert searched.has(ROWS[3].asking)
    assert built == []
    for number in range(1, 25):
        assert searched.gap(Hash32(bytes([number]) * 32)) is not None
    assert len(built) == len(ROWS)


def test_a_receipt_in_neither_book_is_omitted_and_the_proof_survives_its_bytes() -> None:
    proof = from_bytes(Omission, to_bytes(omission()))
    assert is_omitted(proof, result(book(), book()))
    assert is_omitted(omission((), ()), result(EMPTY_BOOK, EMPTY_BOOK))


def test_a_receipt_in_one_of_them_is_not() -> None:
    assert SearchedBook(WITH_IT).gap(ASKED) is None
    for pair in ((book(WITH_IT), book()), (book(), book(WITH_IT))):
        assert not is_omitted(omission(), result(*pair))


def booked_as(tokens: int) -> tuple[BookRow, ...]:
    return order_rows([*ROWS, row_of(tokens=tokens)])


@pytest.mark.parametrize("tokens", [0, 1, 3])
def test_a_receipt_that_is_booked_with_other_tokens_than_it_has_is_as_good_as_omitted(tokens: int) -> None:
    wrong, nowhere = SearchedBook(booked_as(tokens)), SearchedBook(ROWS)
    row, gap = wrong.missing(SIGNED.receipt), nowhere.missing(SIGNED.receipt)
    assert row is not None
    assert gap is not None
    proof = from_bytes(Omission, to_bytes(Omission(SIGNED, row, gap)))
    assert is_omitted(proof, result(book(booked_as(tokens)), book()))
    assert is_omitted(Omission(SIGNED, gap, row), result(book(), book(booked_as(tokens))))
    assert not is_omitted(proof, result(book(WITH_IT), book()))
    assert not is_omitted(proof, result(book(booked_as(tokens)), book(WITH_IT)))
    assert row.before is not None
    forged = BookGap(replace(row.before, output_tokens=7), None)  # not what the book says
    assert not is_omitted(Omission(SIGNED, forged, gap), result(book(booked_as(tokens)), book()))


def proof_of(signed: SignedReceipt, earlier: tuple[BookRow, ...], later: tuple[BookRow, ...] = ROWS) -> Omission:
    """What a payer puts into its bundle, by its bytes."""
    first, second = (SearchedBook(rows).missing(signed.receipt) for rows in (earlier, later))
    assert first is not None
    assert second is not None
    return from_bytes(Omission, to_bytes(Omission(signed, first, second)))


@pytest.mark.parametrize("both", [True, False])
@pytest.mark.parametrize("payer", [payer_bytes(account(7)), payer_bytes(EXECUTOR), NOBODY])
def test_a_receipt_that_is_booked_as_another_payer_s_or_nobody_s_is_as_good_as_omitted(
    payer: bytes, both: bool
) -> None:
    """Else an executor moves what it cheated at out of the draws of the payers that have weight. Whether the payer
    signed the receipt does not matter: the executor did, for a request that was signed."""
    elsewhere = order_rows([*ROWS, row_of(payer=payer)])
    proof = proof_of(evidence_of(both=both).signed, elsewhere)
    assert is_omitted(proof, result(book(elsewhere), book()))
    assert is_omitted(replace(proof, earlier=proof.later, later=proof.earlier), result(book(), book(elsewhere)))
    assert proof.earlier.before is not None
    for name in {PAYER, NOBODY, payer_bytes(account(8)), b"", bytes(21)} - {payer}:  # not what the book says
        forged = BookGap(replace(proof.earlier.before, payer=name), None)
        assert not is_omitted(replace(proof, earlier=forged), result(book(elsewhere), book()))


def test_another_receipt_for_the_same_request_is_no_excuse() -> None:
    """An executor gives one answer and books another, which it takes from the model."""
    other = evidence_of(replace(ANSWER, output_ids=(6, 7))).signed
    assert booked_under(other.receipt) == ASKED
    instead = order_rows([*ROWS, booked_row(other)])
    assert is_omitted(proof_of(SIGNED, instead), result(book(instead), book()))
    assert not is_omitted(proof_of(SIGNED, instead), result(book(order_rows([*ROWS, booked_row(SIGNED)])), book()))


def test_a_receipt_of_a_request_that_is_booked_as_if_there_had_been_none_is_omitted() -> None:
    as_unasked = order_rows([*ROWS, unasked_row(DIGEST, 2, PAYER)])
    assert is_omitted(proof_of(SIGNED, as_unasked), result(book(as_unasked), book()))


@pytest.mark.parametrize("payer", [PAYER, NOBODY])
def test_where_no_request_was_signed_a_row_of_nobody_is_no_omission(payer: bytes) -> None:
    """When a payer signed a receipt is known to the two sides alone."""
    rightly = order_rows([*ROWS, unasked_row(receipt_digest(UNASKED.receipt), 2, payer)])
    searched = SearchedBook(rightly)
    assert searched.missing(UNASKED.receipt) is None
    own = searched._proof(next(n for n, row in enumerate(rightly) if row.output_tokens == 2))
    assert not is_misbooked(BookGap(own, None), book(rightly), UNASKED.receipt)


def test_where_no_request_was_signed_only_a_receipt_of_both_is_missed() -> None:
    assert is_omitted(proof_of(UNASKED, ROWS), result(book(), book()))
    assert not is_omitted(proof_of(replace(UNASKED, payer_signature=b""), ROWS), result(book(), book()))


asked_for = st.builds(
    lambda request_id, body, most: {
        "request_id": RequestId(request_id),
        "asking": Asking(EpochNumber(3), most, Hash32(body)),
    },
    *[st.binary(min_size=32, max_size=32)] * 2,
    st.integers(2, 9),
)


@settings(max_examples=25, deadline=None)
@given(st.lists(asked_for, min_size=1, max_size=6), st.sampled_from(["honest", "left out", "nobody's", "other"]))
def test_a_payer_proves_every_wrong_row_and_frames_nobody(asked: list[dict[str, object]], conduct: str) -> None:
    """Whatever was asked: who books as the rule says cannot be shown to have left anything out."""
    signed = list({booked_under(one.receipt): one for one in (evidence_of(**each).signed for each in asked)}.values())
    rows = [booked_row(one) for one in signed]
    match conduct:
        case "left out":
            rows = rows[1:]
        case "nobody's":
            rows[0] = replace(rows[0], payer=NOBODY)
        case "other":
            rows[0] = replace(rows[0], digest=Hash32(bytes(32)))
    booked = order_rows([*ROWS, *rows])
    books = result(book(booked), book())
    for place, one in enumerate(signed):
        is_wrong = place == 0 and conduct != "honest"
        assert SearchedBook(booked).books_rightly(one.receipt) is not is_wrong
        gap = SearchedBook(ROWS).missing(one.receipt)
        assert gap is not None
        shown = SearchedBook(booked).missing(one.receipt)
        found = [proof for row in range(len(booked)) if (proof := SearchedBook(booked)._proof(row)) is not None]
        gaps = [*map(BookGap, found, [*found[1:], None]), *(BookGap(proof, None) for proof in found)]
        tried = [shown, *gaps, BookGap(None, found[0]), gap]
        assert any(is_omitted(Omission(one, each, gap), books) for each in tried if each is not None) is is_wrong


def surplus(
    earlier: tuple[BookRow, ...], later: tuple[BookRow, ...], signed: SignedReceipt = SIGNED
) -> tuple[Omission, EpochResult]:
    """What the rows for a receipt's request look like in a proof, and the result with their books; of epoch Q + 1."""
    asking = booked_under(signed.receipt)
    rows = [SearchedBook(rows).row_for(asking) for rows in (earlier, later)]
    proof = from_bytes(Omission, to_bytes(Omission(signed, *rows)))
    return proof, result(book(earlier), book(later))


def test_what_was_asked_once_stands_in_one_book_only() -> None:
    """Else all of a payer's older answers, which were true, would share the draws of those that are false."""
    proof, books = surplus(WITH_IT, WITH_IT)
    assert is_surplus(proof, books)
    assert list(proven_omissions(books, {account(3): bundle(proof)})) == [DIGEST]
    for once in (surplus(ROWS, WITH_IT), surplus(WITH_IT, ROWS)):
        assert not is_surplus(*once)
    own, gap = SearchedBook(WITH_IT).row_for(ASKED), BookGap(None, None)
    elsewhere = SearchedBook(WITH_IT).row_for(ROWS[2].asking)
    assert own.before is not None
    for forged in (gap, elsewhere, BookGap(replace(own.before, index=0), None)):
        assert not is_surplus(Omission(SIGNED, forged, own), books)
        assert not is_surplus(Omission(SIGNED, own, forged), books)
    assert not is_surplus(proof, replace(books, books_before=()))
    assert not is_surplus(proof, replace(books, books=()))
    assert not is_surplus(replace(proof, signed=replace(SIGNED, signature=SIGNED.payer_signature)), books)


def test_what_was_asked_too_long_before_its_receipt_is_missed_by_nobody() -> None:
    """No payer takes such a receipt but one that wants to frame: no auditor would take its row."""
    for age, is_missed in ((ANSWER_EPOCHS_MAX, True), (ANSWER_EPOCHS_MAX + 1, False)):
        late = evidence_of(asking=replace(ASKING, epoch=EpochNumber(Q - age))).signed
        gap = SearchedBook(ROWS).missing(late.receipt)
        assert gap is not None
        assert is_of_its_time(late.receipt) is is_missed
        assert is_omitted(Omission(late, gap, gap), result(book(), book())) is is_missed
        searched = SearchedBooks(BooksOfResult(result(book(), book())), SearchedBook(ROWS), SearchedBook(ROWS))
        assert searched.is_wrong(late.receipt) is is_missed


def test_what_is_booked_after_the_book_that_had_to_have_it_is_surplus() -> None:
    proof, books = surplus(ROWS, WITH_IT)
    assert is_surplus(proof, result(book(ROWS), book(WITH_IT), epoch=Q + 2))
    assert is_surplus(replace(proof, earlier=None), result(book(ROWS), book(WITH_IT), epoch=Q + 9))
    for excused in (books, replace(books, epoch=EpochNumber(Q + 2)), replace(books, books_before=())):
        assert not is_surplus(proof, excused)  # the book before is of the receipt's own epoch, or there is none


@pytest.mark.parametrize("epoch", [Q, Q + 1, Q + 2, Q + 3])
def test_another_receipt_for_what_was_asked_is_surplus_in_whatever_epoch(epoch: int) -> None:
    other = evidence_of(replace(ANSWER, output_ids=(6, 7))).signed
    proof, books = surplus(ROWS, order_rows([*ROWS, booked_row(other)]))
    assert is_surplus(proof, replace(books, epoch=EpochNumber(epoch), books_before=()))


def test_where_no_request_was_signed_a_second_row_is_surplus_and_nothing_else() -> None:
    rows = order_rows([*ROWS, booked_row(UNASKED)])
    assert is_surplus(*surplus(rows, rows, UNASKED))
    proof, _ = surplus(ROWS, rows, UNASKED)
    assert not is_surplus(proof, result(book(ROWS), book(rows)))
    assert not is_surplus(proof, result(book(ROWS), book(rows), epoch=Q + 4))  # it may be answered long after


@settings(max_examples=30, deadline=None)
@given(st.data())
def test_an_executor_that_books_each_receipt_once_and_in_time_is_blamed_for_none(data: st.DataObject) -> None:
    """Down in whatever epochs: what has no counted book is booked in the next that has."""
    up = data.draw(st.lists(st.booleans(), min_size=5, max_size=5))
    signed, rows = [], {epoch: list(ROWS) for epoch in range(3, 8) if up[epoch - 3]}
    for number in range(data.draw(st.integers(1, 4))):
        epoch = EpochNumber(data.draw(st.integers(3, 7)))
        asking = Asking(epoch, 9, Hash32(bytes([number]) * 32))
        one = evidence_of(request_id=RequestId(bytes([number]) * 32), epoch=epoch, asking=asking).signed
        signed.append(one)
        in_time = [later for later in rows if later >= epoch + data.draw(st.integers(0, 1))]
        if in_time:
            rows[in_time[0]].append(booked_row(one))
    for epoch in range(4, 8):
        before = max((each for each in rows if each < epoch), default=None)
        earlier, later = (order_rows(rows[each]) if each in rows else None for each in (before, epoch))
        books = replace(result(book(), book(later or ROWS), epoch=epoch), books_before=())
        if before is not None and earlier is not None:
            books = replace(books, books_before=(EarlierBook(EXECUTOR, EpochNumber(before), book(earlier)),))
        if later is None:
            books = replace(books, books=())
        either = [None if rows_of is None else SearchedBook(rows_of) for rows_of in (earlier, later)]
        searched = SearchedBooks(BooksOfResult(books), *either)
        for one in signed:
            asking_of_one = booked_under(one.receipt)
            tried = [searched.proof(one)] if searched.is_wrong(one.receipt) else []
            tried.append(Omission(one, *(None if each is None else each.row_for(asking_of_one) for each in either)))
            assert not any(is_omitted(each, books) or is_surplus(each, books) for each in tried)


def test_a_receipt_that_is_rightly_booked_cannot_be_shown_to_be_booked_wrongly() -> None:
    assert SearchedBook(WITH_IT).missing(SIGNED.receipt) is None
    place = next(n for n, row in enumerate(WITH_IT) if row.asking == ASKED)
    own = SearchedBook(WITH_IT)._proof(place)
    assert not is_misbooked(BookGap(own, None), book(WITH_IT), SIGNED.receipt)
    other = SearchedBook(WITH_IT)._proof(place - 1)
    assert not is_misbooked(BookGap(other, None), book(WITH_IT), SIGNED.receipt)
    made_up = replace(SIGNED, receipt=replace(SIGNED.receipt, is_private=True))  # the executor never signed that
    assert not is_omitted(proof_of(made_up, WITH_IT), result(book(WITH_IT), book()))
    unasked = replace(SIGNED.receipt, asking=None)
    assert not is_misbooked(BookGap(own, None), book(WITH_IT), unasked)


def test_neighbours_that_are_none_prove_nothing() -> None:
    gap = SearchedBook(WITH_IT).gap(Hash32(bytes([0xFF]) * 32))
    assert gap is not None
    place = next(n for n, row in enumerate(WITH_IT) if row.asking == ASKED)
    around = [SearchedBook(WITH_IT).gap(Hash32(bytes(31) + b"\x01")), gap]
    wide = BookGap(around[0].before, gap.before)  # type: ignore[union-attr]
    assert not is_gap(wide, book(WITH_IT), ASKED)
    honest = SearchedBook(ROWS).gap(ASKED)
    assert honest is not None
    assert honest.before is not None
    assert honest.after is not None
    for forged in (
        BookGap(None, honest.after),
        BookGap(honest.before, None),
        BookGap(None, None),
        replace(honest, before=replace(honest.before, output_tokens=1)),
        replace(honest, before=replace(honest.before, index=honest.before.index - 1)),
        replace(honest, after=replace(honest.after, siblings=())),
        replace(honest, after=RowProof(place, ASKED, DIGEST, 2, PAYER, ())),
    ):
        assert not is_gap(forged, book(), ASKED)


def test_only_receipts_of_the_epoch_of_the_earlier_book_that_the_executor_signed_count() -> None:
    assert not is_omitted(omission(), result(book(), book(), epoch=Q))
    assert not is_omitted(omission(), result(book(), book(), epoch=Q + 2))
    for nobody_s in (b"", SIGNED.payer_signature):
        alone = replace(omission(), signed=replace(SIGNED, signature=nobody_s))
        assert not is_omitted(alone, result(book(), book()))


def test_who_has_no_book_yet_after_the_receipt_is_excused_once() -> None:
    known = replace(result(book(), book()), books=())
    alone = replace(omission(), later=None)
    for proof in (omission(), alone, Omission(SIGNED, None, None)):
        assert not is_omitted(proof, known)
        assert not is_omitted(proof, replace(known, books_missing=(missing(0, 0),)))
    later = replace(known, epoch=EpochNumber(Q + 2), books_missing=(missing(0, Q + 2),))
    assert is_omitted(alone, later)
    assert not is_omitted(omission(), later)  # a gap in a book that is not there
    assert not is_omitted(Omission(SIGNED, None, None), later)  # the book of its epoch may have it
    assert not is_omitted(alone, replace(later, books_missing=(missing(Q + 1, Q + 2),)))  # decided before


def test_who_had_no_book_of_the_receipt_s_epoch_has_it_in_the_first_one_after() -> None:
    known = replace(
        result(book(), book(), epoch=Q + 4), books_before=(EarlierBook(EXECUTOR, EpochNumber(Q - 1), book()),)
    )
    alone = replace(omission(), earlier=None)
    assert is_omitted(alone, known)
    assert is_omitted(alone, replace(known, books_before=()))
    assert not is_omitted(omission(), known)  # no book but the later one is asked for
    assert not is_omitted(alone, replace(known, books=(CommittedBook(EXECUTOR, book(WITH_IT)),)))


def test_after_two_results_without_a_book_a_receipt_proves_itself() -> None:
    known = replace(result(book(), book(), epoch=Q + 1), books=(), books_missing=(missing(0, Q + 1),))
    known = replace(known, books_before=(EarlierBook(EXECUTOR, EpochNumber(Q - 1), book()),))
    alone = from_bytes(Omission, to_bytes(Omission(SIGNED, None, None)))
    assert is_omitted(alone, known)
    check_audits(bundle(alone))
    for unsigned in (replace(UNASKED, payer_signature=b""), replace(SIGNED, signature=b"")):
        assert not is_omitted(replace(alone, signed=unsigned), known)
    assert not is_omitted(alone, replace(known, books_missing=(replace(missing(0, Q + 1), executor=account(9)),)))
    (found,) = audit_outcomes(known, SEEDS, {account(3): bundle(alone)}, WEIGHTS, band_of)
    assert (found.executor, found.withheld, found.reason) == (EXECUTOR, 1, NO_BOOK)


def bundle(*omissions: Omission) -> VoteBundle:
    return VoteBundle(EpochNumber(Q + 2), account(3), (), omissions=omissions)


def test_an_omission_counts_as_withheld_once_however_many_prove_it() -> None:
    bundles = {account(3): bundle(omission()), account(4): replace(bundle(omission()), validator=account(4))}
    previous = result(book(()), book(()))
    assert proven_omissions(previous, bundles) == {}  # gaps of another book
    previous = replace(result(book(), book()), books=(CommittedBook(EXECUTOR, replace(book(), output_tokens=0)),))
    assert list(proven_omissions(previous, bundles)) == [DIGEST]
    (found,) = audit_outcomes(previous, SEEDS, bundles, WEIGHTS, band_of)
    assert (found.executor, found.withheld, found.reason) == (EXECUTOR, 1, OMITTED)
    assert found.fate is Verdict.ABSTAIN


def test_an_omitted_receipt_with_too_long_a_name_voids_its_bundle() -> None:
    named = evidence_of(node_id=NodeId("n" * 33)).signed
    with pytest.raises(AuditVoteError, match="too long a name"):
        check_audits(bundle(replace(omission(), signed=named)))


def test_too_many_or_unordered_omissions_void_a_bundle() -> None:
    check_audits(bundle(omission()))
    for wrong in ((omission(), omission()), (omission(),) * (OMISSIONS_MAX + 1)):
        with pytest.raises(AuditVoteError, match="omissions"):
            check_audits(bundle(*wrong))
    deep = omission()
    assert deep.earlier.before is not None
    tall = replace(deep.earlier.before, siblings=(Hash32(bytes(32)),) * 19)
    with pytest.raises(AuditVoteError, match="levels"):
        check_audits(bundle(replace(deep, earlier=replace(deep.earlier, before=tall))))
