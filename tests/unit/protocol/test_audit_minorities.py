"""Where honest auditors have nothing to judge, a minority of those drawn neither helps an executor nor slanders it.

An answer that is drawn again is judged under its first number, and a private one by nobody. If honest auditors were
silent there, one hostile auditor would be all there is, and a small payer's few answers are drawn again and again.
"""

from collections.abc import Iterable, Mapping, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from node.protocol.audit_majorities import DRAWN_AGAIN, NOTHING_TO_JUDGE
from node.protocol.audit_outcomes import audit_outcomes
from node.protocol.audit_sampling import AuditSeeds, auditors_of, drawn_rows, draws_of
from node.protocol.findings import AUDIT_TOKENS_MAX, AuditFigures, AuditOutcome, AuditVote, CommittedBook, ReceiptBook
from node.protocol.identifiers import Address, Hash32
from node.protocol.receipt_books import BookRow, make_book, order_rows, payer_bytes
from tests.builders import SOME_CID, account
from tests.unit.protocol.audited_group import (
    BAD,
    BOOK,
    EXECUTOR,
    GOOD,
    GROUP,
    MILD,
    SEED,
    SEEDS,
    WEIGHTS,
    band_of,
    bundles_of,
    judged,
    minority_of,
    missing,
    previous,
)
from tests.unit.protocol.test_diluted_books import STRANGER, rows_of

LONG = AuditFigures(AUDIT_TOKENS_MAX, 0, 0, 0, 0, 0, 100_000_000)
"""So many tokens without a fault make up for many that have some."""
ROW_DRAWS = (10, 11)
"""Of BOOK."""
Cast = dict[tuple[Address, int], AuditVote]
"""By auditor and draw."""

what = st.sampled_from(["good", "bad", "long", "withheld", "not-the-book", "no-time", "private", "absent"])
seeds = st.integers(0, 1 << 64).map(lambda number: Hash32(number.to_bytes(32)))


def outcomes(cast: Cast, book: ReceiptBook = BOOK, seed: Hash32 = SEED) -> tuple[AuditOutcome, ...]:
    votes: dict[Address, list[AuditVote]] = {}
    for (auditor, _), vote in cast.items():
        votes.setdefault(auditor, []).append(vote)
    known = previous(books=(CommittedBook(EXECUTOR, book),))
    return audit_outcomes(known, AuditSeeds(seed, SEEDS.lot), bundles_of(votes), WEIGHTS, band_of)


def lied(cast: Cast, draws: Iterable[int], said: Sequence[str], seed: Hash32 = SEED) -> Cast:
    """Return the votes with two of five seats of each of `draws` saying what they like."""
    changed = dict(cast)
    for draw in draws:
        for place, word in zip(((auditor, draw) for auditor in minority_of(draw, seed)), said, strict=False):
            figures: Mapping[str, AuditFigures] = {"good": GOOD, "bad": BAD, "long": LONG}
            invented = Hash32(b"\xff" * 30 + draw.to_bytes(2))
            if word == "absent":
                del changed[place]
            elif word in figures:
                changed[place] = judged(draw, figures[word], invented)
            else:
                changed[place] = missing(draw, word)
    return changed


def with_repeats(seed: Hash32, figures: AuditFigures) -> tuple[ReceiptBook, Cast, list[int]]:
    """Return a book in which one member paid for a few answers, honest votes on it, and which draws are repeats."""
    rows = order_rows((*rows_of(payer_bytes(account(2)), 2), *rows_of(STRANGER, 1000, 1000)))
    book = make_book(rows, SOME_CID)
    drawn: Mapping[int, BookRow] = drawn_rows(seed, EXECUTOR, book, rows, GROUP)
    cast: Cast = {}
    for draw in range(draws_of(book)):
        for auditor in auditors_of(seed, EXECUTOR, draw, GROUP):
            row = drawn.get(draw)
            vote = missing(draw, DRAWN_AGAIN) if row is None else judged(draw, figures, row.digest)
            cast[auditor, draw] = vote
    return book, cast, [draw for draw in range(draws_of(book)) if draw not in drawn]


def of_private(reason: str) -> Cast:
    """Honest votes on a book whose draws of rows fall on answers that nobody can judge."""
    return {
        (auditor, draw): missing(draw, reason) if draw in ROW_DRAWS else judged(draw, MILD)
        for draw in range(draws_of(BOOK))
        for auditor in auditors_of(SEED, EXECUTOR, draw, GROUP)
    }


@settings(max_examples=60, deadline=None)
@given(seeds, st.sampled_from([GOOD, MILD, BAD]), st.tuples(what, what))
def test_a_minority_changes_nothing_at_draws_that_repeat(
    seed: Hash32, figures: AuditFigures, said: tuple[str, str]
) -> None:
    book, cast, repeats = with_repeats(seed, figures)
    assert repeats
    honest = outcomes(cast, book, seed)
    assert sum(found.answers for found in honest) == draws_of(book) - len(repeats)
    assert outcomes(lied(cast, repeats, said, seed), book, seed) == honest


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(sorted(NOTHING_TO_JUDGE)), st.tuples(what, what))
def test_a_minority_changes_nothing_where_the_receipt_says_that_there_is_nothing_to_judge(
    reason: str, said: tuple[str, str]
) -> None:
    cast = of_private(reason)
    assert outcomes(lied(cast, ROW_DRAWS, said)) == outcomes(cast)


@pytest.mark.parametrize("reason", sorted(NOTHING_TO_JUDGE))
def test_a_friend_alone_at_a_private_answer_neither_clears_nor_slanders(reason: str) -> None:
    """One vote on an answer that nobody else could read once took 59 bits to 0, and can add as many."""
    cast = of_private(reason)
    (honest,) = outcomes(cast)
    assert max(honest.evidence) > 0
    for figures in (LONG, BAD):
        assert outcomes(lied(cast, ROW_DRAWS, ("bad" if figures is BAD else "long", "absent"))) == (honest,)


@pytest.mark.parametrize("reason", sorted(NOTHING_TO_JUDGE))
def test_a_minority_that_says_there_is_nothing_to_judge_hides_no_answer(reason: str) -> None:
    cast = {
        (auditor, draw): judged(draw, BAD)
        for draw in range(draws_of(BOOK))
        for auditor in auditors_of(SEED, EXECUTOR, draw, GROUP)
    }
    assert outcomes(lied(cast, range(draws_of(BOOK)), (reason, reason))) == outcomes(cast)


@pytest.mark.parametrize("reason", ["no-model", "no-time", "engine-failed"])
def test_an_auditor_that_could_not_judge_is_no_vote_against_those_who_did(reason: str) -> None:
    cast = of_private(reason)
    judging = auditors_of(SEED, EXECUTOR, ROW_DRAWS[0], GROUP)[0]
    cast[judging, ROW_DRAWS[0]] = judged(ROW_DRAWS[0], BAD)
    assert sum(found.answers for found in outcomes(cast)) == ROW_DRAWS[0] + 1
