"""Stages of an epoch from block numbers alone (requirements B13). Solidity agrees by tests/vectors/shared.json."""

from dataclasses import dataclass
from enum import IntEnum

from node.protocol.identifiers import BlockNumber, EpochNumber
from node.protocol.records import EpochParameters
from node.protocol.schedules import ParameterSchedule


class Stage(IntEnum):
    """The stages in their order; the values are those of the Solidity enum."""

    SERVE = 0
    """Inference only. Pre-PoC selection is drawn from the hash of the block before GENERATE."""
    GENERATE = 1
    """Nonces are mined; commits are accepted."""
    EXCHANGE = 2
    """No more mining; commits are still accepted, batches are exchanged."""
    VALIDATE = 3
    """The sample is drawn from the hash of this stage's first block; batches are recomputed; votes are accepted."""
    VOTE_EXCHANGE = 4
    """Votes are still accepted; bundles are exchanged."""
    FORM = 5
    """Every node computes the EpochResult and signs it; a quorum posts it."""
    LOAD = 6
    """Engines load what the next group asks of them. The contract takes no result any more: what was not posted in FORM
    never is."""


@dataclass(frozen=True, slots=True)
class StagePosition:
    """Where a block lies: its epoch, stage, the stage's first block and the first block of the stage after it."""

    epoch: EpochNumber
    stage: Stage
    first_block: BlockNumber
    next_block: BlockNumber


class BeforeGenesisError(ValueError):
    """The block lies before the network's first epoch."""


def stage_offsets(parameters: EpochParameters) -> tuple[int, ...]:
    """Offsets of the stages' first blocks within an epoch, in stage order."""
    return (
        0,
        parameters.generate_offset,
        parameters.exchange_offset,
        parameters.validate_offset,
        parameters.vote_exchange_offset,
        parameters.form_offset,
        parameters.load_offset,
    )


def stage_at(block: int, parameters: EpochParameters | ParameterSchedule) -> StagePosition:
    """Return the position of `block`; raise BeforeGenesisError for a block before the first epoch.

    Parameters are enough for the blocks of their own epochs; a schedule is for all.
    """
    if isinstance(parameters, ParameterSchedule):
        if block < parameters.first.genesis_block:
            raise BeforeGenesisError(f"block {block} is before the genesis block {parameters.first.genesis_block}")
        parameters = parameters.at_block(block)
    if block < parameters.genesis_block:
        raise BeforeGenesisError(f"block {block} is before the genesis block {parameters.genesis_block}")
    epoch, offset = divmod(block - parameters.genesis_block, parameters.epoch_blocks)
    start = block - offset
    offsets = stage_offsets(parameters)
    stage = Stage(max(index for index, first in enumerate(offsets) if first <= offset))
    after = (*offsets, parameters.epoch_blocks)[stage + 1]
    return StagePosition(
        epoch=EpochNumber(epoch),
        stage=stage,
        first_block=BlockNumber(start + offsets[stage]),
        next_block=BlockNumber(start + after),
    )


def first_block_of(epoch: int, stage: Stage, parameters: EpochParameters | ParameterSchedule) -> BlockNumber:
    """Return the first block of `stage` in `epoch`, which must be one of the parameters' own; a schedule is for all."""
    if isinstance(parameters, ParameterSchedule):
        parameters = parameters.of_epoch(epoch)
    return BlockNumber(parameters.genesis_block + epoch * parameters.epoch_blocks + stage_offsets(parameters)[stage])
