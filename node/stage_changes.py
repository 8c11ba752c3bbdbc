"""Each change of stage once and in order, also after a restart and when many blocks arrive at once. Pure."""

from node.ports import StageChange
from node.protocol.identifiers import BlockNumber
from node.protocol.schedules import ParameterSchedule
from node.protocol.stages import stage_at


def next_stage_change(
    last: BlockNumber | None, confirmed: BlockNumber, schedule: ParameterSchedule
) -> StageChange | None:
    """Return the change after the one to the stage that began at `last`, or None if it is not confirmed yet.

    Without `last`, for a new consumer, it is the change to the stage of the confirmed block.
    """
    if confirmed < schedule.first.genesis_block:
        return None
    if last is None:
        position = stage_at(confirmed, schedule)
    else:
        following = stage_at(last, schedule).next_block
        if following > confirmed:
            return None
        position = stage_at(following, schedule)
    return StageChange(position.epoch, position.stage, position.first_block)
