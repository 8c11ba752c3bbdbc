"""Duties: what a node is told to do is what the chain takes from it, and what is done or missed is said so."""

from hypothesis import given
from hypothesis import strategies as st

from node.protocol.audit_votes import REJUDGED
from node.protocol.audits import NO_FIGURES
from node.protocol.chain_state import ChainState
from node.protocol.duties import Duty, DutyKind, DutyState, duties_of, next_duty, why_idle
from node.protocol.events import EpochResultPosted, GroupStored, MinCollateralSet, ModelRecorded, VotesCommitted
from node.protocol.findings import AuditFigures, AuditVote
from node.protocol.identifiers import BlockNumber, EpochNumber, Hash32, NodeId, TokenAmount
from node.protocol.records import EpochResultSummary
from node.protocol.results import registry_group
from node.protocol.schedules import ParameterSchedule
from node.protocol.stages import Stage, first_block_of, stage_at
from node.protocol.verdicts import Verdict
from tests.builders import (
    NODE,
    PARAMETERS,
    SOME_CID,
    TINY,
    account,
    commit,
    group_set,
    model,
    registered,
    scheduled,
    state_of,
)

EPOCH = EpochNumber(1)
SCHEDULE = ParameterSchedule(PARAMETERS)
SECOND = NodeId("node-2")
EVENTS = (ModelRecorded(model()), *registered(1), *registered(2), group_set(0, {1: 1, 2: 1}))
SET_HASH = Hash32(b"\x09" * 32)
POSTED = (
    GroupStored(SET_HASH, ((account(1), 1),)),
    EpochResultPosted(EpochResultSummary(EPOCH, SOME_CID, SET_HASH, 1, SET_HASH, TokenAmount(1)), account(2)),
)


def at(stage: Stage, offset: int = 0, epoch: int = EPOCH) -> BlockNumber:
    return BlockNumber(first_block_of(epoch, stage, SCHEDULE) + offset)


def duties(state: ChainState, block: int, *, number: int = 1, selected: tuple[NodeId, ...] = ()) -> tuple[Duty, ...]:
    epoch = stage_at(block, SCHEDULE).epoch
    group = registry_group(epoch, state)
    keys = [(account(number), node_id) for node_id in selected]
    return duties_of(account(number), epoch, BlockNumber(block), state, SCHEDULE, group, keys)


def states(state: ChainState, block: int) -> dict[DutyKind, DutyState]:
    return {duty.kind: duty.state for duty in duties(state, block)}


def test_a_member_with_a_node_serves_mines_votes_forms_and_loads() -> None:
    found = duties(state_of(*EVENTS), at(Stage.SERVE))
    kinds = [DutyKind.SERVE, DutyKind.MINE, DutyKind.VOTE, DutyKind.FORM, DutyKind.LOAD]
    assert [duty.kind for duty in found] == kinds
    assert [duty.state for duty in found] == [DutyState.NOW, *[DutyState.AHEAD] * 4]
    mine = found[1]
    assert (mine.node_id, mine.model_id) == (NODE, TINY)
    assert (mine.first_block, mine.end_block) == (at(Stage.GENERATE), at(Stage.VALIDATE))
    assert mine.blocks_left(at(Stage.SERVE)) == PARAMETERS.generate_offset
    assert mine.blocks_left(at(Stage.VALIDATE, -1)) == 1


def test_what_the_chain_holds_is_done_and_what_it_lacks_in_time_is_missed() -> None:
    state = state_of(*EVENTS, commit(1, 9, epoch=EPOCH), VotesCommitted(EPOCH, account(1), SOME_CID), *POSTED)
    for stage in (Stage.VOTE_EXCHANGE, Stage.FORM, Stage.LOAD):
        known = states(state, at(stage))
        assert (known[DutyKind.MINE], known[DutyKind.VOTE]) == (DutyState.DONE, DutyState.DONE)
    assert states(state, at(Stage.FORM))[DutyKind.FORM] is DutyState.DONE
    lazy = states(state_of(*EVENTS, commit(2, 9, epoch=EPOCH)), at(Stage.LOAD))
    assert lazy == {
        DutyKind.SERVE: DutyState.DONE,
        DutyKind.MINE: DutyState.MISSED,
        DutyKind.VOTE: DutyState.MISSED,
        DutyKind.FORM: DutyState.MISSED,
        DutyKind.LOAD: DutyState.NOW,
    }


def audit_vote(draw: int, verdict: Verdict, reason: str) -> AuditVote:
    figures = NO_FIGURES if verdict is Verdict.ABSTAIN else AuditFigures(4, 0, 0, 0, 0, 0, 0)
    return AuditVote(account(2), draw, NODE, TINY, Hash32(b"\x03" * 32), verdict, figures, reason)


def judged(block: int, *audits: AuditVote) -> dict[DutyKind, tuple[DutyState, int | None]]:
    """The duties of one who audits beside all else."""
    voted = VotesCommitted(EpochNumber(EPOCH - 1), account(2), SOME_CID)
    state = state_of(*EVENTS, commit(2, 9, epoch=EPOCH), voted)
    group = registry_group(EPOCH, state)
    found = duties_of(account(1), EPOCH, BlockNumber(block), state, SCHEDULE, group, (), audits)
    return {duty.kind: (duty.state, duty.left) for duty in found}


def test_audits_that_cost_points_if_left_undone_are_duties_with_what_is_left_of_them() -> None:
    done = audit_vote(0, Verdict.VALID, "")
    waits, again = audit_vote(1, Verdict.ABSTAIN, "withheld"), audit_vote(REJUDGED, Verdict.ABSTAIN, "no-time")
    known = judged(at(Stage.GENERATE), done, waits, again)
    assert known[DutyKind.AUDIT] == (DutyState.NOW, 1)
    assert known[DutyKind.JUDGE_AGAIN] == (DutyState.NOW, 1)
    late = judged(at(Stage.VALIDATE), done, waits, again)
    assert late[DutyKind.AUDIT] == (DutyState.DONE, 0)  # what never came is its executor's fault
    assert late[DutyKind.JUDGE_AGAIN] == (DutyState.MISSED, 1)
    lacking = audit_vote(1, Verdict.ABSTAIN, "no-model")
    assert judged(at(Stage.SERVE), done, lacking)[DutyKind.AUDIT] == (DutyState.DONE, 0)
    assert not {DutyKind.AUDIT, DutyKind.JUDGE_AGAIN} & judged(at(Stage.SERVE)).keys()


def test_votes_of_the_epoch_before_are_checked_while_nothing_is_mined() -> None:
    assert judged(at(Stage.SERVE))[DutyKind.CHECK] == (DutyState.NOW, None)
    assert judged(at(Stage.GENERATE))[DutyKind.CHECK] == (DutyState.DONE, None)
    assert DutyKind.CHECK not in states(state_of(*EVENTS), at(Stage.SERVE))  # nobody voted
    state = state_of(*EVENTS, VotesCommitted(EpochNumber(EPOCH - 1), account(2), SOME_CID))
    following = next_duty(duties(state, at(Stage.SERVE)))
    assert following is not None
    assert following.kind is DutyKind.CHECK


def test_where_nobody_else_proved_there_is_nothing_to_vote_on() -> None:
    state = state_of(*EVENTS, commit(1, 9, epoch=EPOCH))
    assert DutyKind.VOTE in states(state, at(Stage.EXCHANGE))  # somebody may still
    assert DutyKind.VOTE not in states(state, at(Stage.FORM))


def test_a_node_that_was_drawn_keeps_serving_and_does_not_mine() -> None:
    events = (ModelRecorded(model()), *registered(1, (NODE, TINY), (SECOND, TINY)), group_set(0, {1: 2}))
    found = duties(state_of(*events), at(Stage.GENERATE), selected=(NODE,))
    kept = next(duty for duty in found if duty.kind is DutyKind.KEEP_SERVING)
    assert (kept.node_id, kept.state, kept.end_block) == (NODE, DutyState.NOW, at(Stage.SERVE, epoch=EPOCH + 1))
    assert [duty.node_id for duty in found if duty.kind is DutyKind.MINE] == [SECOND]


def test_the_next_duty_is_the_one_whose_time_ends_first() -> None:
    state = state_of(*EVENTS, commit(2, 9, epoch=EPOCH))

    def kind(block: int) -> DutyKind | None:
        following = next_duty(duties(state, block))
        return None if following is None else following.kind

    assert kind(at(Stage.SERVE)) is DutyKind.MINE
    assert kind(at(Stage.GENERATE)) is DutyKind.MINE
    assert kind(at(Stage.VALIDATE)) is DutyKind.VOTE
    assert kind(at(Stage.FORM)) is DutyKind.FORM
    assert kind(at(Stage.LOAD)) is DutyKind.LOAD
    assert next_duty(()) is None


def test_whoever_has_nothing_to_do_is_told_why() -> None:
    state = state_of(*EVENTS)
    stranger = account(9)
    assert duties(state, at(Stage.SERVE), number=9) == ()
    assert "no participant" in why_idle(stranger, state, EPOCH)
    inactive = state_of(ModelRecorded(model(active=False)), *registered(1))
    assert duties(inactive, at(Stage.SERVE)) == ()
    assert "no model of its ML nodes is active" in why_idle(account(1), inactive, EPOCH)
    poor = state_of(ModelRecorded(model()), *registered(1), MinCollateralSet(TokenAmount(5)))
    assert duties(poor, at(Stage.SERVE)) == ()
    assert "too little collateral" in why_idle(account(1), poor, EPOCH)
    late = state_of(ModelRecorded(model()), *registered(1))
    late.participants[account(1)] = late.participants[account(1)].__class__(
        account(1), late.participants[account(1)].peer_id, late.participants[account(1)].ml_nodes, at(Stage.GENERATE)
    )
    assert duties(late, at(Stage.GENERATE)) == ()
    assert "mines in the next one" in why_idle(account(1), late, EPOCH)


@given(st.integers(0, 600), st.booleans())
def test_duties_lie_within_their_epoch_whatever_is_scheduled(block: int, changed: bool) -> None:
    change = (scheduled(2, 120, epoch_blocks=90, generate_offset=15),) if changed else ()
    schedule = ParameterSchedule(PARAMETERS, change)
    epoch = stage_at(block, schedule).epoch
    state = state_of(*EVENTS)
    found = duties_of(account(1), epoch, BlockNumber(block), state, schedule, registry_group(epoch, state))
    for duty in found:
        assert stage_at(duty.first_block, schedule).epoch == stage_at(duty.end_block - 1, schedule).epoch == epoch
        assert (duty.state is DutyState.AHEAD) == (block < duty.first_block)
        assert duty.blocks_left(block) >= 0
