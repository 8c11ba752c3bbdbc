"""Waiting for blocks: every duty of an epoch begins and ends at a block, never at a time of day."""

from collections.abc import AsyncIterator

import trio

from node.ports import Chain
from node.protocol.identifiers import BlockNumber, EpochNumber
from node.protocol.stages import Stage, StagePosition, first_block_of, stage_at


async def until_head(chain: Chain, block: int) -> None:
    """Wait until the newest block is `block` or later."""
    async for head in chain.heads():
        if head.number >= block:
            return


async def until_confirmed(chain: Chain, block: int) -> None:
    """Wait until `block` is confirmed."""
    async for head in chain.heads():
        if head.confirmed >= block:
            return


def position(chain: Chain) -> StagePosition:
    """Where the newest block lies. Before the first epoch this is the first epoch's beginning."""
    return stage_at(max(chain.head.number, chain.schedule.first.genesis_block), chain.schedule)


def window(chain: Chain, epoch: EpochNumber, first: Stage, last: Stage) -> tuple[BlockNumber, BlockNumber]:
    """Return the first block of stage `first` and the first block after stage `last`, in `epoch`."""
    schedule = chain.schedule
    begin = first_block_of(epoch, first, schedule)
    if last is Stage.LOAD:
        return begin, first_block_of(epoch + 1, Stage.SERVE, schedule)
    return begin, first_block_of(epoch, Stage(last + 1), schedule)


async def epochs_at(chain: Chain, first: Stage, last: Stage) -> AsyncIterator[EpochNumber]:
    """Yield each epoch once, when the first block of stage `first` is confirmed; skip those past stage `last`.

    Whoever takes longer than an epoch for one goes on with the newest.
    """
    epoch = position(chain).epoch
    while True:
        begin, end = window(chain, epoch, first, last)
        await until_confirmed(chain, begin)
        if chain.head.number < end:
            yield epoch
        epoch = EpochNumber(max(epoch + 1, position(chain).epoch))


async def cancel_at(chain: Chain, block: int, scope: trio.CancelScope) -> None:
    """Cancel `scope` when the newest block is `block` or later; run it beside the work that must end by then."""
    await until_head(chain, block)
    scope.cancel()
