"""An accusation stays open until answers that were judged again end it, or nothing has spoken for it for long."""

from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from node.protocol import appeals
from node.protocol.appeals import QUIET_EPOCHS_MAX
from node.protocol.audit_outcomes import ACCUSED, UNCONFIRMED, audit_outcomes
from node.protocol.audit_sampling import auditors_of, draws_of
from node.protocol.audit_votes import REJUDGED
from node.protocol.audits import (
    BETS,
    CONFIRMED_MICRO_BITS,
    DISTANCE_CLIP_MICRO,
    LIMIT_MICRO_BITS,
    PULLED_DOWN_MICRO_BITS,
    gains,
    is_overturned,
    proven_by,
)
from node.protocol.audits import Test as AuditTest
from node.protocol.codec import from_bytes, to_bytes
from node.protocol.findings import AuditFigures, AuditOutcome, AuditVote, CommittedBook
from node.protocol.identifiers import Address, Hash32, ModelId, NodeId
from node.protocol.verdicts import Verdict
from tests.builders import NODE, TINY, account
from tests.unit.protocol.audited_group import (
    BAND,
    BOOK,
    DRAWS,
    EXECUTOR,
    GOOD,
    GROUP,
    JUDGES,
    SEED,
    SEEDS,
    WEIGHTS,
    band_of,
    bundles_of,
    digest_of,
    is_fraud,
    judged,
    previous,
)

HARDLY_WRONG = AuditFigures(200, 3, 3 * 48_000, 0, 0, 0, 100_000_000)
"""A third of a bit: an answer that is short of the least evidence that overturns, and adds up."""
WRONG = AuditFigures(200, 4, 4 * 48_000, 0, 0, 0, 100_000_000)
DIGEST = digest_of(0)
ACCUSING = (0,) * (len(BETS) - 1)
Judgement = Callable[[int], AuditFigures | None]
"""Of the answers of an epoch; None where it shows none."""


def shown_in(epoch: int, names: int) -> list[tuple[int, Hash32, NodeId]]:
    """The answers of an epoch: draw, digest, and the node that each names, in turns."""
    return [
        (
            draw,
            Hash32(epoch.to_bytes(2) + bytes([draw]) + b"\xaa" * 29),
            NodeId(f"n{(epoch * DRAWS + draw) % names}") if names > 1 else NODE,
        )
        for draw in range(draws_of(BOOK))
    ]


def epochs(
    of_epoch: Judgement, count: int, *start: AuditOutcome, names: int = 1, judges: range = JUDGES
) -> list[tuple[AuditOutcome, ...]]:
    """What audits come to in epochs in which all who judge find the same; until fraud is found or nothing is left."""
    known, found, before = start, [], dict[Hash32, tuple[AuditFigures, NodeId]]()
    for epoch in range(count):
        figures = of_epoch(epoch)
        votes: dict[Address, list[AuditVote]] = {}
        for outcome in known:
            for digest in outcome.accused:
                said, answering = before.get(digest, (GOOD, NODE))
                for number in judges:
                    vote = replace(judged(REJUDGED, said, digest), node_id=answering)
                    votes.setdefault(account(number), []).append(vote)
        answers = [] if figures is None else shown_in(epoch, names)
        for draw, digest, node_id in answers:
            assert figures is not None
            before[digest] = figures, node_id
            for auditor in auditors_of(SEED, EXECUTOR, draw, GROUP):
                votes.setdefault(auditor, []).append(replace(judged(draw, figures, digest), node_id=node_id))
        books = (CommittedBook(EXECUTOR, BOOK),) if answers else ()
        known = audit_outcomes(previous(*known, books=books), SEEDS, bundles_of(votes), WEIGHTS, band_of)
        found.append(known)
        if not known or any(is_fraud(outcome) for outcome in known):
            break
    return found


def ends_in_fraud(found: list[tuple[AuditOutcome, ...]]) -> bool:
    return any(is_fraud(outcome) for outcome in found[-1])


@pytest.mark.parametrize("figures", [HARDLY_WRONG, WRONG])
@pytest.mark.parametrize("every", [2, 3, 20])
def test_who_shows_answers_in_some_epochs_only_is_convicted_by_those(figures: AuditFigures, every: int) -> None:
    found = epochs(lambda epoch: None if epoch % every else figures, 16 * every)
    assert ends_in_fraud(found)
    shown = -(-len(found) // every)
    assert shown <= len(epochs(lambda _: figures, 30))


@pytest.mark.parametrize("names", [2, 4, 16, 64])
@pytest.mark.parametrize("figures", [HARDLY_WRONG, WRONG])
@pytest.mark.parametrize("every", [1, 2])
def test_many_names_last_no_longer_than_one(names: int, figures: AuditFigures, every: int) -> None:
    def shows(epoch: int) -> AuditFigures | None:
        return None if epoch % every else figures

    found = epochs(shows, 30 * every, names=names)
    assert ends_in_fraud(found)
    assert found == epochs(shows, 30 * every)


def test_what_is_narrowly_proven_is_paid_again_while_nothing_is_judged_and_not_forgotten() -> None:
    unpaid = outcome_of(evidence=accusing(), confirmed=(*ACCUSING, CONFIRMED_MICRO_BITS))
    assert QUIET_EPOCHS_MAX >= 64 * 4
    for epoch in range(QUIET_EPOCHS_MAX):
        (unpaid,) = audit_outcomes(previous(unpaid, books=()), SEEDS, {}, WEIGHTS, band_of)
        assert (unpaid.fate, unpaid.reason, unpaid.quiet_epochs) == (Verdict.ABSTAIN, UNCONFIRMED, epoch + 1)
        assert max(unpaid.confirmed) == CONFIRMED_MICRO_BITS
    assert audit_outcomes(previous(unpaid, books=()), SEEDS, {}, WEIGHTS, band_of) == ()


def accusing(bits: int = LIMIT_MICRO_BITS) -> tuple[int, ...]:
    return (bits, *ACCUSING)


def outcome_of(**changes: object) -> AuditOutcome:
    known = AuditOutcome(EXECUTOR, TINY, Verdict.ABSTAIN, 0, 0, 0, UNCONFIRMED)
    return replace(known, **changes)


def test_only_what_pulls_the_accusing_bet_down_overturns() -> None:
    assert is_overturned((), ())
    assert is_overturned(accusing(LIMIT_MICRO_BITS - 1), (1_999_999, *ACCUSING))
    assert not is_overturned(accusing(LIMIT_MICRO_BITS - 1), (2_000_000, *ACCUSING))
    assert not is_overturned(accusing(), ())
    assert not is_overturned(accusing(), (1 - PULLED_DOWN_MICRO_BITS, *ACCUSING))
    assert is_overturned(accusing(), (-PULLED_DOWN_MICRO_BITS, *ACCUSING))
    assert not is_overturned(accusing(), (-PULLED_DOWN_MICRO_BITS, *ACCUSING[1:], 2_000_000))


bits = st.integers(-PULLED_DOWN_MICRO_BITS, 100_000_000)
evidence = st.one_of(st.just(()), st.tuples(*[bits] * len(BETS)))


@settings(max_examples=60, deadline=None)
@given(evidence, evidence, st.lists(st.booleans(), min_size=60, max_size=60))
def test_an_honest_node_s_open_accusation_ends_and_costs_it_nothing(
    against: tuple[int, ...], confirmed: tuple[int, ...], shows: list[bool]
) -> None:
    """However it came about, and in whichever epochs it has answers, or none at all."""
    before = tuple(min(CONFIRMED_MICRO_BITS - 1, each) for each in confirmed)
    known = outcome_of(evidence=tuple(max(0, each) for each in against), confirmed=before)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(appeals, "QUIET_EPOCHS_MAX", len(shows) // 2)
        found = epochs(lambda epoch: GOOD if shows[epoch] else None, len(shows), known)
    assert all(outcome.fate is not Verdict.INVALID for outcomes in found for outcome in outcomes)
    assert not any(outcome.confirmed or outcome.accused for outcome in found[-1])


@pytest.mark.parametrize("shows", [GOOD, None])
def test_what_it_was_accused_of_and_no_answer_speaks_of_any_more_is_forgotten(
    shows: AuditFigures | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody asks for log-probabilities any more: the bets on them neither rise nor fall, and take no pay."""
    quiet_max = 20
    monkeypatch.setattr(appeals, "QUIET_EPOCHS_MAX", quiet_max)
    of_distance = tuple(LIMIT_MICRO_BITS if bet is AuditTest.DISTANCE else 0 for bet in BETS)
    proven = tuple(CONFIRMED_MICRO_BITS if bet is AuditTest.DISTANCE else 0 for bet in BETS)
    for confirmed in (proven, tuple(each // 2 for each in proven)):
        known = outcome_of(evidence=of_distance, confirmed=confirmed)
        found = epochs(lambda _: shows, 2 * quiet_max, known)
        assert len(found) > quiet_max
        assert all(outcome.fate is not Verdict.INVALID for outcomes in found for outcome in outcomes)
        assert not any(outcome.confirmed or outcome.evidence for outcome in found[-1])


CLAIMS = AuditFigures(100, 0, 0, 100, 100 * DISTANCE_CLIP_MICRO, 0, 100_000_000)
"""Log-probabilities that are none of the model's."""
OF_CLAIMS = tuple(max(0, gained) for gained in gains(CLAIMS, BAND))


def test_a_lie_about_log_probabilities_that_no_answer_has_ends_when_the_answers_are_judged_again() -> None:
    """Three of five auditors said it. What everybody reads says nothing of it, so nothing would pull that bet down."""
    known = outcome_of(evidence=OF_CLAIMS, accused=(DIGEST,))
    assert proven_by(OF_CLAIMS) is AuditTest.DISTANCE
    found = epochs(lambda _: GOOD, 3, known)
    assert [(outcome.fate, outcome.evidence, outcome.accused) for outcome in found[0]] == [(Verdict.VALID, (), ())]


def test_it_stays_open_while_none_of_its_answers_is_judged() -> None:
    known = outcome_of(evidence=OF_CLAIMS, accused=(DIGEST,))
    (found,) = audit_outcomes(previous(known, books=()), SEEDS, {}, WEIGHTS, band_of)
    assert (found.fate, found.evidence) == (Verdict.ABSTAIN, OF_CLAIMS)


@pytest.mark.parametrize("with_claims", [1, DRAWS])
def test_forged_log_probabilities_convict_though_most_answers_have_none(with_claims: int) -> None:
    digests = [digest_of(number) for number in range(DRAWS)]
    known = outcome_of(evidence=OF_CLAIMS, accused=tuple(digests))
    a_little = AuditFigures(20, 0, 0, 20, 20 * DISTANCE_CLIP_MICRO, 0, 20_000_000)
    forged = CLAIMS if with_claims == 1 else a_little
    said = [forged] * with_claims + [GOOD] * (DRAWS - with_claims)
    votes = {
        account(number): [judged(REJUDGED, figures, digest) for digest, figures in zip(digests, said, strict=True)]
        for number in JUDGES
    }
    (found,) = audit_outcomes(previous(known, books=()), SEEDS, bundles_of(votes), WEIGHTS, band_of)
    assert (found.fate, found.reason) == (Verdict.INVALID, AuditTest.DISTANCE.value)


def test_who_stops_telling_log_probabilities_while_some_speak_against_it_stays_accused() -> None:
    spoken = tuple(max(0, gained) // 20 for gained in gains(CLAIMS, BAND))
    assert 0 < max(spoken) < CONFIRMED_MICRO_BITS
    for found in epochs(lambda _: GOOD, 5, outcome_of(evidence=OF_CLAIMS, confirmed=spoken, accused=(DIGEST,))):
        assert [(outcome.reason, outcome.evidence) for outcome in found] == [(ACCUSED, OF_CLAIMS)]


def test_evidence_that_friends_make_up_of_models_that_nobody_has_is_forgotten_and_no_open_accusation() -> None:
    crowd = [outcome_of(model_id=ModelId(f"made-up-{number}"), evidence=accusing(1 << 40)) for number in range(64)]
    half = (*ACCUSING, CONFIRMED_MICRO_BITS // 2)
    known = outcome_of(confirmed=half, convicting=half)
    (found,) = audit_outcomes(previous(known, *crowd, books=()), SEEDS, {}, WEIGHTS, band_of)
    assert (found.model_id, found.confirmed, found.convicting) == (TINY, half, half)


def test_what_speaks_for_a_node_survives_its_bytes() -> None:
    for_it = (-PULLED_DOWN_MICRO_BITS, 5, *ACCUSING[1:])
    known = outcome_of(confirmed=for_it, convicting=for_it, quiet_epochs=3, weight=9)
    assert from_bytes(AuditOutcome, to_bytes(known)) == known
