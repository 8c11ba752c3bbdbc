"""Who may judge: members that the group has with the model; else who registered it, and then nothing is rejected."""

from node.protocol.events import MinCollateralSet, ModelRecorded
from node.protocol.identifiers import EpochNumber, ModelId, NodeId, TokenAmount
from node.protocol.judges import Bench, Judges, judges_for
from node.protocol.records import EpochGroup, GroupMember, MLNodeSnapshot
from tests.builders import NODE, TINY, account, group_set, model, peer, registered, state_of

RARE = ModelId("rare")
SECOND = NodeId("node-2")
EPOCH = EpochNumber(5)
WEIGHTS = {account(1): 30, account(2): 20}
EVENTS = (
    ModelRecorded(model()),
    ModelRecorded(model(RARE)),
    *registered(1, (NODE, TINY), (SECOND, TINY)),
    *registered(2, (NODE, TINY), (SECOND, RARE)),
    *registered(3, (NODE, RARE)),  # no member
    group_set(0, {1: 30, 2: 20}),
)
STATE = state_of(*EVENTS)


def member(number: int, *nodes: tuple[NodeId, ModelId, int]) -> GroupMember:
    snapshots = tuple(MLNodeSnapshot(name, model_id, weight, weight, (True, False)) for name, model_id, weight in nodes)
    return GroupMember(account(number), peer(number), sum(weight for *_, weight in nodes), snapshots)


FROZEN = EpochGroup(0, (member(1, (NODE, TINY, 10), (SECOND, TINY, 20)), member(2, (NODE, TINY, 20))), (model(),))


def test_a_member_judges_with_what_its_nodes_proved_of_the_model() -> None:
    judges = judges_for(EPOCH, WEIGHTS, STATE, FROZEN)
    proven = {account(1): 30, account(2): 20}
    assert judges.bench(TINY, account(2)) == Bench(proven, 30, can_reject=True)
    assert judges.bench(TINY, account(3)) == Bench(proven, 50, can_reject=True)


def test_of_a_model_that_no_other_member_proved_those_judge_who_registered_it_but_reject_nothing() -> None:
    judges = judges_for(EPOCH, WEIGHTS, STATE, FROZEN)
    assert judges.bench(RARE, account(3)) == Bench({account(2): 20}, 20, can_reject=False)
    assert judges.bench(RARE, account(2)).total == 0
    lone = EpochGroup(0, (member(1, (NODE, TINY, 30)),), (model(),))
    assert judges_for(EPOCH, WEIGHTS, STATE, lone).bench(TINY, account(1)) == Bench(
        {account(1): 30, account(2): 20}, 20, can_reject=False
    )


def test_founders_are_taken_at_their_word() -> None:
    assert judges_for(EPOCH, WEIGHTS, STATE, None).bench(RARE, account(3)) == Bench(
        {account(2): 20}, 20, can_reject=True
    )


def test_of_a_model_that_nobody_has_there_is_no_judge() -> None:
    assert Judges().bench(RARE, account(1)) == Bench({}, 0, can_reject=False)


def test_whose_proofs_counted_before_mining_is_known() -> None:
    assert judges_for(EPOCH, WEIGHTS, STATE, FROZEN).counted == STATE.participants.keys()
    poor = state_of(*EVENTS, MinCollateralSet(TokenAmount(1)))
    assert judges_for(EPOCH, WEIGHTS, poor, FROZEN).counted == frozenset()
