"""Receipts left out of books: the payer's copy proves it, and nothing else does."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.protocol import omissions
from node.protocol.audit_outcomes import NO_BOOK, OMITTED, audit_outcomes
from node.protocol.audit_votes import AuditVoteError, check_audits
from node.protocol.codec import from_bytes, to_bytes
from node.protocol.findings import CommittedBook, EarlierBook, MissingBook, ReceiptBook
from node.protocol.identifiers import Address, EpochNumber, Hash32, NodeId, TokenAmount
from node.protocol.omissions import (
    EMPTY_BOOK,
    OMISSIONS_MAX,
    SearchedBook,
    is_gap,
    is_misbooked,
    is_omitted,
    proven_omissions,
)
from node.protocol.pricing import receipt_digest
from node.protocol.receipt_books import NOBODY, BookRow, make_book, order_rows, payer_bytes, row_leaf
from node.protocol.records import BookGap, EpochGroup, EpochResult, Omission, RowProof, VoteBundle
from node.protocol.verdicts import Verdict
from tests.builders import SOME_CID, account
from tests.unit.protocol.test_audit_evidence import EXECUTOR, evidence_of
from tests.unit.protocol.test_audit_outcomes import SEEDS, WEIGHTS, band_of

SIGNED = evidence_of().signed
DIGEST = receipt_digest(SIGNED.receipt)
ROWS = order_rows([BookRow(Hash32(bytes([n]) * 32), n) for n in range(0, 250, 25)])
WITH_IT = order_rows([*ROWS, BookRow(DIGEST, 2)])
Q = SIGNED.receipt.epoch


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
    first, second = SearchedBook(earlier).gap(DIGEST), SearchedBook(later).gap(DIGEST)
    assert first is not None
    assert second is not None
    return Omission(SIGNED, first, second)


@given(st.sets(st.integers(0, 2**256 - 1), max_size=12), st.integers(0, 2**256 - 1))
def test_whoever_is_not_in_a_book_has_a_gap_there_and_nobody_else(numbers: set[int], wanted: int) -> None:
    rows = order_rows([BookRow(Hash32(n.to_bytes(32)), n % 100) for n in numbers])
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
    assert searched.has(ROWS[3].digest)
    assert built == []
    for number in range(1, 25):
        assert searched.gap(Hash32(bytes([number]) * 32)) is not None
    assert len(built) == len(ROWS)


def test_a_receipt_in_neither_book_is_omitted_and_the_proof_survives_its_bytes() -> None:
    proof = from_bytes(Omission, to_bytes(omission()))
    assert is_omitted(proof, result(book(), book()))
    assert is_omitted(omission((), ()), result(EMPTY_BOOK, EMPTY_BOOK))


def test_a_receipt_in_one_of_them_is_not() -> None:
    assert SearchedBook(WITH_IT).gap(DIGEST) is None
    for pair in ((book(WITH_IT), book()), (book(), book(WITH_IT))):
        assert not is_omitted(omission(), result(*pair))


def booked_as(tokens: int) -> tuple[BookRow, ...]:
    return order_rows([*ROWS, BookRow(DIGEST, tokens)])


@pytest.mark.parametrize("tokens", [0, 1, 3])
def test_a_receipt_that_is_booked_with_other_tokens_than_it_has_is_as_good_as_omitted(tokens: int) -> None:
    wrong, nowhere = SearchedBook(booked_as(tokens)), SearchedBook(ROWS)
    row, gap = wrong.missing(DIGEST, SIGNED.receipt), nowhere.missing(DIGEST, SIGNED.receipt)
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


@pytest.mark.parametrize("payer", [account(7), EXECUTOR])
def test_a_receipt_that_is_booked_as_another_payer_s_is_as_good_as_omitted(payer: Address) -> None:
    """Else an executor moves what it cheated at out of the draws of the payers that have weight."""
    elsewhere = order_rows([*ROWS, BookRow(DIGEST, 2, payer_bytes(payer))])
    row = SearchedBook(elsewhere).missing(DIGEST, SIGNED.receipt)
    gap = SearchedBook(ROWS).missing(DIGEST, SIGNED.receipt)
    assert row is not None
    assert gap is not None
    proof = from_bytes(Omission, to_bytes(Omission(SIGNED, row, gap)))
    assert is_omitted(proof, result(book(elsewhere), book()))
    assert row.before is not None
    for name in (payer_bytes(SIGNED.receipt.payer), NOBODY, b"", bytes(21)):  # not what the book says
        forged = BookGap(replace(row.before, payer=name), None)
        assert not is_omitted(Omission(SIGNED, forged, gap), result(book(elsewhere), book()))


@pytest.mark.parametrize("payer", [payer_bytes(SIGNED.receipt.payer), NOBODY])
def test_a_receipt_that_is_booked_as_its_payer_s_or_as_unsigned_is_no_omission(payer: bytes) -> None:
    """When a payer signed is known to the two sides alone."""
    rightly = order_rows([*ROWS, BookRow(DIGEST, 2, payer)])
    searched = SearchedBook(rightly)
    assert searched.missing(DIGEST, SIGNED.receipt) is None
    assert searched.names_nobody(DIGEST) is (payer == NOBODY)
    own = searched._proof(next(n for n, row in enumerate(rightly) if row.digest == DIGEST))
    assert not is_misbooked(BookGap(own, None), book(rightly), DIGEST, SIGNED.receipt)


def test_a_receipt_that_is_rightly_booked_cannot_be_shown_to_be_booked_wrongly() -> None:
    assert SearchedBook(WITH_IT).missing(DIGEST, SIGNED.receipt) is None
    place = next(n for n, row in enumerate(WITH_IT) if row.digest == DIGEST)
    own = SearchedBook(WITH_IT)._proof(place)
    assert not is_misbooked(BookGap(own, None), book(WITH_IT), DIGEST, SIGNED.receipt)
    other = SearchedBook(WITH_IT)._proof(place - 1)
    assert not is_misbooked(BookGap(other, None), book(WITH_IT), DIGEST, SIGNED.receipt)
    private = replace(SIGNED.receipt, is_private=True)
    assert not is_misbooked(BookGap(own, None), book(WITH_IT), receipt_digest(private), private)


def test_neighbours_that_are_none_prove_nothing() -> None:
    gap = SearchedBook(WITH_IT).gap(Hash32(bytes([0xFF]) * 32))
    assert gap is not None
    place = next(n for n, row in enumerate(WITH_IT) if row.digest == DIGEST)
    around = [SearchedBook(WITH_IT).gap(Hash32(bytes(31) + b"\x01")), gap]
    wide = BookGap(around[0].before, gap.before)  # type: ignore[union-attr]
    assert not is_gap(wide, book(WITH_IT), DIGEST)
    honest = SearchedBook(ROWS).gap(DIGEST)
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
        replace(honest, after=RowProof(place, DIGEST, 2, NOBODY, ())),
    ):
        assert not is_gap(forged, book(), DIGEST)


def test_only_receipts_of_the_epoch_of_the_earlier_book_with_both_signatures_count() -> None:
    assert not is_omitted(omission(), result(book(), book(), epoch=Q))
    assert not is_omitted(omission(), result(book(), book(), epoch=Q + 2))
    alone = replace(omission(), signed=replace(SIGNED, payer_signature=b""))
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
    for unsigned in (replace(SIGNED, payer_signature=b""), replace(SIGNED, signature=b"")):
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
