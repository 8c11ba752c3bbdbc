"""Missed duties: named once their time is over, and never for what another had to do."""

from node.alerts.duties import missed_duties
from node.protocol.chain_state import ChainState
from node.protocol.events import ModelRecorded, VotesCommitted
from node.protocol.identifiers import BlockNumber, EpochNumber
from node.protocol.schedules import ParameterSchedule
from node.protocol.stages import Stage, first_block_of
from tests.builders import NODE, PARAMETERS, SOME_CID, account, commit, group_set, model, registered, state_of


def missed(state: ChainState, stage: Stage, epoch: int = 1) -> list[str]:
    block = BlockNumber(first_block_of(epoch, stage, PARAMETERS))
    return [duty.duty for duty in missed_duties(state, ParameterSchedule(PARAMETERS), account(1), block)]


def base() -> tuple[object, ...]:
    return (ModelRecorded(model()), *registered(1), *registered(2), group_set(0, {1: 1, 2: 1}))


def test_a_batch_that_is_not_there_is_missed_when_its_time_is_over() -> None:
    state = state_of(*base())  # type: ignore[arg-type]
    assert missed(state, Stage.EXCHANGE) == []
    assert missed(state, Stage.VALIDATE) == ["commit a batch of nonces of node-1"]
    assert missed(state_of(*base(), commit(1, 8, epoch=1)), Stage.VALIDATE) == []  # type: ignore[arg-type]


def test_a_node_that_cannot_prove_work_misses_no_batch() -> None:
    state = state_of(*base())  # type: ignore[arg-type]
    block = BlockNumber(first_block_of(1, Stage.VALIDATE, PARAMETERS))
    assert missed_duties(state, ParameterSchedule(PARAMETERS), account(1), block, {"node-1"}) == ()


def test_a_node_that_was_drawn_to_keep_serving_misses_no_batch() -> None:
    state = state_of(*base())  # type: ignore[arg-type]
    block = BlockNumber(first_block_of(1, Stage.VALIDATE, PARAMETERS))
    drawn = {EpochNumber(1): {(account(1), NODE)}, EpochNumber(0): {(account(2), NODE)}}
    schedule = ParameterSchedule(PARAMETERS)
    assert missed_duties(state, schedule, account(1), block, (), lambda epoch: drawn[epoch]) == ()
    assert len(missed_duties(state, schedule, account(2), block, (), lambda epoch: drawn[epoch])) == 1


def test_votes_are_missed_only_by_members_who_had_something_to_vote_on() -> None:
    both = (*base(), commit(1, 8, epoch=1), commit(2, 8, epoch=1))
    assert missed(state_of(*both), Stage.VOTE_EXCHANGE) == []  # type: ignore[arg-type]
    assert missed(state_of(*both), Stage.FORM) == ["commit its votes"]  # type: ignore[arg-type]
    alone = (*base(), commit(1, 8, epoch=1))
    assert missed(state_of(*alone), Stage.FORM) == []  # type: ignore[arg-type]
    voted = (*both, VotesCommitted(EpochNumber(1), account(1), SOME_CID))
    assert missed(state_of(*voted), Stage.FORM) == []  # type: ignore[arg-type]


def test_who_is_not_registered_misses_nothing() -> None:
    assert missed(state_of(*registered(2)), Stage.LOAD) == []


def test_who_registered_too_late_for_this_epoch_misses_nothing() -> None:
    state = state_of(*(group_set(0, {2: 1}) for _ in range(15)), ModelRecorded(model()), *registered(1))
    assert missed(state, Stage.VALIDATE, epoch=0) == []
    assert missed(state, Stage.VALIDATE, epoch=1) == ["commit a batch of nonces of node-1"]
