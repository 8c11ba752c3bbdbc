"""Why not paid: whatever happened in an epoch, what each fault cost adds up to the unit, and names its fault."""

import json
import random
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from node.operations.remedies import REMEDIES
from node.protocol.appeals import NARROWLY_PROVEN
from node.protocol.audit_outcomes import ACCUSED
from node.protocol.audit_sampling import AuditSeeds
from node.protocol.audit_votes import REJUDGED
from node.protocol.chain_state import ChainState
from node.protocol.events import CollateralDeposited, CollateralSlashed, EventBody, MinCollateralSet, ModelRecorded
from node.protocol.findings import (
    AuditFigures,
    AuditOutcome,
    AuditVote,
    NodeFate,
    NodeOutcome,
    Observations,
    ParticipantScore,
    PointLoss,
    ScorePart,
    SettledShare,
    Sighting,
    SpeedMeasure,
)
from node.protocol.identifiers import Address, EpochNumber, Hash32, ModelId, NodeId, TokenAmount
from node.protocol.penalties import fraudulent, penalties
from node.protocol.records import EpochGroup, EpochResult, GroupMember, MLNodeSnapshot, VoteBundle
from node.protocol.results import form_epoch_result
from node.protocol.rewards import get_settle_amounts, subsidy
from node.protocol.scores import REASONS as SCORE_REASONS
from node.protocol.timeslots import select_poc_slots
from node.protocol.unpaid import REASONS, explain, explain_no_result
from node.protocol.verdicts import Verdict
from node.protocol.weights import unproven_weights
from tests.builders import (
    NODE,
    PARAMETERS,
    TINY,
    account,
    bundle_of,
    commit,
    group_set,
    model,
    peer,
    registered,
    state_of,
    vote_on,
)
from tests.vectors import three_epochs

BIG = ModelId("big")
SECOND_NODE = NodeId("node-2")
MEMBERS = (1, 2, 3, 4)
FIRST, SECOND = EpochNumber(0), EpochNumber(1)


def network(*more: EventBody) -> ChainState:
    """All have a node for either model; only the first one's for the big one ever mines."""
    return state_of(
        ModelRecorded(model()),
        ModelRecorded(model(BIG)),
        *(event for number in MEMBERS for event in registered(number, (NODE, TINY), (SECOND_NODE, BIG))),
        group_set(0, dict.fromkeys(MEMBERS, 100)),
        *more,
    )


def votes(state: ChainState, epoch: EpochNumber, verdicts: dict[Address, Verdict]) -> dict[Address, VoteBundle]:
    bundles = {}
    for voter in MEMBERS:
        cast = [
            vote_on(batch, verdicts.get(batch.participant, Verdict.VALID))
            for batch in state.poc_commits.get(epoch, {}).values()
            if batch.participant != account(voter)
        ]
        bundles[account(voter)] = replace(bundle_of(voter, *cast), epoch=epoch)
    return bundles


def first_result() -> EpochResult:
    state = network(*(commit(number, 100) for number in MEMBERS), commit(1, 100, node_id=SECOND_NODE, model_id=BIG))
    result = form_epoch_result(FIRST, state, PARAMETERS, votes(state, FIRST, {}), None)
    assert result is not None
    return result


def parts_of(result: EpochResult, number: int) -> dict[str, int]:
    explanation = explain(result, first_result().group, account(number))
    return {part.reason: part.amount for part in explanation.parts}


def second_result(state: ChainState, bundles: dict[Address, VoteBundle]) -> EpochResult:
    result = form_epoch_result(SECOND, state, PARAMETERS, bundles, first_result())
    assert result is not None
    return result


def test_who_did_everything_lacks_nothing() -> None:
    first = first_result()
    explanation = explain(first, None, account(1))
    assert explanation.parts == ()
    assert explanation.most == explanation.paid > 0


def test_each_fault_is_named_with_what_it_cost() -> None:
    state = network(
        commit(1, 100, epoch=1),
        commit(2, 100, epoch=1),
        commit(3, 100, epoch=1),
    )
    bundles = votes(state, SECOND, {account(3): Verdict.INVALID})
    del bundles[account(2)]
    result = second_result(state, bundles)
    assert set(parts_of(result, 1)) == {"no-batch", "coverage"}  # its node for the other model did nothing
    assert set(parts_of(result, 2)) == {"coverage", "no-votes"}
    assert set(parts_of(result, 3)) == {"mismatches"}
    assert set(parts_of(result, 4)) == {"no-batch"}
    for number in (3, 4):
        explanation = explain(result, first_result().group, account(number))
        assert explanation.paid == 0
        assert explanation.most == sum(part.amount for part in explanation.parts) > 0


def test_a_batch_of_who_is_barred_or_lacks_collateral_is_explained() -> None:
    barred = CollateralSlashed(account(2), TokenAmount(1), TokenAmount(0), TokenAmount(0), EpochNumber(9))
    for event in (barred, MinCollateralSet(TokenAmount(10))):
        deposits = [CollateralDeposited(account(n), TokenAmount(10)) for n in MEMBERS if n != 2]
        state = network(*deposits, *(commit(number, 100, epoch=1) for number in MEMBERS), event)
        result = second_result(state, votes(state, SECOND, {}))
        assert parts_of(result, 2).keys() == {"not-counted"}


def test_a_batch_of_an_outsider_without_collateral_is_in_no_result_and_explained_all_the_same() -> None:
    deposits = [CollateralDeposited(account(n), TokenAmount(10)) for n in MEMBERS]
    batches = [commit(number, 100, epoch=1) for number in MEMBERS]
    outside = [commit(7, 100, epoch=1, node_id=NodeId(f"node-{number}")) for number in range(3)]
    state = network(*registered(7), *deposits, *batches, *outside, MinCollateralSet(TokenAmount(10)))
    result = second_result(state, votes(state, SECOND, {}))
    assert {node.participant for node in result.nodes} == {account(number) for number in MEMBERS}
    commits = state.poc_commits[SECOND].values()
    explanation = explain(result, first_result().group, account(7), commits)
    assert [(part.reason, part.subject) for part in explanation.parts] == [
        ("not-counted", f"node-{number}") for number in range(3)
    ]
    assert explanation.most == sum(part.amount for part in explanation.parts) > 0
    for number in MEMBERS:
        frozen = first_result().group
        assert explain(result, frozen, account(number), commits) == explain(result, frozen, account(number))


def test_an_epoch_without_a_result_is_explained_by_the_weight_in_charge() -> None:
    weights = [(account(1), 25), (account(2), 75)]
    explanation = explain_no_result(SECOND, weights, TokenAmount(1000), account(1))
    assert (explanation.most, explanation.paid) == (250, 0)
    assert [(part.reason, part.amount) for part in explanation.parts] == [("no-result", 250)]
    assert explain_no_result(SECOND, weights, TokenAmount(1000), account(3)).parts == ()
    voided = explain_no_result(SECOND, weights, TokenAmount(1000), account(1), is_voided=True)
    assert [(part.reason, part.amount) for part in voided.parts] == [("result-void", 250)]


@settings(max_examples=150)
@given(st.integers(0, 2**32))
def test_the_parts_always_add_up_to_the_difference(seed: int) -> None:
    source = random.Random(seed)
    previous = first_result()
    batches = [
        commit(number, source.randint(1, 10**6), epoch=1, node_id=node_id, model_id=model_id)
        for number in (*MEMBERS, 9)
        for node_id, model_id in ((NODE, TINY), (SECOND_NODE, BIG))
        if source.random() < 0.7
    ]
    state = network(*registered(9, (NODE, TINY), (SECOND_NODE, BIG)), *batches)
    verdicts = {account(number): source.choice([Verdict.VALID, Verdict.VALID, Verdict.INVALID]) for number in MEMBERS}
    bundles = {}
    for voter, bundle in votes(state, SECOND, verdicts).items():
        if source.random() < 0.8:
            observed = Observations(
                tuple(Sighting(account(n), source.randint(0, 1000)) for n in MEMBERS),
                tuple(
                    SpeedMeasure(account(n), TINY, 9, source.randint(0, 5000), source.randint(0, 10**5))
                    for n in MEMBERS
                ),
            )
            bundles[voter] = replace(bundle, observations=observed)
    selected = select_poc_slots(previous.group, previous.nodes, state, Hash32(source.randbytes(32)))
    result = form_epoch_result(SECOND, state, PARAMETERS, bundles, previous, selected=selected)
    if result is None:
        return
    assert result.reward_total == sum(share.amount for share in result.settled) <= result.available
    for number in (*MEMBERS, 9):
        explanation = explain(result, previous.group, account(number))
        assert explanation.most - explanation.paid == sum(part.amount for part in explanation.parts)
        assert all(part.amount > 0 for part in explanation.parts)
        assert all(part.reason in REASONS or part.reason in SCORE_REASONS for part in explanation.parts)


def test_proven_fraud_is_unpaid_and_nobody_gets_its_share() -> None:
    first = first_result()
    audit = AuditOutcome(account(2), TINY, Verdict.INVALID, 4, 0, 400, "margin")
    decided = penalties(first.group, {account(2)}, first.nodes, [audit], first.scores, {})
    assert [(decision.participant, decision.reason) for decision in decided] == [(account(2), "audit-margin")]
    weights = {account(number): 100 for number in MEMBERS}
    paid = get_settle_amounts(weights, set(), TokenAmount(1000), {}, fraudulent(decided))
    assert paid == {account(number): 250 for number in (1, 3, 4)}


CASE = json.loads(three_epochs.PATH.read_text())
FULL = ScorePart(1000)


def outcome_of(number: int, told: Mapping[str, Any]) -> list[NodeOutcome]:
    """The node that was rejected, if the vectors tell of one: who is barred is found by its batch on the chain."""
    rejected = "mismatches" in (reason for reason, _, _ in told["parts"])
    count = CASE["nonces"]
    outcome = NodeOutcome(account(number), NODE, TINY, NodeFate.REJECTED, count, 32, 9, 0, "mismatches")
    return [outcome] * rejected


def score_of(number: int, told: Mapping[str, Any]) -> ParticipantScore:
    lost = 10 * (1000 - told.get("score", 1000))
    participation = ScorePart(1000 - lost, (PointLoss("not-computed", lost),) if lost else ())
    return ParticipantScore(account(number), FULL, FULL, FULL, participation, 1000 - lost // 10)


def test_the_vectors_of_three_epochs_are_what_plain_arithmetic_makes_of_the_case() -> None:
    assert json.loads(json.dumps(three_epochs.compute())) == CASE
    for told in (told for epoch in CASE["epochs"] for told in epoch["participants"].values()):
        assert int(told["most"]) - int(told["paid"]) == sum(int(amount) for _, _, amount in told["parts"])


@pytest.mark.parametrize("epoch", range(three_epochs.EPOCHS))
def test_three_epochs_are_paid_and_explained_as_their_vectors_say(epoch: int) -> None:
    participants = CASE["epochs"][epoch]["participants"]
    told = {number: participants[name] for number, name in enumerate(participants, start=1)}
    earning = {number: own for number, own in told.items() if own["weight"]}
    parameters = replace(
        PARAMETERS, initial_subsidy=TokenAmount(int(CASE["initialSubsidy"])), halving_epochs=CASE["halvingEpochs"]
    )
    available = subsidy(epoch, parameters)
    assert str(available) == CASE["epochs"][epoch]["available"]
    amounts = get_settle_amounts(
        {account(number): own["weight"] for number, own in earning.items()},
        {account(number) for number, own in earning.items() if own["covers"]},
        available,
        {account(number): own["score"] for number, own in earning.items()},
    )
    assert {owner: str(amount) for owner, amount in amounts.items()} == {
        account(number): own["paid"] for number, own in earning.items()
    }
    result = replace(
        first_result(),
        available=available,
        nodes=tuple(outcome for number, own in told.items() for outcome in outcome_of(number, own)),
        scores=tuple(score_of(number, own) for number, own in told.items()),
        penalties=(),
        settled=tuple(
            SettledShare(account(number), own["weight"], own["covers"], amounts[account(number)])
            for number, own in earning.items()
        ),
    )
    barred = [
        commit(number, CASE["nonces"]).commit
        for number, own in told.items()
        if any(reason == "not-counted" for reason, _, _ in own["parts"])
    ]
    for number, own in told.items():
        explanation = explain(result, None, account(number), barred)
        parts = [[part.reason, part.subject, str(part.amount)] for part in explanation.parts]
        assert (str(explanation.most), str(explanation.paid), parts) == (own["most"], own["paid"], own["parts"])


DIGEST = Hash32(b"\xaa" * 32)


def result_after_audits(*, is_proven: bool, has_second_node: bool) -> tuple[EpochResult, EpochResult]:
    """An epoch, and the one before, in which two who weigh next to nothing judge answers of the second member again."""
    before = first_result()
    members = [  # of the others the last has another model
        replace(member, ml_nodes=tuple(replace(node, model_id=BIG) for node in member.ml_nodes))
        if member.participant == account(4)
        else member
        for member in before.group.members
    ]
    accused = AuditOutcome(account(2), TINY, Verdict.ABSTAIN, 4, 0, 400, ACCUSED, accused=(DIGEST,))
    before = replace(before, group=replace(before.group, members=tuple(members)), audits=(accused,))
    batches = [commit(number, 100, epoch=1) for number in MEMBERS]
    if has_second_node:
        batches.append(commit(2, 300, epoch=1, node_id=SECOND_NODE, model_id=BIG))
    state = network(*batches, group_set(0, {1: 10, 2: 100, 3: 10, 4: 300}))
    bundles = votes(state, SECOND, {})
    figures = AuditFigures(2000, 2000, 100_000_000, 0, 0, 0, 0) if is_proven else AuditFigures(2000, 0, 0, 0, 0, 0, 0)
    verdict, reason = (Verdict.INVALID, "tokens") if is_proven else (Verdict.VALID, "")
    for judge in (account(1), account(3)):
        vote = AuditVote(account(2), REJUDGED, NODE, TINY, DIGEST, verdict, figures, reason)
        bundles[judge] = replace(bundles[judge], audits=(vote,))
    seeds = AuditSeeds(Hash32(bytes(32)), Hash32(bytes(32)))
    result = form_epoch_result(SECOND, state, PARAMETERS, bundles, before, audit_seeds=seeds)
    assert result is not None
    return result, before


@pytest.mark.parametrize("has_second_node", [True, False])
def test_what_few_proved_takes_the_pay_of_the_nodes_with_the_model_and_is_no_fraud(has_second_node: bool) -> None:
    result, before = result_after_audits(is_proven=True, has_second_node=has_second_node)
    honest, _ = result_after_audits(is_proven=False, has_second_node=has_second_node)
    assert result.penalties == honest.penalties == ()
    assert account(2) in {member.participant for member in result.group.members}
    paid, of_honest = ({share.participant: share.amount for share in one.settled} for one in (result, honest))
    for number in (1, 3, 4):  # nobody gains by it
        assert paid[account(number)] == of_honest[account(number)]
    assert 0 < paid[account(2)] < of_honest[account(2)] if has_second_node else paid[account(2)] == 0
    explanation = explain(result, before.group, account(2))
    assert explanation.most - explanation.paid == sum(part.amount for part in explanation.parts)
    (part,) = (part for part in explanation.parts if part.reason == NARROWLY_PROVEN)
    assert part.subject == TINY
    (score,) = (score for score in result.scores if score.participant == account(2))
    assert [loss.reason for loss in score.quality.losses] == ["audit-failed"]
    (weight,) = (share.weight for share in result.settled if share.participant == account(2))
    assert (weight > 100) is has_second_node
    # 100 of it had the model, or all that is left of it
    assert score.quality.losses[0].per_mille == min(1000, -(-1000 * 100 // weight))
    assert NARROWLY_PROVEN in REASONS
    assert NARROWLY_PROVEN in REMEDIES


weight = st.integers(0, 1000)


@given(st.dictionaries(st.sampled_from([NODE, SECOND_NODE]), weight), weight, weight, weight, st.booleans())
def test_unproven_is_what_nodes_with_the_model_weigh_or_weighed_and_never_more_than_there_is(
    others: dict[NodeId, int], now: int, had: int, before: int, is_paid_before: bool
) -> None:
    frozen = EpochGroup(
        FIRST, (GroupMember(account(2), peer(2), had, (MLNodeSnapshot(NODE, TINY, had, had, (True, False)),)),), ()
    )
    outcomes = [
        NodeOutcome(account(2), NodeId(f"other-{name}"), BIG, NodeFate.ACCEPTED, other, 0, 0, other, "")
        for name, other in others.items()
    ]
    fate = NodeFate.PRESERVED if is_paid_before else NodeFate.ACCEPTED
    outcomes.append(NodeOutcome(account(2), NODE, TINY, fate, now, 0, 0, now, ""))
    found = unproven_weights({(account(2), TINY): before}, frozen, outcomes)
    assert found == {account(2): min(max(now, had, before), now + sum(others.values()))}
    assert unproven_weights({(account(3), TINY): before}, frozen, outcomes) == {account(3): 0}
