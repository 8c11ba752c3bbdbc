"""Scores: every lost point has a reason and evidence, few liars change little, and nobody is its own witness."""

from hypothesis import given
from hypothesis import strategies as st

from node.protocol.findings import (
    SCORE_FULL,
    AuditOutcome,
    NodeFate,
    NodeOutcome,
    Observations,
    ParticipantScore,
    PointLoss,
    ScorePart,
    Sighting,
    SpeedMeasure,
    ValidatorOutcome,
)
from node.protocol.identifiers import Address, EpochNumber, NodeId
from node.protocol.medians import weighted_median
from node.protocol.participation import Duties
from node.protocol.records import EpochGroup, GroupMember, MLNodeSnapshot, VoteBundle
from node.protocol.scores import REASONS, _medians_of_others, participant_scores
from node.protocol.verdicts import Verdict
from tests.builders import NODE, TINY, account, peer

EPOCH = EpochNumber(4)
WEIGHTS = {account(number): 100 for number in (1, 2, 3, 4, 5)}
FAST, USUAL, SLOW = (50, 10_000), (100, 20_000), (400, 80_000)
"""(milliseconds to the first token, microseconds between tokens)"""


def group_of(*numbers: int) -> EpochGroup:
    members = (
        GroupMember(account(n), peer(n), 100, (MLNodeSnapshot(NODE, TINY, 100, 1000, (True, False)),)) for n in numbers
    )
    return EpochGroup(EPOCH, tuple(sorted(members, key=lambda m: m.participant.lower())), ())


GROUP = group_of(1, 2, 3, 4, 5)


def outcome(number: int, fate: NodeFate = NodeFate.ACCEPTED, count: int = 100, node_id: NodeId = NODE) -> NodeOutcome:
    weight = count if fate is NodeFate.ACCEPTED else 0
    return NodeOutcome(account(number), node_id, TINY, fate, count, 8, 0, weight, "")


ALL_MINED = [outcome(number) for number in (1, 2, 3, 4, 5)]


def bundles_of(
    seen: dict[int, dict[int, int]] | None = None,
    speeds: dict[int, dict[int, tuple[int, int]]] | None = None,
    without: tuple[int, ...] = (),
) -> dict[Address, VoteBundle]:
    """Everyone's bundle; by witness what was seen, by gateway what was measured."""
    bundles = {}
    for number in (1, 2, 3, 4, 5):
        if number in without:
            continue
        sightings = tuple(Sighting(account(other), value) for other, value in (seen or {}).get(number, {}).items())
        measures = tuple(
            SpeedMeasure(account(other), TINY, 10, first, token)
            for other, (first, token) in (speeds or {}).get(number, {}).items()
        )
        bundles[account(number)] = VoteBundle(
            EPOCH, account(number), (), observations=Observations(sightings, measures)
        )
    return bundles


def score_of(number: int, scores: tuple[ParticipantScore, ...]) -> ParticipantScore:
    return next(score for score in scores if score.participant == account(number))


def scores(
    bundles: dict[Address, VoteBundle],
    nodes: list[NodeOutcome] | None = None,
    audits: list[AuditOutcome] | None = None,
) -> tuple[ParticipantScore, ...]:
    return participant_scores(GROUP, WEIGHTS, ALL_MINED if nodes is None else nodes, audits or [], bundles)


def test_who_did_all_that_was_due_has_the_full_score_though_nobody_measured_it() -> None:
    for score in scores(bundles_of()):
        assert score.per_mille == SCORE_FULL
        assert score.quality.losses == score.speed.losses == score.availability.losses == ()


def test_rejected_batches_cost_quality_in_proportion_to_their_nonces() -> None:
    nodes = [*ALL_MINED, outcome(1, NodeFate.REJECTED, 300, NodeId("node-2"))]
    (loss,) = score_of(1, scores(bundles_of(), nodes)).quality.losses
    assert (loss.reason, loss.per_mille) == ("batch-rejected", 750)
    undecided = [*ALL_MINED, outcome(1, NodeFate.UNDECIDED, 300, NodeId("node-2"))]
    assert score_of(1, scores(bundles_of(), undecided)).per_mille == SCORE_FULL


def test_a_failed_audit_costs_all_quality_and_a_withheld_answer_its_share_of_quality_and_availability() -> None:
    failed = AuditOutcome(account(1), TINY, Verdict.INVALID, 3, 0, 300, "margin")
    withheld = AuditOutcome(account(2), TINY, Verdict.ABSTAIN, 3, 1, 300, "")
    found = scores(bundles_of(), audits=[failed, withheld])
    assert score_of(1, found).quality.per_mille == 0
    assert score_of(1, found).per_mille == 600
    assert score_of(2, found).availability.per_mille == score_of(2, found).quality.per_mille == 750
    assert [loss.reason for loss in score_of(2, found).quality.losses] == ["withheld"]
    assert score_of(3, found).per_mille == SCORE_FULL


@given(st.integers(0, 64), st.integers(0, 64))
def test_who_hands_less_over_never_keeps_more(answers: int, withheld: int) -> None:
    def points(shown: int, hidden: int) -> int:
        audit = AuditOutcome(account(2), TINY, Verdict.ABSTAIN, shown, hidden, 300, "")
        return score_of(2, scores(bundles_of(), audits=[audit])).per_mille

    assert points(answers + 1, withheld) >= points(answers, withheld + 1)
    assert points(0, withheld + 1) == 400  # speed and participation are all that is left


def test_absence_costs_only_if_more_than_half_of_the_weight_of_others_saw_it() -> None:
    half = {2: {1: 0}, 3: {1: 0}}
    assert score_of(1, scores(bundles_of(half))).per_mille == SCORE_FULL
    one = {2: {1: 0}}
    assert score_of(1, scores(bundles_of(one))).per_mille == SCORE_FULL
    three = {2: {1: 500}, 3: {1: 500}, 4: {1: 0}}
    assert score_of(1, scores(bundles_of(three))).availability.per_mille == 520


def test_nobody_is_a_witness_of_itself() -> None:
    bundles = bundles_of({1: {1: 1000}, 2: {1: 0}, 3: {1: 0}, 4: {1: 0}}, {1: {1: FAST, 2: SLOW, 3: SLOW, 4: SLOW}})
    found = scores(bundles)
    assert score_of(1, found).availability.per_mille == 20
    assert score_of(1, found).speed.per_mille == SCORE_FULL


def test_a_node_that_had_to_mine_and_did_not_costs_availability() -> None:
    found = scores(bundles_of(), [outcome(number) for number in (2, 3, 4, 5)])
    assert score_of(1, found).availability.losses[0].reason == "no-batch"
    assert score_of(1, found).per_mille == 800


def test_what_was_due_and_left_undone_costs_participation_in_proportion() -> None:
    assert score_of(1, scores(bundles_of(without=(1,)))).participation.losses[0].reason == "no-votes"

    def part(votes: Duties, audits: Duties) -> ScorePart:
        mine = {"vote_duties": {account(1): votes}, "audit_duties": {account(1): audits}}
        return score_of(1, participant_scores(GROUP, WEIGHTS, ALL_MINED, [], bundles_of(), **mine)).participation

    assert part(Duties(4, 0), Duties(5, 0)) == part(Duties(), Duties()) == ScorePart(SCORE_FULL)
    assert part(Duties(4, 1), Duties()) == ScorePart(875, (PointLoss("unjudged", 125),))
    assert part(Duties(), Duties(2, 1)) == ScorePart(750, (PointLoss("unaudited", 250),))
    nothing = part(Duties(4, 4), Duties(3, 3))
    assert nothing == ScorePart(0, (PointLoss("unaudited", 500), PointLoss("unjudged", 500)))


def test_who_made_up_its_votes_has_no_participation_whatever_else_it_did() -> None:
    lazy = ValidatorOutcome(account(1), Verdict.INVALID, "not-computed")
    unclear = ValidatorOutcome(account(2), Verdict.ABSTAIN, "nobody-could-check")
    found = participant_scores(GROUP, WEIGHTS, ALL_MINED, [], bundles_of(), [lazy, unclear])
    assert score_of(1, found).participation.losses[0].reason == "not-computed"
    assert score_of(1, found).per_mille == 900
    assert score_of(2, found).per_mille == SCORE_FULL


def test_a_slow_executor_loses_speed_and_one_gateway_can_take_only_three_times_its_share() -> None:
    measured = {1: SLOW, 2: USUAL, 3: USUAL, 4: USUAL}
    everyone = scores(bundles_of(speeds=dict.fromkeys((2, 3, 4, 5), measured)))
    full_loss = SCORE_FULL - score_of(1, everyone).speed.per_mille
    assert full_loss == (4000 - 1500) // 3
    one_gateway = scores(bundles_of(speeds={5: measured}))
    assert SCORE_FULL - score_of(1, one_gateway).speed.per_mille == full_loss * 3 // 4
    assert score_of(2, everyone).per_mille == SCORE_FULL


def test_a_gateway_that_measured_one_executor_or_too_few_answers_says_nothing() -> None:
    assert score_of(1, scores(bundles_of(speeds={2: {1: SLOW}}))).per_mille == SCORE_FULL
    bundles = bundles_of()
    measures = (SpeedMeasure(account(1), TINY, 3, *SLOW), SpeedMeasure(account(3), TINY, 3, *USUAL))
    bundles[account(2)] = VoteBundle(EPOCH, account(2), (), observations=Observations((), measures))
    assert score_of(1, scores(bundles)).per_mille == SCORE_FULL


def test_nobody_had_to_be_there_before_a_result_froze_who_has_to() -> None:
    bundles = bundles_of({number: {1: 0} for number in (2, 3, 4, 5)})
    found = participant_scores(EpochGroup(EPOCH, (), ()), WEIGHTS, ALL_MINED, [], bundles)
    assert score_of(1, found).per_mille == SCORE_FULL


def test_half_of_the_weight_of_others_cannot_make_an_honest_participant_absent() -> None:
    weights = {account(1): 34, account(2): 33, account(3): 33}
    bundles = {account(3): bundles_of({3: {1: 0, 2: 0}})[account(3)]}
    found = participant_scores(group_of(1, 2, 3), weights, ALL_MINED[:3], [], bundles)
    assert score_of(1, found).availability.per_mille == SCORE_FULL


SEEN = st.dictionaries(st.integers(1, 5), st.dictionaries(st.integers(1, 5), st.integers(0, 1000)))
SPEEDS = st.dictionaries(
    st.integers(1, 5),
    st.dictionaries(st.integers(1, 5), st.tuples(st.integers(0, 10_000), st.integers(0, 10**6))),
)
NODES = st.lists(
    st.builds(outcome, st.integers(1, 6), st.sampled_from(NodeFate), st.integers(0, 1000), st.just(NODE)),
    max_size=8,
)


@given(SEEN, SPEEDS, NODES, st.sets(st.integers(1, 5)))
def test_points_and_lost_points_always_make_the_whole_and_every_reason_has_words(
    seen: dict[int, dict[int, int]],
    speeds: dict[int, dict[int, tuple[int, int]]],
    nodes: list[NodeOutcome],
    out: set[int],
) -> None:
    bundles = bundles_of(seen, speeds, tuple(out))
    found = scores(bundles, nodes)
    for score in found:
        parts = (score.quality, score.speed, score.availability, score.participation)
        for part in parts:
            assert part.per_mille + sum(loss.per_mille for loss in part.losses) == SCORE_FULL
            assert all(loss.reason in REASONS for loss in part.losses)
        assert (
            score.per_mille
            == sum(tenths * part.per_mille for tenths, part in zip((4, 3, 2, 1), parts, strict=True)) // 10
        )
    assert found == scores(dict(reversed(bundles.items())), nodes[::-1])


@given(st.lists(st.tuples(st.integers(0, 1000), st.integers(1, 100)), min_size=1))
def test_liars_with_less_than_half_of_the_weight_cannot_move_the_median_beyond_honest_values(
    honest: list[tuple[int, int]],
) -> None:
    weight = sum(weight for _, weight in honest)
    for lie in (0, 1000):
        median = weighted_median([*honest, (lie, weight - 1)] if weight > 1 else honest)
        assert min(value for value, _ in honest) <= median <= max(value for value, _ in honest)


@given(st.dictionaries(st.integers(1, 9).map(account), st.integers(0, 5), min_size=1))
def test_each_executor_is_held_against_the_median_of_the_others(times: dict[Address, int]) -> None:
    expected = {
        executor: weighted_median((time, 1) for other, time in times.items() if other != executor)
        for executor in times
        if len(times) > 1
    }
    assert _medians_of_others(times) == expected
