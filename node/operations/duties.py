"""What this node does in the present epoch, for the control socket (protocol/duties.py decides)."""

from collections.abc import Set
from typing import Protocol

import trio

from node.control.views import DutyView, EpochView
from node.ports import Chain, Store
from node.protocol.duties import Duty, DutyKind, duties_of, next_duty, why_idle
from node.protocol.identifiers import EpochNumber
from node.protocol.stages import Stage, first_block_of, stage_at
from node.protocol.weights import NodeKey
from node.services.epochs import EpochBook
from node.services.kept_audits import KeptAudits
from node.services.timing import position

SELECTION_SECONDS_MAX = 1.0
"""Who keeps serving may be unknown for long, where a result's content is missing: then it is shown without."""
WORDS = {
    DutyKind.SERVE: "answer requests",
    DutyKind.KEEP_SERVING: "answer requests through Proof of Compute",
    DutyKind.MINE: "mine nonces and commit the batch",
    DutyKind.AUDIT: "audit the answers that were drawn",
    DutyKind.JUDGE_AGAIN: "judge accused answers again",
    DutyKind.CHECK: "check how others came to their votes",
    DutyKind.VOTE: "recompute samples and commit the votes",
    DutyKind.FORM: "form the result and sign it",
    DutyKind.LOAD: "load what the next group asks for",
}


class Selection(Protocol):
    """Who keeps serving through an epoch's Proof of Compute (services/poc_slots.py)."""

    async def selected(self, epoch: EpochNumber) -> Set[NodeKey]:
        """Return the selected nodes; may wait."""


async def epoch_view(chain: Chain, epochs: EpochBook, store: Store, selection: Selection) -> EpochView:
    """Return where the epoch stands and what this node does in it."""
    where, schedule = position(chain), chain.schedule
    block = max(chain.head.number, where.first_block)
    weights = dict(chain.state.group_weights(where.epoch))
    selected: Set[NodeKey] = frozenset()
    if chain.head.confirmed >= first_block_of(where.epoch, Stage.GENERATE, schedule):
        with trio.move_on_after(SELECTION_SECONDS_MAX):
            selected = await selection.selected(where.epoch)
    group = epochs.group_of(where.epoch, chain.state)
    audits = KeptAudits(store, where.epoch).votes
    duties = duties_of(chain.account, where.epoch, block, chain.state, schedule, group, selected, audits)
    following = next_duty(duties)
    change = schedule.next_change(block)
    return EpochView(
        epoch=where.epoch,
        stage=where.stage.name,
        block=block,
        stage_first_block=where.first_block,
        next_stage=stage_at(where.next_block, schedule).stage.name,
        next_stage_block=where.next_block,
        blocks_left=where.next_block - block,
        next_duty=_in_words(following, block) if duties else why_idle(chain.account, chain.state, where.epoch),
        members=len(weights),
        own_weight=weights.get(chain.account, 0),
        total_weight=sum(weights.values()),
        last_result_epoch=max(chain.state.results, default=None),
        duties=[_view(duty, block) for duty in duties],
        epoch_first_block=first_block_of(where.epoch, Stage.SERVE, schedule),
        epoch_end_block=first_block_of(where.epoch + 1, Stage.SERVE, schedule),
        change_epoch=None if change is None else change.from_epoch,
    )


def _view(duty: Duty, block: int) -> DutyView:
    return DutyView(
        kind=duty.kind.value,
        node_id=duty.node_id,
        model_id=duty.model_id,
        state=duty.state.value,
        first_block=duty.first_block,
        end_block=duty.end_block,
        blocks_left=duty.blocks_left(block),
        left=duty.left,
    )


def _in_words(duty: Duty | None, block: int) -> str:
    if duty is None:
        return "nothing more in this epoch"
    what = WORDS[duty.kind] + (f" ({duty.node_id})" if duty.node_id else "")
    what += f" ({duty.left} left)" if duty.left else ""
    if block < duty.first_block:
        return f"{what}, in {duty.blocks_left(block)} blocks"
    return f"{what}, {duty.blocks_left(block)} blocks left"
