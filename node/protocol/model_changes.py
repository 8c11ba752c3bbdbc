"""From which epoch on answers of a model can be judged: what made its numbers is what judges them.

Purpose: an owner may change a model's specification and leave its version as it is. Answers of before are then honest
by other numbers than their auditors have, and whoever judged them would take all that an honest executor has.

Detail: a change counts from the first result that froze it, of epoch r: the group of epoch r + 1 loads it. Answers of
that epoch may still be by the old numbers: one that was begun before, or that a node gave whose engine was late. So
answers count from epoch r + 2 on. A change that no result has frozen hides the one before it, so nothing counts until
one has. Who gave an answer has no part in it, and only the owner can make a change.
"""

from node.protocol.chain_state import ChainState
from node.protocol.identifiers import ModelId
from node.protocol.records import UINT64_MAX
from node.protocol.schedules import ParameterSchedule
from node.protocol.stages import Stage, first_block_of, stage_at

NOT_YET = UINT64_MAX
"""No epoch's answers: the change is not frozen in a group."""
EPOCHS_UNSURE = 2
"""From the result that froze a change to the first epoch whose answers are all by the new numbers."""


def judged_from(state: ChainState, schedule: ParameterSchedule, model_id: ModelId) -> int:
    """Return the first epoch whose answers of a model can be judged now; NOT_YET for none, 0 where nothing changed.

    `state` is the chain at the first block of SERVE, so that all who judge say the same.
    """
    changed = state.numbers_changed.get(model_id)
    if changed is None or changed < schedule.first.genesis_block:
        return 0  # before anything was served
    first, newest = stage_at(changed, schedule).epoch, max(state.results, default=-1)
    for epoch in range(first, newest + 1):
        if epoch in state.results and changed < first_block_of(epoch, Stage.FORM, schedule):
            return epoch + EPOCHS_UNSURE
    return NOT_YET
