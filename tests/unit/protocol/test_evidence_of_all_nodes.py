"""Evidence against an executor with a model is one sum, whichever of its nodes its receipts name: names are free."""

import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from node.protocol import audit_outcomes as audit_outcomes_module
from node.protocol.appeals import NARROWLY_PROVEN, QUIET_EPOCHS_MAX
from node.protocol.audit_bands import WIDEST_BAND, bands_of, fraud_bands_of
from node.protocol.audit_majorities import BandOf
from node.protocol.audit_outcomes import ACCUSED, NO_BOOK, audit_outcomes, audit_outcomes_in_slices
from node.protocol.audit_sampling import auditors_of, draws_of
from node.protocol.audit_votes import REJUDGED
from node.protocol.audits import (
    BETS,
    CONFIRMED_MICRO_BITS,
    LIMIT_MICRO_BITS,
    MARGIN_SPAN_MICRO,
    MILLION,
    NO_EVIDENCE,
    accumulate_confirmed,
    accumulate_evidence,
    gains,
    total_of,
)
from node.protocol.audits import Test as AuditTest
from node.protocol.bands import Calibration
from node.protocol.calibration import calibration_bytes, default_band
from node.protocol.codec import to_bytes
from node.protocol.events import EventBody, MLNodeSet, ModelCalibrated, ModelRecorded, ParticipantRegistered
from node.protocol.findings import (
    AuditFigures,
    AuditOutcome,
    AuditVote,
    CommittedBook,
    MissingBook,
    ReceiptBook,
)
from node.protocol.identifiers import Address, EpochNumber, Hash32, ModelId, NodeId
from node.protocol.node_names import UNNAMED
from node.protocol.pricing import receipt_digest
from node.protocol.records import EpochResult, MLNodeRegistration, Omission, SignedReceipt, VoteBundle
from node.protocol.signatures import sign
from node.protocol.verdicts import Verdict
from tests.builders import NODE, SOME_CID, TINY, account, key_of, model, peer, state_of
from tests.unit.protocol.audited_group import (
    BAD,
    BAND,
    BOOK,
    DRAWS,
    EXECUTOR,
    GOOD,
    GROUP,
    JUDGES,
    MILD,
    SEED,
    SEEDS,
    WEIGHTS,
    band_of,
    bundles_of,
    digest_of,
    judged,
    missing,
    previous,
    votes_on_draws,
)
from tests.unit.protocol.test_audit_evidence import evidence_of
from tests.unit.protocol.test_receipt_books import group_of

LARGE_BOOK = ReceiptBook(8000, 16_000, Hash32(b"\x01" * 32), SOME_CID)
TWO_TOKENS = AuditFigures(2, 1, 50_000, 0, 0, 0, 2_000_000)
"""One of two is not the rule's choice: a little evidence, and no proof."""
LUCK = tuple(1_000_000 + bet for bet in range(len(BETS)))
OUTSIDER = account(77)
Answers = Mapping[int, tuple[AuditFigures, str]]
"""By draw: what everybody finds, and the node that the receipt names."""


def epoch_of(
    audits: Sequence[AuditOutcome],
    answers: Answers,
    again: Answers | None = None,
    *,
    bands: tuple[BandOf, BandOf] = (band_of, band_of),
    book: ReceiptBook = BOOK,
    order: random.Random | None = None,
) -> tuple[AuditOutcome, ...]:
    """One epoch: auditors read `answers`, and everybody judges again what the result before says, answered as `again`
    has it (by default as in `answers`)."""
    votes: dict[Address, list[AuditVote]] = {}
    for draw, (figures, name) in answers.items():
        for auditor in auditors_of(SEED, EXECUTOR, draw, GROUP):
            votes.setdefault(auditor, []).append(replace(judged(draw, figures), node_id=NodeId(name)))
    by_digest = {digest_of(draw): answer for draw, answer in (again or answers).items()}
    for digest in {digest for outcome in audits for digest in (*outcome.accused, *outcome.challenged)}:
        figures, name = by_digest[digest]
        for number in JUDGES:
            vote = replace(judged(REJUDGED, figures, digest), node_id=NodeId(name))
            votes.setdefault(account(number), []).append(vote)
    bundles = list(bundles_of(votes).items())
    if order is not None:
        order.shuffle(bundles)
    before = previous(*audits, books=(CommittedBook(EXECUTOR, book),) if answers else ())
    return audit_outcomes(before, SEEDS, dict(bundles), WEIGHTS, *bands)


def alike(figures: AuditFigures, name: Callable[[int], str] = lambda _: NODE, book: ReceiptBook = BOOK) -> Answers:
    return {draw: (figures, name(draw)) for draw in range(draws_of(book))}


def quiet_epoch(result: EpochResult) -> tuple[AuditOutcome, ...]:
    """An epoch in which nobody audits anything."""
    return audit_outcomes(result, SEEDS, {}, WEIGHTS, band_of)


def remembered(executor: Address = EXECUTOR, model_id: ModelId = TINY) -> AuditOutcome:
    """An outcome that is there for its evidence alone."""
    return AuditOutcome(executor, model_id, Verdict.VALID, 1, 0, 10, "", LUCK)


CLASSES = ("nvidia h200", "amd mi300x", "moon", "")
"""Of hardware: two that were measured, one that nobody knows, and no node at all."""
MEASURED = BAND
WIDER = replace(BAND, hardware="amd mi300x", margin_micro_mean_max=20_000, token_mismatch_per_million=30_000)
EVENTS: tuple[EventBody, ...] = (
    ModelRecorded(model()),
    ModelCalibrated(
        TINY, 1, calibration_bytes(Calibration(TINY, 1, (WIDER, replace(MEASURED, hardware="nvidia h200"))))
    ),
    ParticipantRegistered(EXECUTOR, peer(1), consented=True),
)


def has(*nodes: tuple[str, str]) -> tuple[BandOf, BandOf]:
    """The bands of a chain on which the executor has these nodes, by (name, hardware)."""
    state = state_of(
        *EVENTS, *(MLNodeSet(EXECUTOR, MLNodeRegistration(NodeId(name), (TINY,), f"1x {kind}")) for name, kind in nodes)
    )
    return bands_of(state, None), fraud_bands_of(state, None)


ALL_CLASSES = has(*((f"{kind} {number}", kind) for kind in CLASSES[:3] for number in range(4)))
what = st.sampled_from([GOOD, MILD, BAD, TWO_TOKENS])
kinds = st.sampled_from(CLASSES)
epochs = st.lists(st.lists(st.tuples(what, kinds), min_size=DRAWS, max_size=DRAWS), min_size=1, max_size=4)


@settings(max_examples=60, deadline=None)
@given(epochs, st.randoms(use_true_random=False))
def test_the_same_answers_come_to_the_same_whichever_nodes_of_their_class_they_name(
    shown: list[list[tuple[AuditFigures, str]]], source: random.Random
) -> None:
    """And in whichever order bundles came: accused, judged again, proven or not, to the byte."""

    def run(name: Callable[[str], str], order: random.Random | None = None) -> list[bytes]:
        audits: tuple[AuditOutcome, ...] = ()
        found = []
        before: Answers = {}
        for of_epoch in shown:
            answers = {draw: (figures, name(kind)) for draw, (figures, kind) in enumerate(of_epoch)}
            audits = epoch_of(audits, answers, before, bands=ALL_CLASSES, order=order)
            assert len(audits) == 1
            found.append(to_bytes(audits[0]))
            before = answers
        return found

    assert run(lambda kind: f"{kind} 0" if kind else UNNAMED) == run(
        # Whoever has no node of a name has as much as no name.
        lambda kind: f"{kind} {source.randrange(4)}" if kind else f"made-up-{source.randrange(4)}",
        source,
    )


@settings(max_examples=30, deadline=None)
@given(st.lists(kinds, max_size=8), st.lists(what, min_size=DRAWS, max_size=DRAWS))
def test_nodes_that_answer_nothing_change_nothing(more: list[str], shown: list[AuditFigures]) -> None:
    answers = {draw: (figures, NODE) for draw, figures in enumerate(shown)}
    alone = has((NODE, "nvidia h200"))
    beside = has((NODE, "nvidia h200"), *((f"idle-{number}", kind) for number, kind in enumerate(more)))
    found = epoch_of((), answers, bands=alone)
    assert found == epoch_of((), answers, bands=beside)
    assert epoch_of(found, answers, bands=alone) == epoch_of(found, answers, bands=beside)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(what, kinds), min_size=DRAWS, max_size=DRAWS))
def test_each_answer_is_held_against_the_band_of_its_own_node(shown: list[tuple[AuditFigures, str]]) -> None:
    answers = {draw: (figures, f"{kind} 0") for draw, (figures, kind) in enumerate(shown)}
    judging, convicting = ALL_CLASSES
    bands = {"nvidia h200": replace(MEASURED, hardware="nvidia h200"), "amd mi300x": WIDER}
    assert {kind: judging(EXECUTOR, NodeId(f"{kind} 0"), TINY) for kind in bands} == bands
    assert convicting(EXECUTOR, NodeId("moon 0"), TINY) == default_band(model())
    expected = NO_EVIDENCE
    for figures, name in answers.values():  # digests ascend with draws
        expected = accumulate_evidence(expected, gains(figures, judging(EXECUTOR, NodeId(name), TINY)))
    (found,) = epoch_of((), answers, bands=ALL_CLASSES)
    assert found.evidence == expected


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.sampled_from([GOOD, TWO_TOKENS, MILD]), kinds), min_size=1, max_size=3))
def test_each_answer_that_is_judged_again_is_held_against_the_bands_of_its_own_node(
    shown: list[tuple[AuditFigures, str]],
) -> None:
    answers = {draw: (figures, f"{kind} 0") for draw, (figures, kind) in enumerate(shown)}
    known = AuditOutcome(EXECUTOR, TINY, Verdict.ABSTAIN, 1, 0, 1, ACCUSED, accused=tuple(map(digest_of, answers)))
    # Of log-probabilities, which no answer here speaks of and one before spoke of: nothing overturns it.
    spoken = tuple(int(bet is AuditTest.DISTANCE) for bet in BETS)
    known = replace(known, evidence=tuple(LIMIT_MICRO_BITS * bet for bet in spoken), confirmed=spoken)
    confirmed, convicting = (
        accumulate_confirmed(
            before,
            total_of(gains(figures, band_by(EXECUTOR, NodeId(name), TINY)) for figures, name in answers.values()),
        )
        for before, band_by in zip((spoken, NO_EVIDENCE), ALL_CLASSES, strict=True)
    )
    found = epoch_of((known,), {}, answers, bands=ALL_CLASSES)
    assert max(confirmed) < CONFIRMED_MICRO_BITS
    assert [(outcome.confirmed, outcome.convicting) for outcome in found] == [(confirmed, convicting)]


means = st.integers(500, 900_000)


@settings(max_examples=200, deadline=None)
@given(means, means, st.floats(0, 1), st.floats(0, 1))
def test_no_bet_on_honest_answers_of_two_kinds_of_hardware_grows_on_average(
    one: int, other: int, part_of_one: float, part_of_other: float
) -> None:
    """Two tokens of two nodes, each of which differs no more often than its own band says: the sum is a bet at fair
    odds all the same, so it reaches 2^26 by luck with a chance of 2^-26 at most."""

    def outcomes(mean: int, part: float) -> list[tuple[float, tuple[int, ...]]]:
        band = replace(
            WIDEST_BAND, margin_micro_mean_max=mean * MARGIN_SPAN_MICRO // MILLION, token_mismatch_per_million=mean
        )
        chance = part * (band.margin_micro_mean_max * MILLION // MARGIN_SPAN_MICRO) / MILLION
        wrong, right = AuditFigures(1, 1, MARGIN_SPAN_MICRO, 0, 0, 0, 0), AuditFigures(1, 0, 0, 0, 0, 0, 0)
        return [(chance, gains(wrong, band)), (1 - chance, gains(right, band))]

    means_of_bets = [0.0] * len(BETS)
    for chance_of_one, gained in outcomes(one, part_of_one):
        for chance_of_other, more in outcomes(other, part_of_other):
            for bet, bits in enumerate(total_of((gained, more))):
                means_of_bets[bet] += chance_of_one * chance_of_other * math.exp2(bits / MILLION)
    assert max(means_of_bets) < 1 + 1e-5


def test_one_answer_that_is_drawn_and_challenged_counts_once() -> None:
    known = AuditOutcome(EXECUTOR, TINY, Verdict.ABSTAIN, 1, 0, 1, ACCUSED, accused=(digest_of(0),))
    both = replace(known, challenged=known.accused)
    (once,), (twice,) = (epoch_of((outcome,), {}, alike(MILD)) for outcome in (known, both))
    assert max(once.confirmed) == max(gains(MILD, BAND))
    assert once == twice


@pytest.mark.parametrize("liars", [1, 2, 3])
def test_judges_who_name_another_node_make_no_fraud_and_save_nobody(liars: int) -> None:
    """The narrowest or the widest band of all: it takes a third of all weight, or the half of who judges."""
    bands = has((NODE, "nvidia h200"), ("wide", "amd mi300x"))
    (accused,) = epoch_of((), alike(BAD), bands=bands)
    for figures, named, wrongly in ((GOOD, "wide", NODE), (BAD, NODE, "wide")):
        votes = {
            account(number): [
                replace(judged(REJUDGED, figures, digest), node_id=NodeId(wrongly if number < 2 + liars else named))
                for digest in accused.accused
            ]
            for number in JUDGES
        }
        found = audit_outcomes(previous(accused, books=()), SEEDS, bundles_of(votes), WEIGHTS, *bands)
        assert [outcome.fate for outcome in found] == ([Verdict.INVALID] if figures is BAD else [])


def ends_as(shown: Answers, bands: tuple[BandOf, BandOf], epochs_max: int = 40) -> str:
    """Why it is not paid in the end, if everybody finds the same for so long."""
    audits: tuple[AuditOutcome, ...] = ()
    for _ in range(epochs_max):
        audits = epoch_of(audits, shown, bands=bands)
        if audits[0].fate is Verdict.INVALID and audits[0].reason != NARROWLY_PROVEN:
            break
    return audits[0].reason


def test_what_is_named_as_nobody_s_machine_is_unpaid_and_makes_no_fraud_nor_hides_what_does() -> None:
    """Answers beyond each band of the record and within the default: under a name that is not registered they convict
    nobody, under that of a measured node they do. Nor do they hide gross ones that stand beside them."""
    beyond = AuditFigures(2_000, 0, 900_000, 0, 0, 0, 0)
    narrow = replace(MEASURED, hardware="nvidia h200", margin_micro_mean_max=20)
    state = state_of(
        EVENTS[0],
        ModelCalibrated(TINY, 1, calibration_bytes(Calibration(TINY, 1, (narrow,)))),
        EVENTS[2],
        MLNodeSet(EXECUTOR, MLNodeRegistration(NODE, (TINY,), "1x nvidia h200")),
    )
    bands = bands_of(state, None), fraud_bands_of(state, None)
    unnamed, named, gross = alike(beyond, lambda _: UNNAMED), alike(beyond), alike(BAD)
    assert ends_as(unnamed, bands) == NARROWLY_PROVEN
    assert ends_as(named, bands) not in ("", NARROWLY_PROVEN)
    for part in (1, 2, 5):
        mixed = {draw: (gross if draw < part else unnamed)[draw] for draw in range(DRAWS)}
        assert ends_as(mixed, bands) not in ("", NARROWLY_PROVEN)


def long_name(epoch: int, draw: int) -> str:
    return f"{epoch}-{draw}".ljust(32, "x")


def test_results_do_not_grow_with_the_names_in_receipts() -> None:
    audits: tuple[AuditOutcome, ...] = ()
    for epoch in range(10):
        audits = epoch_of(audits, alike(TWO_TOKENS, partial(long_name, epoch), LARGE_BOOK), book=LARGE_BOOK)
        assert len(audits) == 1
        assert sum(len(to_bytes(audit)) for audit in audits) < 4096


def receipt_under(name: str) -> SignedReceipt:
    receipt = replace(
        evidence_of().signed.receipt, executor=EXECUTOR, payer=account(3), node_id=NodeId(name), asking=None
    )
    digest = receipt_digest(receipt)
    return SignedReceipt(receipt, sign(key_of(1), digest), sign(key_of(3), digest))


def test_what_is_challenged_or_left_out_is_the_executor_s_whatever_node_answered() -> None:
    receipts = sorted((receipt_under(f"n{number}") for number in range(4)), key=lambda s: receipt_digest(s.receipt))
    bundle = VoteBundle(
        EpochNumber(6), account(3), (),
        omissions=tuple(Omission(signed, None, None) for signed in receipts), challenges=tuple(receipts),
    )  # fmt: skip
    missing_book = MissingBook(EXECUTOR, EpochNumber(0), EpochNumber(5))
    result = replace(previous(books=()), epoch=EpochNumber(5), books_missing=(missing_book,))
    (found,) = audit_outcomes(result, SEEDS, {account(3): bundle}, WEIGHTS, band_of)
    assert (found.withheld, found.reason, len(found.challenged)) == (4, NO_BOOK, 4)


def test_what_is_withheld_is_the_executor_s_whatever_node_answered() -> None:
    votes = votes_on_draws(lambda _, draw: replace(missing(draw), node_id=NodeId(f"n{draw}"), model_id=TINY))
    (found,) = audit_outcomes(previous(), SEEDS, bundles_of(votes), WEIGHTS, band_of)
    assert (found.model_id, found.withheld) == (TINY, draws_of(BOOK))


@pytest.mark.parametrize("confirmed", [(), LUCK])
def test_who_is_no_member_is_remembered_for_256_epochs_and_from_when_it_is_one_for_ever(
    confirmed: tuple[int, ...],
) -> None:
    """Accounts that take turns, each until it is about to be accused, begin where they left off."""
    known = (replace(remembered(executor=OUTSIDER), confirmed=confirmed),)
    for _ in range(QUIET_EPOCHS_MAX - 1):
        known = quiet_epoch(previous(*known, books=()))
    assert [audit.evidence for audit in known] == [LUCK]
    back = replace(previous(*known, books=()), group=group_of((77, 10, (TINY,)), (2, 10, (TINY,))))
    (found,) = quiet_epoch(back)
    assert found.evidence == LUCK
    if not confirmed:
        for _ in range(2 * QUIET_EPOCHS_MAX):
            (found,) = quiet_epoch(replace(back, audits=(found,)))
        assert found.evidence == LUCK
    gone = quiet_epoch(previous(*known, books=()))
    assert quiet_epoch(previous(*gone, books=())) == ()


def test_of_former_members_those_are_remembered_against_whom_most_was_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit_outcomes_module, "FORMER_MAX", 2)
    former = [replace(remembered(account(number)), evidence=(number,)) for number in (91, 93, 92)]
    member = remembered(account(1))
    kept = quiet_epoch(previous(member, *former, books=()))
    assert {(audit.executor, audit.evidence) for audit in kept} == {
        (member.executor, member.evidence),
        (account(93), (93,)),
        (account(92), (92,)),
    }


def test_what_is_remembered_is_gone_through_in_slices() -> None:
    """Of eight executors what friends of theirs made up: after it nothing is left, which is no slice by itself."""
    made_up = [
        remembered(account(number), ModelId(f"made-up-{count}")) for number in range(1, 9) for count in range(64)
    ]
    result = previous(*made_up, books=())
    assert len(list(audit_outcomes_in_slices(result, SEEDS, {}, WEIGHTS, band_of))) >= 2
    assert quiet_epoch(result) == ()
