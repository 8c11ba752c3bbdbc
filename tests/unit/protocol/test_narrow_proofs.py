"""Fraud by audits takes a third of all weight: fewer take the pay of the nodes with that model, and nothing else."""

from collections.abc import Mapping
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from node.protocol.appeals import NARROWLY_PROVEN, narrowly_proven
from node.protocol.audit_majorities import WITHHELD
from node.protocol.audit_outcomes import ACCUSED, UNCONFIRMED, audit_outcomes, committed_books
from node.protocol.audit_sampling import draws_of
from node.protocol.audit_votes import REJUDGED
from node.protocol.audits import BETS, CONFIRMED_MICRO_BITS, accumulate_confirmed, gains, proven_by, total_of
from node.protocol.codec import from_bytes, to_bytes
from node.protocol.findings import AuditFigures, AuditOutcome, AuditVote, NodeFate, NodeOutcome
from node.protocol.identifiers import Address, Hash32
from node.protocol.penalties import fraudulent, penalties
from node.protocol.records import EpochGroup
from node.protocol.verdicts import Verdict
from node.protocol.weights import unproven_weights
from tests.builders import NODE, TINY, account
from tests.unit.protocol.audited_group import (
    BAD,
    BAND,
    BOOK,
    EXECUTOR,
    GOOD,
    MILD,
    SEEDS,
    WEIGHTS,
    band_of,
    bundles_of,
    by_auditors,
    digest_of,
    judged,
    missing,
    previous,
)
from tests.unit.protocol.test_receipt_books import BIG, group_of

DIGESTS = tuple(digest_of(number) for number in range(10))
DUST = group_of((1, 400, (TINY,)), (2, 1, (TINY,)), (3, 1, (TINY,)), *((n, 200, (BIG,)) for n in (4, 5, 6)))
"""One serves a model, and two more with next to nothing: two in a thousand of all weight."""
JOINED = group_of((1, 400, (TINY,)), (2, 1, (TINY,)), (3, 1, (TINY,)), *((n, 200, (TINY,)) for n in (4, 5, 6)))
"""The same, once all others have the model too."""


def accused_of(*digests: Hash32, **changes: object) -> AuditOutcome:
    known = AuditOutcome(EXECUTOR, TINY, Verdict.ABSTAIN, 10, 0, 1000, ACCUSED, accused=digests or DIGESTS)
    return replace(known, **changes)


def after(known: AuditOutcome, group: EpochGroup, said: Mapping[int, AuditFigures]) -> AuditOutcome | None:
    """What becomes of an accusation when these judge all of it so."""
    digests = (*known.accused, *known.challenged)
    votes: dict[Address, list[AuditVote]] = {
        account(number): [judged(REJUDGED, figures, digest) for digest in digests] for number, figures in said.items()
    }
    weights = {member.participant: member.weight for member in group.members}
    before = replace(previous(known, books=()), group=group)
    found = audit_outcomes(before, SEEDS, bundles_of(votes), weights, band_of)
    return found[0] if found else None


def is_fraud(outcome: AuditOutcome | None, group: EpochGroup) -> bool:
    audits = [] if outcome is None else [outcome]
    registered = {member.participant for member in group.members}
    return fraudulent(penalties(group, registered, [], audits, [], {})) == {EXECUTOR}


@pytest.mark.parametrize("is_challenge", [True, False])
def test_two_who_weigh_next_to_nothing_convict_nobody_and_take_the_pay(is_challenge: bool) -> None:
    known = accused_of(accused=(), challenged=DIGESTS[:4]) if is_challenge else accused_of()
    found = after(known, DUST, {2: BAD, 3: BAD})
    assert found is not None
    assert (found.fate, found.reason) == (Verdict.INVALID, NARROWLY_PROVEN)
    assert narrowly_proven([found]) == {(EXECUTOR, TINY): 400}
    assert not is_fraud(found, DUST)
    assert from_bytes(AuditOutcome, to_bytes(found)) == found


@pytest.mark.parametrize(("confirming", "fraud"), [((2, 3, 4), False), ((2, 3, 4, 5), True)])
def test_a_third_of_all_weight_convicts_the_accused_included(confirming: tuple[int, ...], fraud: bool) -> None:
    """Of 1,002 it takes 334: one of 200 and the two are too few, one more is enough."""
    others = {number: GOOD for number in (5,) if number not in confirming}
    group = group_of((1, 400, (TINY,)), (2, 1, (TINY,)), (3, 1, (TINY,)), (4, 200, (TINY,)), (5, 133, (TINY,)),
                     (6, 267, (BIG,)))  # fmt: skip
    found = after(accused_of(), group, dict.fromkeys(confirming, BAD) | others)
    assert found is not None
    assert found.fate is Verdict.INVALID
    assert is_fraud(found, group) is fraud


def test_where_each_model_is_served_by_a_tenth_who_cheats_is_unpaid_in_every_epoch_and_who_stops_is_paid() -> None:
    tenth = group_of(*((n, 10, (TINY,)) for n in range(1, 11)), *((n, 10, (BIG,)) for n in range(11, 101)))
    judges = range(2, 11)
    known: AuditOutcome | None = accused_of()
    for _ in range(4):
        assert known is not None
        # what is booked meanwhile is judged again as well, while it is open
        known = after(replace(known, accused=DIGESTS), tenth, dict.fromkeys(judges, BAD))
        assert known is not None
        assert (known.fate, known.reason) == (Verdict.INVALID, NARROWLY_PROVEN)
        assert not is_fraud(known, tenth)
        assert max(known.confirmed) == CONFIRMED_MICRO_BITS
    assert known is not None
    for _ in range(200):
        known = after(replace(known, accused=DIGESTS), tenth, dict.fromkeys(judges, GOOD))
        assert known is None or (known.fate, known.reason) == (Verdict.ABSTAIN, UNCONFIRMED)
        if known is None:
            break
    assert known is None  # overturned: nothing is left to say


def test_a_mild_cheat_among_few_is_unpaid_once_its_evidence_adds_up_and_as_long_as_it_goes_on() -> None:
    fates, known = [], accused_of(*DIGESTS[:4])
    for _ in range(6):
        found = after(known, DUST, {2: MILD, 3: MILD})
        assert found is not None
        fates.append(found.fate)
        known = replace(found, accused=known.accused)
    assert fates == [Verdict.ABSTAIN] * 2 + [Verdict.INVALID] * 4


def test_what_few_found_convicts_nobody_with_a_little_bad_luck_on_top_when_many_judge() -> None:
    """Two of no weight bring an honest node as near as they like, and wait for the day on which many get the model."""
    assert 0 < max(gains(MILD, BAND)) < CONFIRMED_MICRO_BITS // 4  # so much an honest machine may gain by bad luck
    slandered = after(accused_of(), DUST, {2: BAD, 3: BAD})
    assert slandered is not None
    assert (max(slandered.confirmed), slandered.convicting) == (CONFIRMED_MICRO_BITS, ())
    watched = replace(slandered, accused=DIGESTS[:1])
    unlucky = after(watched, JOINED, dict.fromkeys((4, 5, 6), MILD))
    assert unlucky is not None
    assert (unlucky.reason, is_fraud(unlucky, JOINED)) == (NARROWLY_PROVEN, False)
    assert max(unlucky.convicting) == max(gains(MILD, BAND))
    paid = after(replace(unlucky, accused=DIGESTS[:1]), JOINED, dict.fromkeys((4, 5, 6), GOOD))
    assert paid is not None
    assert paid.fate is Verdict.ABSTAIN
    alike = replace(watched, convicting=watched.confirmed)  # were it many who had found it, it would be proven
    assert is_fraud(after(alike, JOINED, dict.fromkeys((4, 5, 6), MILD)), JOINED)


@pytest.mark.parametrize("epochs", [1, 2, 5])
def test_a_cartel_that_is_most_of_those_who_judge_brings_nobody_nearer_to_a_little_bad_luck(epochs: int) -> None:
    """32 of 100 say what they like, beside 10 honest ones: together a third, and the middle is the cartel's."""
    group = group_of((1, 20, (TINY,)), (2, 16, (TINY,)), (3, 16, (TINY,)), (4, 5, (TINY,)), (5, 5, (TINY,)),
                     (6, 38, (BIG,)))  # fmt: skip
    cartel, honest = dict.fromkeys((2, 3), BAD), dict.fromkeys((4, 5), GOOD)
    known: AuditOutcome | None = accused_of()
    for _ in range(epochs):
        assert known is not None
        known = after(replace(known, accused=DIGESTS), group, cartel | honest)
        assert known is not None
        assert known.reason == NARROWLY_PROVEN
        assert max(known.convicting) <= 0  # of log-probabilities no answer tells
    assert known is not None
    unlucky = after(replace(known, accused=DIGESTS[:4]), group, cartel | dict.fromkeys((4, 5), MILD))
    assert not is_fraud(unlucky, group)
    caught = after(replace(known, accused=DIGESTS), group, cartel | dict.fromkeys((4, 5), BAD))
    assert is_fraud(caught, group)


NO_THIRD = group_of((1, 100, (TINY,)), (2, 60, (TINY,)), *((n, 100, (TINY,)) for n in (3, 4, 5)), (6, 540, (BIG,)))
"""Those with the model are a third of all only with a friend of the first."""
HARDLY_WRONG = AuditFigures(200, 3, 3 * 48_000, 0, 0, 0, 100_000_000)
LUCKY = AuditFigures(400, 0, 0, 0, 0, 0, 400_000_000)


@pytest.mark.parametrize("has_friend", [True, False])
def test_where_few_serve_a_model_no_friend_chooses_which_answers_count(has_friend: bool) -> None:
    """It votes on the one that speaks for the cheat, which more weight has judged than all others then."""
    known = accused_of(evidence=tuple(15 * max(0, gained) for gained in gains(MILD, BAND)))
    assert proven_by(known.evidence) is not None
    votes = {account(n): [judged(REJUDGED, MILD, digest) for digest in DIGESTS] for n in (3, 4, 5)}
    for cast in votes.values():
        cast[0] = judged(REJUDGED, LUCKY, DIGESTS[0])
    if has_friend:
        votes[account(2)] = [judged(REJUDGED, LUCKY, DIGESTS[0])]
    weights = {member.participant: member.weight for member in NO_THIRD.members}
    for _ in range(4):
        before = replace(previous(known, books=()), group=NO_THIRD)
        (known,) = audit_outcomes(before, SEEDS, bundles_of(votes), weights, band_of)
        known = replace(known, accused=DIGESTS)
    assert (known.fate, known.reason) == (Verdict.INVALID, NARROWLY_PROVEN)


def test_where_few_serve_a_model_no_friend_begins_the_sum_anew_by_judging_now_and_then() -> None:
    known: AuditOutcome | None = accused_of(*DIGESTS[:3])
    fates = []
    for epoch in range(8):
        assert known is not None
        judges = (2, 3, 4, 5) if epoch % 2 else (3, 4, 5)
        known = after(replace(known, accused=DIGESTS[:3]), NO_THIRD, dict.fromkeys(judges, MILD))
        assert known is not None
        fates.append(known.reason)
    first = fates.index(NARROWLY_PROVEN)
    assert first <= 4
    assert set(fates[first:]) == {NARROWLY_PROVEN}


@pytest.mark.parametrize(("judges", "is_kept"), [((2, 3, 4, 5), True), ((3, 4, 5), False), ((2,), False), ((), False)])
def test_what_convicts_begins_anew_whenever_less_than_a_third_judges(judges: tuple[int, ...], is_kept: bool) -> None:
    """So nobody who is needed for the third chooses by its silence which epochs count."""
    before = tuple(max(0, gained) for gained in gains(MILD, BAND))
    known = accused_of(*DIGESTS[:3], confirmed=before, convicting=before)
    found = after(known, NO_THIRD, dict.fromkeys(judges, MILD))
    assert found is not None
    assert max(found.convicting, default=0) == (4 * max(before) if is_kept else 0)
    assert max(found.confirmed) == (4 if len(judges) > 1 else 1) * max(before)
    (unshown,) = audit_outcomes(
        replace(previous(replace(known, accused=()), books=()), group=NO_THIRD), SEEDS, {}, WEIGHTS, band_of
    )
    assert unshown.convicting == before


@pytest.mark.parametrize("reason", [WITHHELD, "not-the-tokens", "malformed"])
@pytest.mark.parametrize(
    ("judges", "rest", "others"),
    [({2: 16, 3: 16, 4: 29, 5: 29}, 0, (4, 5)), ({2: 6, 3: 6, 4: 21}, 900, (4,))],
    ids=["32 of 100, who all have the model", "12 of 1,000, where a tenth has it"],
)
def test_a_third_of_those_with_a_model_take_no_pay_by_an_answer_that_they_alone_are_shown(
    judges: Mapping[int, int], rest: int, others: tuple[int, ...], reason: str
) -> None:
    """The friends of a payer, 2 and 3: nobody else is shown it."""
    with_model = [(number, weight, (TINY,)) for number, weight in judges.items()]
    group = group_of((1, 10, (TINY,)), *with_model, *([(50, rest, (BIG,))] if rest else []))
    weights = {member.participant: member.weight for member in group.members}

    def found(known: AuditOutcome) -> tuple[AuditOutcome, ...]:
        votes = {account(n): [judged(REJUDGED, BAD, DIGESTS[0])] for n in (2, 3)}
        votes |= {account(n): [replace(missing(REJUDGED, reason), receipt_digest=DIGESTS[0])] for n in others}
        before = replace(previous(known, books=()), group=group)
        return audit_outcomes(before, SEEDS, bundles_of(votes), weights, band_of)

    assert found(accused_of(accused=(), challenged=DIGESTS[:1])) == ()
    # Nor if auditors accuse by it: most of a draw can make an answer up, which nobody can show to others.
    (accused,) = found(accused_of(DIGESTS[0], challenged=DIGESTS[:1]))
    assert (accused.fate, accused.reason) == (Verdict.ABSTAIN, UNCONFIRMED)


def test_a_challenge_that_few_find_proven_brings_nothing_back_that_was_overturned() -> None:
    """A sum that speaks for a node ends its accusation, and the evidence, in the epoch of a challenge as in any."""
    evidence = tuple(15 * max(0, gained) for gained in gains(MILD, BAND))
    known = accused_of(*DIGESTS[:4], challenged=DIGESTS[9:], evidence=evidence)
    votes = {account(n): [judged(REJUDGED, LUCKY, digest) for digest in DIGESTS[:4]] for n in (2, 3)}
    for cast in votes.values():
        cast.append(judged(REJUDGED, BAD, DIGESTS[9]))
    weights = {member.participant: member.weight for member in DUST.members}
    (found,) = audit_outcomes(
        replace(previous(known, books=()), group=DUST), SEEDS, bundles_of(votes), weights, band_of
    )
    assert (found.fate, found.reason) == (Verdict.INVALID, NARROWLY_PROVEN)
    assert (found.confirmed, found.evidence, found.accused) == ((), (), ())


def test_an_answer_that_a_cheat_shows_to_its_friends_alone_keeps_it_from_no_punishment() -> None:
    """Its friends, 20 of 100, are a third of those with the model, and not of all."""
    honest, friends = (2, 3), (4, 5)
    tiny = [(1, 1, (TINY,)), (2, 20, (TINY,)), (3, 16, (TINY,)), (4, 10, (TINY,)), (5, 10, (TINY,))]
    group = group_of(*tiny, (6, 43, (BIG,)))
    before_it = tuple(max(0, 4 * gained) for gained in gains(MILD, BAND))
    known = accused_of(*DIGESTS[:9], confirmed=before_it, convicting=before_it)  # with eight answers more it is proven
    votes = {account(n): [judged(REJUDGED, MILD, digest) for digest in DIGESTS[:8]] for n in honest}
    votes |= {account(n): [judged(REJUDGED, GOOD, digest) for digest in DIGESTS[:9]] for n in friends}
    weights = {member.participant: member.weight for member in group.members}
    before = replace(previous(known, books=()), group=group)
    (found,) = audit_outcomes(before, SEEDS, bundles_of(votes), weights, band_of)
    assert is_fraud(found, group)


def test_who_turned_away_from_the_model_before_it_was_accused_is_unpaid_all_the_same() -> None:
    """It mined the model for the epoch in which it cheats with it, and another one ever since."""
    others = ((2, 100, (TINY,)), (3, 100, (TINY,)), *((n, 200, (BIG,)) for n in (4, 5, 6)))
    then, since = group_of((1, 400, (TINY,)), *others), group_of((1, 400, (BIG,)), *others)
    weights = {member.participant: member.weight for member in then.members}
    bundle = replace(bundles_of({EXECUTOR: []})[EXECUTOR], receipts=BOOK)
    books = committed_books({EXECUTOR: bundle}, weights, then)
    result = replace(previous(books=books), group=since)
    audited = bundles_of({account(n): [judged(draw, BAD) for draw in range(draws_of(BOOK))] for n in range(2, 7)})
    (accused,) = audit_outcomes(result, SEEDS, audited, weights, band_of)
    assert accused.weight == 400
    found = after(accused, since, {2: BAD, 3: BAD})
    assert found is not None
    now = NodeOutcome(EXECUTOR, NODE, BIG, NodeFate.ACCEPTED, 400, 0, 0, 400, "")
    assert unproven_weights(narrowly_proven([found]), since, [now]) == {EXECUTOR: 400}


def test_what_was_weighed_is_kept_while_answers_are_judged_again_and_no_longer() -> None:
    few = dict.fromkeys((2, 3), BAD)
    found = after(accused_of(weight=777), DUST, few)
    assert found is not None
    assert found.weight == 777
    found = after(accused_of(weight=77), DUST, few)
    assert found is not None
    assert found.weight == 400
    (honest,) = audit_outcomes(previous(), SEEDS, by_auditors(GOOD), WEIGHTS, band_of)
    assert honest.weight == 0


weight = st.integers(1, 400)
what = st.sampled_from([GOOD, MILD, BAD])


@settings(max_examples=200, deadline=None)
@given(
    st.lists(weight, min_size=2, max_size=8),
    st.integers(1, 1000),
    st.integers(0, 1000),
    st.data(),
)
def test_no_members_below_a_third_convict_whatever_they_say_and_however_few_have_the_model(
    judges: list[int], own: int, rest: int, data: st.DataObject
) -> None:
    """Whoever has the model besides, and finds nothing, or keeps silent."""
    liars = set(data.draw(st.lists(st.integers(2, len(judges) + 1), unique=True)))
    numbers = range(2, len(judges) + 2)
    outside = [(50, rest, (BIG,))] if rest else []
    group = group_of((1, own, (TINY,)), *zip(numbers, judges, [(TINY,)] * len(judges), strict=True), *outside)
    before = data.draw(st.sampled_from([(), tuple(max(0, gained) for gained in gains(BAD, BAND))]))
    known = accused_of(
        confirmed=before,
        convicting=before,
        challenged=(digest_of(77),),
    )
    said = {number: data.draw(what) for number in liars}
    said |= {number: GOOD for number in numbers if number not in liars and data.draw(st.booleans())}
    found = after(known, group, said)
    total = own + sum(judges) + rest
    weight_of_liars = sum(judges[number - 2] for number in liars if said[number] is not GOOD)
    if 3 * weight_of_liars < total:
        assert not is_fraud(found, group)


@settings(max_examples=300, deadline=None)
@given(st.lists(weight, min_size=2, max_size=4), st.lists(weight, min_size=1, max_size=3), st.data())
def test_what_convicts_is_never_more_than_honest_judges_find_however_others_choose_answers_and_epochs(
    honest: list[int], liars: list[int], data: st.DataObject
) -> None:
    """Liars that weigh less than a third, and may be most of those with the model, say what they like of each."""
    rest = max(0, 3 * sum(liars) - sum(honest) - sum(liars))
    judges = [*honest, *liars]
    with_model = [(number, weighs, (TINY,)) for number, weighs in enumerate(judges, 2)]
    group = group_of((1, 1, (TINY,)), *with_model, *([(50, rest, (BIG,))] if rest else []))
    weights = {member.participant: member.weight for member in group.members}
    assert 3 * sum(liars) < sum(weights.values())
    known, bound = accused_of(*DIGESTS[:3]), (0,) * len(BETS)
    for _ in range(6):
        truth = [data.draw(st.sampled_from([GOOD, HARDLY_WRONG, MILD])) for _ in DIGESTS[:3]]
        votes: dict[Address, list[AuditVote]] = {}
        for number in range(2, len(judges) + 2):
            for digest, figures in zip(DIGESTS, truth, strict=False):
                is_honest = number < len(honest) + 2
                said = figures if is_honest else data.draw(st.sampled_from([None, GOOD, MILD, BAD]))
                if said is not None:
                    votes.setdefault(account(number), []).append(judged(REJUDGED, said, digest))
        before = replace(previous(known, books=()), group=group)
        found = audit_outcomes(before, SEEDS, bundles_of(votes), weights, band_of)
        bound = accumulate_confirmed(bound, total_of(gains(figures, BAND) for figures in truth)) or (0,) * len(BETS)
        if not found or is_fraud(found[0], group):
            assert not found or proven_by(bound, CONFIRMED_MICRO_BITS) is not None
            break
        convicting = found[0].convicting
        assert all(bits <= most for bits, most in zip(convicting, bound, strict=False))
        bound = convicting or (0,) * len(BETS)
        known = replace(found[0], accused=DIGESTS[:3])
