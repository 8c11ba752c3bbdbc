"""What audits come to: five auditors accuse, the whole group convicts, and no minority can do either alone."""

import random
from dataclasses import replace

import pytest

from node.protocol.audit_majorities import WITHHELD
from node.protocol.audit_outcomes import ACCUSED, ACCUSED_MAX, NOT_AUDITED, UNCONFIRMED, audit_outcomes, committed_books
from node.protocol.audit_sampling import DRAWS_MAX, auditors_of, draws_of
from node.protocol.audit_votes import REJUDGED, audit_order, check_audits
from node.protocol.audits import Test as AuditTest
from node.protocol.codec import from_bytes, to_bytes
from node.protocol.findings import (
    AUDIT_ANSWERS_SUMMED_MAX,
    AUDIT_SUM_MICRO_MAX,
    AUDIT_TOKENS_MAX,
    AuditFigures,
    AuditOutcome,
    AuditVote,
    ModelWeight,
)
from node.protocol.identifiers import Address, Hash32
from node.protocol.records import VoteBundle
from node.protocol.vector_audits import VECTORS, figures_of, vector_band
from node.protocol.verdicts import Verdict
from tests.builders import TINY, account
from tests.unit.protocol.audited_group import (
    BAD,
    BAND,
    BOOK,
    DRAWS,
    EXECUTOR,
    GOOD,
    GROUP,
    MILD,
    SEED,
    SEEDS,
    WEIGHTS,
    band_of,
    bundles_of,
    by_auditors,
    digest_of,
    judged,
    judged_again,
    minority_of,
    missing,
    outcome,
    previous,
    votes_on_draws,
    with_judges,
)


def test_honest_answers_are_found_valid_and_leave_no_evidence() -> None:
    found = outcome(by_auditors(GOOD))
    assert (found.fate, found.reason, found.withheld, found.evidence, found.accused) == (Verdict.VALID, "", 0, (), ())
    assert (found.answers, found.tokens) == (DRAWS, 100 * DRAWS)


def test_auditors_accuse_and_the_group_convicts() -> None:
    accused = outcome(by_auditors(BAD))
    assert (accused.fate, accused.reason) == (Verdict.ABSTAIN, ACCUSED)
    assert len(accused.accused) == DRAWS
    proven = outcome(judged_again(accused, dict.fromkeys(range(2, 10), BAD)), accused)
    assert proven.fate is Verdict.INVALID
    assert proven.reason in (AuditTest.MISMATCH.value, AuditTest.MARGIN.value)
    assert proven.evidence == ()  # what was punished is not punished again


def test_vectors_go_the_same_way_and_the_verdict_says_what_they_are() -> None:
    band = vector_band(replace(BAND, poc_distance_max=100_000))
    junk, honest = (figures_of([distance] * 2, 100_000) for distance in (10**9, 300_000))
    models = tuple(replace(model, model_args=("--runner", "pooling")) for model in GROUP.models)
    group = replace(GROUP, models=models)

    def outcomes(bundles: dict[Address, VoteBundle], *before: AuditOutcome) -> tuple[AuditOutcome, ...]:
        known = replace(previous(*before, books=() if before else None), group=group)
        return audit_outcomes(known, SEEDS, bundles, WEIGHTS, lambda *_: band)

    (accused,) = outcomes(by_auditors(junk))  # two vectors of each answer: together they accuse
    assert (accused.reason, accused.tokens) == (ACCUSED, 2 * DRAWS)
    (proven,) = outcomes(judged_again(accused, dict.fromkeys(range(2, 10), junk)), accused)
    assert (proven.fate, proven.reason) == (Verdict.INVALID, VECTORS)
    assert outcomes(judged_again(accused, dict.fromkeys(range(2, 10), honest)), accused) == ()
    (found,) = outcomes(by_auditors(honest))
    assert (found.fate, found.evidence) == (Verdict.VALID, ())


def test_the_group_overturns_what_auditors_were_bribed_to_say() -> None:
    accused = outcome(by_auditors(BAD))
    cartel = dict.fromkeys((2, 3), BAD)
    assert (
        audit_outcomes(
            previous(accused, books=()),
            SEEDS,
            judged_again(accused, dict.fromkeys(range(4, 10), GOOD) | cartel),
            WEIGHTS,
            band_of,
        )
        == ()
    )  # nothing left to say of it


def test_a_third_of_the_weight_neither_convicts_nor_acquits() -> None:
    accused = outcome(by_auditors(BAD))
    cartel = (2, 3, 4)
    honest = range(5, 10)
    acquitted = judged_again(accused, dict.fromkeys(honest, GOOD) | dict.fromkeys(cartel, BAD))
    assert audit_outcomes(previous(accused, books=()), SEEDS, acquitted, WEIGHTS, band_of) == ()
    convicted = judged_again(accused, dict.fromkeys(honest, BAD) | dict.fromkeys(cartel, GOOD))
    assert outcome(convicted, accused).fate is Verdict.INVALID


def test_votes_of_members_who_were_not_drawn_do_not_count() -> None:
    bundles = by_auditors(GOOD)
    for number in range(2, 10):
        validator = account(number)
        drawn = {vote.draw for vote in bundles[validator].audits}
        more = [judged(draw, BAD) for draw in range(draws_of(BOOK)) if draw not in drawn]
        audits = tuple(sorted((*bundles[validator].audits, *more), key=audit_order))
        bundles[validator] = replace(bundles[validator], audits=audits)
    assert outcome(bundles).fate is Verdict.VALID


def test_one_auditor_of_five_moves_no_figure() -> None:
    liar = account(2)
    assert outcome(by_auditors(GOOD, {liar: BAD})).evidence == ()
    assert outcome(by_auditors(BAD, {liar: GOOD})).accused


def test_too_few_who_judge_again_leave_an_accusation_open() -> None:
    accused = outcome(by_auditors(BAD))
    for judges in ({}, {2: BAD}, {2: BAD, 3: BAD}):  # 20 of 80 are less than a third
        found = outcome(judged_again(accused, judges), accused)
        assert (found.fate, found.reason) == (Verdict.ABSTAIN, UNCONFIRMED)
        assert found.evidence == accused.evidence


def test_mild_cheats_are_found_over_epochs() -> None:
    known: tuple[AuditOutcome, ...] = ()
    for _ in range(10):
        (found,) = audit_outcomes(previous(*known), SEEDS, by_auditors(MILD), WEIGHTS, band_of)
        if found.accused:
            break
        assert found.fate is Verdict.VALID
        known = (found,)
    assert known, "one epoch must not be enough"
    group = range(2, 10)
    for _ in range(10):  # while the accusation is open, all answers are judged again
        again = judged_again(found, dict.fromkeys(group, MILD))
        bundles = by_auditors(MILD)
        for validator, bundle in bundles.items():
            both = (*again[validator].audits, *bundle.audits)
            bundles[validator] = replace(bundle, audits=tuple(sorted(both, key=audit_order)))
        (found,) = audit_outcomes(previous(found), SEEDS, bundles, WEIGHTS, band_of)
        if found.fate is Verdict.INVALID:
            break
        assert found.reason == ACCUSED
        assert found.accused
    assert (found.fate, found.confirmed) == (Verdict.INVALID, ())


def test_an_unlucky_epoch_that_a_cartel_accuses_of_is_overturned_by_the_next_ones() -> None:
    accused = outcome(by_auditors(MILD))
    accused = replace(accused, accused=tuple(digest_of(draw) for draw in range(8)))
    opened = outcome(judged_again(accused, dict.fromkeys(range(2, 10), MILD)), accused)
    assert (opened.reason, bool(opened.confirmed)) == (UNCONFIRMED, True)
    for _ in range(2):
        watched = replace(opened, accused=accused.accused)
        again = judged_again(watched, dict.fromkeys(range(2, 10), GOOD))
        found = audit_outcomes(previous(watched, books=()), SEEDS, again, WEIGHTS, band_of)
        opened = found[0] if found else opened
    assert found == ()


def test_evidence_is_carried_over_epochs_without_audits_and_then_forgotten_with_nothing() -> None:
    (found,) = audit_outcomes(previous(), SEEDS, by_auditors(MILD), WEIGHTS, band_of)
    assert found.evidence
    kept = outcome({}, replace(found, accused=()))
    assert (kept.fate, kept.reason, kept.evidence) == (Verdict.ABSTAIN, NOT_AUDITED, found.evidence)
    assert (
        audit_outcomes(previous(replace(found, evidence=(), accused=()), books=()), SEEDS, {}, WEIGHTS, band_of) == ()
    )


def test_what_is_not_handed_over_counts_as_withheld_by_whomever_it_was_drawn() -> None:
    found = outcome(by_auditors(GOOD, dict.fromkeys(WEIGHTS, missing(0))))
    assert (found.fate, found.answers, found.withheld, found.reason) == (Verdict.ABSTAIN, 0, DRAWS, WITHHELD)


def test_handing_over_to_a_minority_of_auditors_is_withholding() -> None:
    assert any(map(minority_of, range(DRAWS)))
    votes = votes_on_draws(lambda auditor, draw: judged(draw, GOOD) if auditor in minority_of(draw) else missing(draw))
    (found, *more) = audit_outcomes(previous(), SEEDS, bundles_of(votes), WEIGHTS, band_of)
    assert found.withheld + sum(other.withheld for other in more) == DRAWS


@pytest.mark.parametrize(("judges", "is_withheld"), [((2,), False), ((2, 3), True)])
def test_what_one_member_with_all_seats_says_it_was_not_shown_is_not_withheld(
    judges: tuple[int, ...], is_withheld: bool
) -> None:
    """Dust could else take the score of a host whose model nobody else has."""
    known = replace(previous(), group=with_judges(*judges))
    votes = {account(n): [missing(draw) for draw in range(DRAWS)] for n in judges}
    found = audit_outcomes(known, SEEDS, bundles_of(votes), WEIGHTS, band_of)
    assert (sum(each.withheld for each in found) > DRAWS // 2) is is_withheld


@pytest.mark.parametrize("reason", ["no-model", "no-time", "private", "engine-failed"])
def test_an_auditor_s_own_lack_is_never_held_against_the_executor(reason: str) -> None:
    assert (
        audit_outcomes(
            previous(), SEEDS, by_auditors(GOOD, dict.fromkeys(WEIGHTS, missing(0, reason))), WEIGHTS, band_of
        )
        == ()
    )


def test_outcomes_do_not_depend_on_the_order_in_which_bundles_came() -> None:
    bundles = by_auditors(BAD, {account(2): GOOD, account(3): missing(0)})
    source = random.Random(3)
    first = audit_outcomes(previous(), SEEDS, bundles, WEIGHTS, band_of)
    for _ in range(5):
        items = list(bundles.items())
        source.shuffle(items)
        assert audit_outcomes(previous(), SEEDS, dict(items), WEIGHTS, band_of) == first


def test_a_receipt_that_auditors_disagree_on_is_the_one_of_most_seats() -> None:
    other = Hash32(b"\xbb" * 32)
    votes: dict[Address, list[AuditVote]] = {}
    for draw in range(draws_of(BOOK)):
        for auditor in auditors_of(SEED, EXECUTOR, draw, GROUP):
            vote = judged(draw, GOOD, other) if auditor in minority_of(draw) else judged(draw, BAD)
            votes.setdefault(auditor, []).append(vote)
    assert outcome(bundles_of(votes)).accused


def test_without_a_result_before_nothing_is_audited() -> None:
    assert audit_outcomes(None, None, by_auditors(BAD), WEIGHTS, band_of) == ()


def test_books_of_members_are_taken_up_ascending_and_of_nobody_else() -> None:
    bundles = {
        account(n): replace(bundle, receipts=BOOK)
        for n in (3, 2, 20)
        for bundle in bundles_of({account(n): []}).values()
    }
    books = committed_books(bundles, WEIGHTS, GROUP)
    assert {book.executor for book in books} == {account(2), account(3)}
    assert all(book.weights == (ModelWeight(TINY, 10),) for book in books)
    empty = committed_books({account(2): replace(bundles[account(2)], receipts=None)}, WEIGHTS, GROUP)
    assert [(known.book.count, known.weights) for known in empty] == [(0, ())]
    assert [book.executor.lower() for book in books] == sorted(book.executor.lower() for book in books)


def test_an_outcome_and_its_evidence_survive_their_bytes() -> None:
    accused = outcome(by_auditors(BAD))
    assert from_bytes(AuditOutcome, to_bytes(accused)) == accused


def test_nobody_audits_who_serves_a_model_alone_and_nothing_is_said_of_it() -> None:
    known = replace(previous(), group=with_judges())
    assert all(auditors_of(SEED, EXECUTOR, draw, known.group) == () for draw in range(DRAWS))
    votes = {account(n): [judged(draw, BAD) for draw in range(DRAWS)] for n in range(2, 10)}
    assert audit_outcomes(known, SEEDS, bundles_of(votes), WEIGHTS, band_of) == ()


def test_one_rival_accuses_for_ever_and_convicts_never_and_a_second_judge_settles_it() -> None:
    group, alone = with_judges(2), {account(2): [judged(draw, BAD) for draw in range(DRAWS)]}
    (accused,) = audit_outcomes(replace(previous(), group=group), SEEDS, bundles_of(alone), WEIGHTS, band_of)
    for _ in range(10):
        again = [judged(REJUDGED, BAD, digest) for digest in accused.accused]
        cast = bundles_of({account(2): [*alone[account(2)], *again]})
        (accused,) = audit_outcomes(replace(previous(accused), group=group), SEEDS, cast, WEIGHTS, band_of)
        assert (accused.fate, accused.reason) == (Verdict.ABSTAIN, ACCUSED)
    for figures, fate in ((BAD, Verdict.INVALID), (GOOD, None)):
        known = replace(previous(accused, books=()), group=with_judges(2, 3, 4))
        cast = judged_again(accused, {2: BAD, 3: figures, 4: figures})
        found = audit_outcomes(known, SEEDS, cast, WEIGHTS, band_of)
        assert [outcome.fate for outcome in found] == ([] if fate is None else [fate])


def test_no_votes_within_their_limits_make_the_sums_of_an_epoch_fail() -> None:
    assert max(DRAWS_MAX, ACCUSED_MAX) <= AUDIT_ANSWERS_SUMMED_MAX
    most = AUDIT_SUM_MICRO_MAX
    huge = AuditFigures(AUDIT_TOKENS_MAX, AUDIT_TOKENS_MAX, most, AUDIT_TOKENS_MAX, most, most, most)
    bundles = by_auditors(huge)
    for bundle in bundles.values():
        check_audits(bundle)
    (found,) = audit_outcomes(previous(), SEEDS, bundles, WEIGHTS, band_of)
    assert found.tokens == draws_of(BOOK) * AUDIT_TOKENS_MAX
    again = {account(n): [judged(REJUDGED, huge, digest) for digest in found.accused] for n in range(2, 10)}
    audit_outcomes(previous(found, books=()), SEEDS, bundles_of(again), WEIGHTS, band_of)
    assert from_bytes(AuditOutcome, to_bytes(found)) == found
