"""What audits come to: five auditors accuse, the whole group convicts, and no minority can do either alone."""

import random
from collections.abc import Mapping
from dataclasses import replace

import pytest

from node.protocol.audit_majorities import NOTHING_TO_JUDGE, WITHHELD
from node.protocol.audit_outcomes import (
    ACCUSED,
    ACCUSED_MAX,
    CHALLENGED_MAX,
    NOT_AUDITED,
    UNCONFIRMED,
    audit_outcomes,
    audit_outcomes_in_slices,
    committed_books,
)
from node.protocol.audit_sampling import DRAWS_MAX, auditors_of, draws_of
from node.protocol.audit_votes import (
    CHALLENGE_EPOCHS_MAX,
    NO_DIGEST,
    REJUDGED,
    AuditVoteError,
    audit_order,
    check_audits,
)
from node.protocol.audits import Test as AuditTest
from node.protocol.codec import from_bytes, to_bytes
from node.protocol.findings import (
    AUDIT_ANSWERS_SUMMED_MAX,
    AUDIT_SUM_MICRO_MAX,
    AUDIT_TOKENS_MAX,
    AuditFigures,
    AuditOutcome,
    AuditVote,
    CommittedBook,
    ModelWeight,
)
from node.protocol.identifiers import Address, EpochNumber, Hash32, ModelId, NodeId
from node.protocol.participation import Duties
from node.protocol.pricing import receipt_digest
from node.protocol.records import EpochResult, SignedReceipt, VoteBundle
from node.protocol.signatures import sign
from node.protocol.slices import finish
from node.protocol.vector_audits import VECTORS, figures_of, vector_band
from node.protocol.verdicts import Verdict
from tests.builders import NODE, TINY, account, key_of
from tests.unit.protocol.audited_group import (
    BAD,
    BAND,
    BOOK,
    DRAWS,
    EXECUTOR,
    GOOD,
    GROUP,
    MEMBERS,
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
    missing,
    outcome,
    previous,
    votes_on_draws,
    with_judges,
)
from tests.unit.protocol.test_audit_evidence import evidence_of
from tests.unit.protocol.test_receipt_books import BIG, group_of


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
    friends = {account(2), account(3)}
    votes = votes_on_draws(lambda auditor, draw: judged(draw, GOOD) if auditor in friends else missing(draw))
    (found, *more) = audit_outcomes(previous(), SEEDS, bundles_of(votes), WEIGHTS, band_of)
    assert found.withheld + sum(other.withheld for other in more) == DRAWS


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


def test_a_receipt_that_auditors_disagree_on_is_the_one_of_most_weight() -> None:
    other = Hash32(b"\xbb" * 32)
    votes: dict[Address, list[AuditVote]] = {}
    for draw in range(draws_of(BOOK)):
        for place, auditor in enumerate(auditors_of(SEED, EXECUTOR, draw, GROUP)):
            vote = judged(draw, BAD) if place < 3 else judged(draw, GOOD, other)
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


CHALLENGE = evidence_of(executor=EXECUTOR, payer=account(3)).signed


def signed_by(signed: SignedReceipt, executor: int = 1, payer: int = 3) -> SignedReceipt:
    digest = receipt_digest(signed.receipt)
    return SignedReceipt(signed.receipt, sign(key_of(executor), digest), sign(key_of(payer), digest))


def challenged(signed: SignedReceipt, *before: AuditOutcome) -> tuple[AuditOutcome, ...]:
    bundle = VoteBundle(EpochNumber(1), account(3), (), challenges=(signed,))
    return audit_outcomes(previous(*before, books=()), SEEDS, {account(3): bundle}, WEIGHTS, band_of)


def test_what_its_payer_challenges_everybody_judges_and_only_one_answer_by_itself_proves() -> None:
    signed = signed_by(CHALLENGE)
    (found,) = challenged(signed)
    assert found.challenged == (receipt_digest(signed.receipt),)
    assert (found.fate, found.reason, found.accused) == (
        Verdict.ABSTAIN,
        NOT_AUDITED,
        (),
    )
    for figures, fate in ((BAD, Verdict.INVALID), (MILD, None), (GOOD, None)):
        votes = {account(n): [judged(REJUDGED, figures, found.challenged[0])] for n in range(2, 10)}
        after = audit_outcomes(previous(found, books=()), SEEDS, bundles_of(votes), WEIGHTS, band_of)
        assert [outcome.fate for outcome in after] == ([] if fate is None else [fate])


def test_a_challenge_of_a_good_answer_wipes_no_evidence_out() -> None:
    (mild,) = audit_outcomes(previous(), SEEDS, by_auditors(MILD), WEIGHTS, band_of)
    (found,) = challenged(signed_by(CHALLENGE), mild)
    votes = {account(n): [judged(REJUDGED, GOOD, found.challenged[0])] for n in range(2, 10)}
    (after,) = audit_outcomes(previous(found, books=()), SEEDS, bundles_of(votes), WEIGHTS, band_of)
    assert after.evidence == mild.evidence


def test_a_challenge_without_both_signatures_counts_for_nothing() -> None:
    for wrong in (signed_by(CHALLENGE, executor=2), signed_by(CHALLENGE, payer=2)):
        assert challenged(wrong) == ()


def test_a_challenge_of_an_executor_that_is_no_member_and_has_no_book_counts_for_nothing() -> None:
    made_up = signed_by(evidence_of(executor=account(30), payer=account(3)).signed, executor=30)
    assert challenged(made_up) == ()
    bundle = VoteBundle(EpochNumber(1), account(3), (), challenges=(made_up,))
    known = previous(books=(CommittedBook(account(30), replace(BOOK, count=0, output_tokens=0)),))
    (found,) = audit_outcomes(known, SEEDS, {account(3): bundle}, WEIGHTS, band_of)
    assert found.executor == account(30)


@pytest.mark.parametrize("older", [0, 1])
def test_what_is_older_than_the_honest_wait_cannot_be_challenged(older: int) -> None:
    newest = EpochNumber(CHALLENGE.receipt.epoch + CHALLENGE_EPOCHS_MAX + older)
    bundle = VoteBundle(EpochNumber(newest + 1), account(3), (), challenges=(signed_by(CHALLENGE),))
    known = replace(previous(books=()), epoch=newest)
    found = audit_outcomes(known, SEEDS, {account(3): bundle}, WEIGHTS, band_of)
    assert [outcome.challenged for outcome in found] == ([] if older else [(receipt_digest(CHALLENGE.receipt),)])


@pytest.mark.parametrize("names", [{"node_id": NodeId("n" * 33)}, {"model_id": ModelId("m" * 65)}])
def test_a_challenge_with_too_long_a_name_voids_its_bundle(names: dict[str, str]) -> None:
    signed = signed_by(evidence_of(executor=EXECUTOR, payer=account(3), **names).signed)
    with pytest.raises(AuditVoteError, match="too long a name"):
        check_audits(VoteBundle(EpochNumber(1), account(3), (), challenges=(signed,)))


def test_no_payer_crowds_the_challenges_of_others_out() -> None:
    crowd = 4
    bundles = {}
    lone: set[Hash32] = set()
    for payer, count in ((2, crowd), (3, crowd), (4, crowd), (5, 1), (6, 1)):
        receipts = [
            signed_by(evidence_of(executor=EXECUTOR, payer=account(payer), at=number).signed, payer=payer)
            for number in range(count)
        ]
        bundles[account(payer)] = VoteBundle(EpochNumber(1), account(payer), (), challenges=tuple(receipts))
        lone |= {receipt_digest(signed.receipt) for signed in receipts if count == 1}
    for seed in range(8):
        known = previous(books=())
        (found,) = audit_outcomes(known, replace(SEEDS, lot=Hash32(bytes([seed]) * 32)), bundles, WEIGHTS, band_of)
        assert len(found.challenged) == CHALLENGED_MAX
        assert lone <= set(found.challenged)
        assert list(found.challenged) == sorted(found.challenged)


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


def test_only_payers_challenge_and_only_a_few() -> None:
    signed = signed_by(CHALLENGE)
    bundle = VoteBundle(EpochNumber(1), account(3), (), challenges=(signed,))
    check_audits(bundle)
    with pytest.raises(AuditVoteError, match="who paid"):
        check_audits(replace(bundle, validator=account(4)))
    with pytest.raises(AuditVoteError, match="challenges"):
        check_audits(replace(bundle, challenges=(signed,) * 5))


BUNDLE = VoteBundle(EpochNumber(1), account(2), (), (judged(0, BAD), judged(3, GOOD)), BOOK)


def test_a_well_formed_bundle_of_audits_passes() -> None:
    check_audits(BUNDLE)
    check_audits(replace(BUNDLE, audits=(missing(0),)))


@pytest.mark.parametrize(
    ("audits", "complaint"),
    [
        ((judged(3, GOOD), judged(0, GOOD)), "ascend"),
        ((judged(0, GOOD), judged(0, GOOD, Hash32(b"\xff" * 32))), "ascend"),
        ((replace(judged(0, GOOD), executor=account(2)),), "itself"),
        ((judged(-2, GOOD),), "a draw"),
        ((judged(1 << 20, GOOD),), "a draw"),
        ((judged(0, GOOD, Hash32(b"short")),), "digest"),
        ((replace(judged(0, GOOD), reason="why"),), "a reason"),
        ((replace(judged(0, BAD), reason=""),), "a reason"),
        ((replace(judged(0, BAD), reason="x" * 65),), "64 characters"),
        ((replace(judged(0, BAD), node_id=NodeId("x" * 33)),), "too long a name"),
        ((replace(judged(0, BAD), model_id=ModelId("x" * 65)),), "too long a name"),
        ((judged(0, replace(GOOD, tokens=AUDIT_TOKENS_MAX + 1)),), "no single answer"),
        ((judged(0, replace(GOOD, surprise_micro=-AUDIT_SUM_MICRO_MAX - 1)),), "no single answer"),
        ((replace(missing(0), verdict=Verdict.INVALID),), "has figures"),
        ((replace(missing(0), figures=GOOD),), "has figures"),
        ((judged(0, GOOD, NO_DIGEST),), "of a receipt"),
    ],
)
def test_votes_that_no_honest_auditor_casts_void_the_bundle(audits: tuple[AuditVote, ...], complaint: str) -> None:
    with pytest.raises(AuditVoteError, match=complaint):
        check_audits(replace(BUNDLE, audits=audits))


@pytest.mark.parametrize(
    "changes", [{"count": 0}, {"count": 1 << 30}, {"output_tokens": -1}, {"root": b""}, {"content_cid": ""}]
)
def test_a_book_that_cannot_be_voids_the_bundle(changes: dict[str, object]) -> None:
    with pytest.raises(AuditVoteError, match="a book has"):
        check_audits(replace(BUNDLE, receipts=replace(BOOK, **changes)))  # type: ignore[arg-type]


def duties_of(bundles: Mapping[Address, VoteBundle], known: EpochResult | None = None) -> Mapping[Address, Duties]:
    return finish(audit_outcomes_in_slices(known or previous(), SEEDS, bundles, WEIGHTS, band_of)).duties


def drawn_for(auditor: Address) -> int:
    return sum(auditor in auditors_of(SEED, EXECUTOR, draw, GROUP) for draw in range(draws_of(BOOK)))


def test_what_auditors_owe_is_what_was_drawn_for_them_whatever_they_say() -> None:
    expected = {account(number): drawn_for(account(number)) for number in MEMBERS if drawn_for(account(number))}
    done = duties_of(by_auditors(GOOD))
    assert done == {auditor: Duties(drawn, 0) for auditor, drawn in expected.items()}
    assert EXECUTOR not in done
    nobody = duties_of({})  # an executor can book what nobody can judge
    assert nobody == {auditor: Duties(drawn, 0) for auditor, drawn in expected.items()}
    diligent = max(expected, key=lambda auditor: expected[auditor])
    alone = duties_of({diligent: by_auditors(GOOD)[diligent]})
    assert alone[diligent] == Duties(expected[diligent], 0)
    assert sum(found.undone for found in alone.values()) > 0


@pytest.mark.parametrize(
    ("reason", "is_done"),
    [("no-time", False), ("engine-failed", False), ("no-model", False), (WITHHELD, True), ("private", True)],
)
def test_an_auditor_that_has_the_model_owes_a_judgement_and_nobody_owes_what_was_not_shown(
    reason: str, is_done: bool
) -> None:
    idle = next(account(number) for number in MEMBERS if drawn_for(account(number)))
    found = duties_of(by_auditors(GOOD, {idle: missing(0, reason)}))[idle]
    assert found == Duties(drawn_for(idle), 0 if is_done else drawn_for(idle))


def test_who_lacks_the_model_that_an_answer_is_of_owes_nothing() -> None:
    """The executor has two models; auditors are drawn that have either."""
    nodes = {1: (TINY, BIG), 2: (TINY,), 3: (BIG,), 4: (BIG,)}
    known = replace(previous(), group=group_of(*((number, 10, models) for number, models in nodes.items())))
    votes = {account(2): [missing(0, "no-model")], account(3): [judged(0, GOOD)], account(4): [missing(0, "no-model")]}
    votes[account(3)] = [replace(judged(0, GOOD), model_id=BIG)]
    found = duties_of(bundles_of(votes), known)
    undone = {number: found[account(number)].undone for number in (2, 3, 4)}
    assert undone == {2: 0, 3: 0, 4: 1}
    nobody_has_it = {account(2): [replace(missing(0, "no-model"), model_id=ModelId("rare"))]}
    assert duties_of(bundles_of(nobody_has_it), known)[account(2)].undone == 0


def again_with(digest: Hash32, reason: str) -> AuditVote:
    return replace(missing(REJUDGED, reason), node_id=NODE, model_id=TINY, receipt_digest=digest)


CHALLENGED_ONES = tuple(digest_of(number) for number in range(4))


def challenged_outcome() -> AuditOutcome:
    return AuditOutcome(EXECUTOR, TINY, Verdict.ABSTAIN, 0, 0, 0, NOT_AUDITED, challenged=CHALLENGED_ONES)


@pytest.mark.parametrize("reason", ["no-time", "engine-failed", "no-model", *sorted(NOTHING_TO_JUDGE)])
@pytest.mark.parametrize("friends", [(), (2,), (2, 3), (2, 3, 4)])
def test_what_too_few_judged_again_nobody_owes(reason: str, friends: tuple[int, ...]) -> None:
    """A payer and an executor who are one person can challenge, for nothing, what no engine reads."""
    others = [number for number in range(2, 10) if number not in friends]
    votes = {account(number): [again_with(digest, reason) for digest in CHALLENGED_ONES] for number in others}
    votes |= {account(number): [judged(REJUDGED, GOOD, digest) for digest in CHALLENGED_ONES] for number in friends}
    found = duties_of(bundles_of(votes), previous(challenged_outcome(), books=()))
    is_owed = len(friends) == 3 and reason in ("no-time", "no-model")  # a third of those who have the model
    assert {found[account(number)] for number in others} == {Duties(4, 4 if is_owed else 0)}


def test_members_without_the_model_excuse_nobody_who_has_it() -> None:
    known = replace(previous(challenged_outcome(), books=()), group=with_judges(2, 3, 4))
    votes = {account(n): [again_with(digest, "engine-failed") for digest in CHALLENGED_ONES] for n in range(5, 10)}
    votes |= {account(n): [judged(REJUDGED, GOOD, digest) for digest in CHALLENGED_ONES] for n in (2, 3)}
    found = duties_of(bundles_of(votes), known)
    assert [found[account(n)] for n in (2, 3, 4)] == [Duties(4, 0), Duties(4, 0), Duties(4, 4)]


@pytest.mark.parametrize("reason", ["engine-failed", *sorted(NOTHING_TO_JUDGE)])
def test_one_auditor_who_judges_what_nobody_reads_makes_it_nobody_s_duty(reason: str) -> None:
    liar = account(2)
    said = {account(number): missing(0, reason) for number in MEMBERS if account(number) != liar}
    found = duties_of(by_auditors(GOOD, said))
    assert {duties.undone for duties in found.values()} == {0}
    assert found[liar].due == drawn_for(liar) > 0


@pytest.mark.parametrize("reason", sorted(NOTHING_TO_JUDGE))
def test_a_third_convicts_nobody_of_what_all_others_see_that_nobody_can_judge(reason: str) -> None:
    known = challenged_outcome()
    votes = {account(number): [again_with(digest, reason) for digest in CHALLENGED_ONES] for number in range(5, 10)}
    votes |= {account(number): [judged(REJUDGED, BAD, digest) for digest in CHALLENGED_ONES] for number in (2, 3, 4)}
    assert audit_outcomes(previous(known, books=()), SEEDS, bundles_of(votes), WEIGHTS, band_of) == ()


def test_everybody_with_the_model_owes_a_judgement_of_what_is_judged_again() -> None:
    accused = outcome(by_auditors(BAD))
    assert accused.accused
    known = previous(accused, books=())
    again = judged_again(accused, {number: GOOD for number in MEMBERS if number not in (1, 2)})
    found = duties_of(again, known)
    assert EXECUTOR not in found
    assert found[account(2)] == Duties(len(accused.accused), len(accused.accused))
    assert found[account(3)] == Duties(len(accused.accused), 0)
