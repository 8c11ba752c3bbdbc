"""Each change of stage once and in order, also after a restart and when many blocks arrive at once. Pure."""

from node.ports import StageChange
from node.protocol.identifiers import BlockNumber
from node.protocol.records import EpochParameters
from node.protocol.stages import stage_at


def next_stage_change(
    last: BlockNumber | None, confirmed: BlockNumber, parameters: EpochParameters
) -> StageChange | None:
    """Return the change after the one to the stage that began at `last`, or None if it is not confirmed yet.

    Without `last`, for a new consumer, it is the change to the stage of the confirmed block.
    """
    if confirmed < parameters.genesis_block:
        return None
    if last is None:
        position = stage_at(confirmed, parameters)
    else:
        following = stage_at(last, parameters).next_block
        if following > confirmed:
            return None
        position = stage_at(following, parameters)
    return StageChange(position.epoch, position.stage, position.first_block)
