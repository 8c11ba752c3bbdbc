"""A guess at what unmeasured hardware gives takes its pay, and not its collateral."""

from collections.abc import Sequence
from dataclasses import replace

import pytest

from node.protocol.appeals import NARROWLY_PROVEN
from node.protocol.audit_bands import WIDEST_BAND, bands_of, fraud_bands_of
from node.protocol.audit_outcomes import audit_outcomes
from node.protocol.audit_votes import audit_order
from node.protocol.audits import BETS, CONFIRMED_MICRO_BITS
from node.protocol.bands import Calibration, HonestBand
from node.protocol.calibration import calibration_bytes, default_band, widest_of
from node.protocol.chain_state import EPOCHS_KEPT
from node.protocol.events import (
    EventBody,
    MLNodeRemoved,
    MLNodeSet,
    ModelCalibrated,
    ModelRecorded,
    ParticipantLeft,
    ParticipantRegistered,
    PocCommitted,
)
from node.protocol.findings import AuditFigures, AuditOutcome, CommittedBook
from node.protocol.identifiers import Address, ModelId, NodeId
from node.protocol.records import MLNodeRegistration, VoteBundle
from node.protocol.vector_audits import VECTORS, far_line, figures_of
from node.protocol.verdicts import Verdict
from tests.builders import NODE, TINY, account, commit, model, peer, state_of
from tests.unit.protocol.audited_group import (
    BAND,
    BOOK,
    EXECUTOR,
    SEEDS,
    WEIGHTS,
    by_auditors,
    judged_again,
    previous,
)

FAR_OFF = AuditFigures(100, 60, 4_000_000, 0, 0, 0, 100_000_000)
"""Proven by BAND, and by no band that lets margins be as large as they are."""
BESIDE = AuditFigures(4_000, 0, 2_000_000, 0, 0, 0, 0)
"""Half of what WIDE holds, and far beyond MEASURED."""
MEASURED = HonestBand("vllm", "nvidia h200", 5, 1, 2, 3, 4, 5, knows_winners=True)


@pytest.mark.parametrize(("hardware", "is_same"), [("1x nvidia h200", True), ("1x moon", False), ("", False)])
def test_hardware_without_a_band_is_convicted_by_the_default_only(hardware: str, is_same: bool) -> None:
    state = state_of(
        ModelRecorded(model()),
        ModelCalibrated(TINY, 1, calibration_bytes(Calibration(TINY, 1, (MEASURED,)))),
        ParticipantRegistered(account(1), peer(1), consented=True),
        MLNodeSet(account(1), MLNodeRegistration(NODE, (TINY,), hardware)),
    )
    place = (account(1), NODE, TINY)
    judging, convicting = bands_of(state, None)(*place), fraud_bands_of(state, None)(*place)
    assert (judging == convicting) is is_same
    assert convicting == (MEASURED if is_same else default_band(model()))


WIDE = HonestBand("vllm", "amd mi300x", 5, 1, 1_000, 90_000, 300_000, 5, knows_winners=True)
"""Wider than the default in some figures, narrower in others."""
CALIBRATED = (
    ModelRecorded(model()),
    ModelCalibrated(TINY, 1, calibration_bytes(Calibration(TINY, 1, (WIDE, MEASURED)))),
    ParticipantRegistered(account(1), peer(1), consented=True),
)


def has(hardware: str) -> MLNodeSet:
    return MLNodeSet(account(1), MLNodeRegistration(NODE, (TINY,), hardware))


def reached(epoch: int) -> PocCommitted:
    return commit(2, 5, epoch=epoch)


GONE = MLNodeRemoved(account(1), NODE)
LEFT = ParticipantLeft(account(1))
BACK = ParticipantRegistered(account(1), peer(1), consented=True)


def fraud_band(*events: EventBody) -> HonestBand:
    return fraud_bands_of(state_of(*CALIBRATED, *events), None)(account(1), NODE, TINY)


@pytest.mark.parametrize(
    "events",
    [
        (has("1x amd mi300x"), has("1x nvidia h200")),
        (has("1x amd mi300x"), reached(7), has("1x moon"), has("1x nvidia h200"), reached(8)),
        (has("1x amd mi300x"), GONE, has("1x nvidia h200")),
        (has("1x amd mi300x"), LEFT, BACK, has("1x nvidia h200")),
        (has("1x amd mi300x"), has("1x moon")),
        (has("1x amd mi300x"), GONE),
        (has("1x amd mi300x"), LEFT),
        (),
    ],
)
def test_who_changed_its_hardware_is_convicted_by_no_band_narrower_than_any_it_may_have_had(
    events: tuple[EventBody, ...],
) -> None:
    found = fraud_band(*events)
    for band in (WIDE, MEASURED, default_band(model())):
        assert widest_of((found, band)) == found


@pytest.mark.parametrize(
    "events",
    [
        (has("1x nvidia h200"),),
        (has("1x nvidia h200"), has("1x NVIDIA H200")),
        (has("1x nvidia h200"), BACK),
        (has("1x nvidia h200"), MLNodeSet(account(1), MLNodeRegistration(NodeId("other"), (TINY,), "1x moon"))),
        (has("1x amd mi300x"), reached(7), has("1x nvidia h200"), reached(8), reached(8 + EPOCHS_KEPT)),
    ],
)
def test_hardware_that_stays_of_one_class_is_convicted_by_its_own_band(events: tuple[EventBody, ...]) -> None:
    assert fraud_band(*events) == MEASURED


def test_a_change_is_remembered_as_long_as_what_was_answered_before_may_be_judged() -> None:
    events = (has("1x amd mi300x"), reached(7), has("1x nvidia h200"), reached(8), reached(7 + EPOCHS_KEPT))
    assert fraud_band(*events) != MEASURED


def test_a_change_after_epochs_in_which_nobody_committed_is_not_as_old_as_these() -> None:
    """It is in a block before the first commitment of epoch 500, and not in epoch 7, the newest that was known."""
    events = (has("1x amd mi300x"), reached(7), has("1x nvidia h200"), reached(500), reached(501))
    assert fraud_band(*events) != MEASURED


def test_an_honest_machine_under_a_name_that_now_is_another_loses_no_collateral() -> None:
    """Its answers lie beyond the class that took its place, and within its own."""
    state = state_of(*CALIBRATED, has("1x amd mi300x"), has("1x nvidia h200"))
    judging, convicting = (of(state, None)(account(1), NODE, TINY) for of in (bands_of, fraud_bands_of))
    (accused,) = audit_outcomes(previous(), SEEDS, by_auditors(BESIDE), WEIGHTS, lambda *_: judging)
    again = judged_again(accused, dict.fromkeys(range(2, 10), BESIDE))

    def reason(fraud: HonestBand) -> str:
        before = previous(accused, books=())
        (found,) = audit_outcomes(before, SEEDS, again, WEIGHTS, lambda *_: judging, fraud_band_of=lambda *_: fraud)
        assert found.fate is Verdict.INVALID
        return found.reason

    assert reason(convicting) == NARROWLY_PROVEN != reason(judging)


VECTORS_OF = replace(model(), model_args=("--runner", "pooling"), poc_distance_max=400_000)
NEAR = replace(MEASURED, poc_distance_max=100)
FARTHER = replace(WIDE, poc_distance_max=206_760)


@pytest.mark.parametrize(
    ("bands", "hardware", "is_fraud"),
    [
        ((NEAR,), ["1x nvidia h200"], True),
        ((NEAR,), ["1x moon"], False),
        ((FARTHER, NEAR), ["1x amd mi300x", "1x nvidia h200"], False),
        ((), ["1x moon"], True),
        ((replace(NEAR, poc_distance_max=2_000_000),), ["1x moon", "1x nvidia h200"], True),
    ],
)
@pytest.mark.parametrize("is_found", [True, False])
def test_vectors_that_are_beyond_the_line_of_a_guess_alone_take_the_pay_and_no_collateral(
    bands: tuple[HonestBand, ...], hardware: list[str], is_fraud: bool, is_found: bool
) -> None:
    """Auditors hold distances against the line of the node's own band: their figures say nothing of a farther one."""
    calibrated = ModelCalibrated(TINY, 1, calibration_bytes(Calibration(TINY, 1, bands))) if bands else None
    state = state_of(
        ModelRecorded(VECTORS_OF),
        *([calibrated] if calibrated else []),
        ParticipantRegistered(account(1), peer(1), consented=True),
        *(has(name) for name in hardware),
    )
    judging, convicting = (of(state, None)(account(1), NODE, TINY) for of in (bands_of, fraud_bands_of))
    line = far_line(judging.poc_distance_max)
    figures = figures_of([line if is_found else line // 50] * 16, judging.poc_distance_max)
    in_charge = replace(previous().group, models=(VECTORS_OF,))

    def outcomes(bundles: dict[Address, VoteBundle], *before: AuditOutcome) -> tuple[AuditOutcome, ...]:
        known = replace(previous(*before, books=() if before else None), group=in_charge)
        return audit_outcomes(known, SEEDS, bundles, WEIGHTS, lambda *_: judging, fraud_band_of=lambda *_: convicting)

    (accused,) = outcomes(by_auditors(figures))
    assert bool(accused.accused) is is_found
    if is_found:
        (found,) = outcomes(judged_again(accused, dict.fromkeys(range(2, 10), figures)), accused)
        assert (found.fate, found.reason) == (Verdict.INVALID, VECTORS if is_fraud else NARROWLY_PROVEN)


def lenient(_account: Address, _node: NodeId, _model: ModelId) -> HonestBand:
    return WIDEST_BAND


def strict(_account: Address, _node: NodeId, _model: ModelId) -> HonestBand:
    return BAND


def after_appeal(figures: AuditFigures, fraud_band: HonestBand) -> AuditOutcome:
    """An accusation by the node's own band, and what everybody who judges it again makes of it."""
    (accused,) = audit_outcomes(previous(), SEEDS, by_auditors(FAR_OFF), WEIGHTS, strict)
    again = judged_again(accused, dict.fromkeys(range(2, 10), figures))
    (found,) = audit_outcomes(
        previous(accused, books=()),
        SEEDS,
        again,
        WEIGHTS,
        strict,
        fraud_band_of=lambda *_: fraud_band,
    )
    return found


def test_what_only_a_guess_proves_takes_the_pay_and_is_no_fraud() -> None:
    unpaid = after_appeal(FAR_OFF, WIDEST_BAND)
    assert (unpaid.fate, unpaid.reason) == (Verdict.INVALID, NARROWLY_PROVEN)
    convicted = after_appeal(FAR_OFF, BAND)
    assert convicted.fate is Verdict.INVALID and convicted.reason != NARROWLY_PROVEN


def chain_of(fraud_bands: Sequence[HonestBand], figures: AuditFigures) -> list[AuditOutcome]:
    """Epochs in which everybody audits and judges again, by these bands for fraud; until it is found."""
    known: tuple[AuditOutcome, ...] = ()
    found = []
    for fraud_band in fraud_bands:
        bundles = by_auditors(figures)
        for outcome in known:
            for validator, again in judged_again(outcome, dict.fromkeys(range(2, 10), figures)).items():
                both = (*again.audits, *bundles[validator].audits)
                bundles[validator] = replace(bundles[validator], audits=tuple(sorted(both, key=audit_order)))
        known = audit_outcomes(
            previous(*known), SEEDS, bundles, WEIGHTS, strict, fraud_band_of=lambda *_, band=fraud_band: band
        )
        found += known
        if found[-1].fate is Verdict.INVALID and found[-1].reason != NARROWLY_PROVEN:
            break
    return found


@pytest.mark.parametrize("mismatches", [3, 4, 5, 12])
def test_where_many_judge_a_guess_takes_the_pay_of_every_epoch_once_it_proves(mismatches: int) -> None:
    figures = AuditFigures(200, mismatches, mismatches * 50_000, 0, 0, 0, 100_000_000)
    found = chain_of([WIDEST_BAND] * 30, figures)
    unpaid = [outcome.reason == NARROWLY_PROVEN for outcome in found]
    first = unpaid.index(True)
    measured = chain_of([BAND] * 30, figures)
    assert len(measured) == first + 1  # which is when it would be fraud by a band of its own
    assert all(unpaid[first:])


def test_a_band_of_its_own_makes_no_fraud_of_what_was_confirmed_by_a_guess() -> None:
    """The owner measures the hardware at last, or its host names another: only what is judged from then on convicts."""
    wrong = AuditFigures(200, 4, 200_000, 0, 0, 0, 100_000_000)
    found = chain_of([WIDEST_BAND] * 4 + [BAND] * 20, wrong)
    assert found[3].reason == NARROWLY_PROVEN
    assert max(found[3].convicting, default=0) <= 0
    # What they find in one epoch proves nothing by itself.
    assert max(found[0].evidence) < CONFIRMED_MICRO_BITS
    assert all(outcome.reason == NARROWLY_PROVEN for outcome in found[3:-1])
    assert found[-1].fate is Verdict.INVALID and found[-1].reason != NARROWLY_PROVEN
    measured = chain_of([BAND] * 10, wrong)
    assert len(measured) == 4
    # It takes as many epochs of answers judged again as if there had been no guess.
    assert len(found) - 4 == sum(bool(outcome.accused) for outcome in measured[:-1])


def test_what_was_confirmed_by_the_guess_before_convicts_nobody_later() -> None:
    """Figures that say nothing any more: the sum of before stays the guess's."""
    (accused,) = audit_outcomes(previous(), SEEDS, by_auditors(FAR_OFF), WEIGHTS, strict)
    unpaid = after_appeal(FAR_OFF, WIDEST_BAND)
    assert unpaid.confirmed
    open_still = AuditOutcome(
        EXECUTOR, TINY, Verdict.INVALID, 0, 0, 0, NARROWLY_PROVEN, (), unpaid.confirmed, accused.accused
    )
    books = (CommittedBook(EXECUTOR, BOOK),)
    (later,) = audit_outcomes(
        previous(open_still, books=books),
        SEEDS,
        judged_again(open_still, dict.fromkeys(range(2, 10), FAR_OFF)),
        WEIGHTS,
        strict,
        fraud_band_of=lenient,
    )
    assert later.reason == NARROWLY_PROVEN


def test_what_convicted_before_adds_nothing_to_what_is_found_by_a_guess_alone() -> None:
    """However much that was: what many find by a guess takes the pay, and not the collateral."""
    (accused,) = audit_outcomes(previous(), SEEDS, by_auditors(FAR_OFF), WEIGHTS, strict)
    known = replace(accused, convicting=(1 << 40,) * len(BETS))
    again = judged_again(known, dict.fromkeys(range(2, 10), FAR_OFF))
    (found,) = audit_outcomes(previous(known, books=()), SEEDS, again, WEIGHTS, strict, fraud_band_of=lenient)
    assert (found.fate, found.reason) == (Verdict.INVALID, NARROWLY_PROVEN)
