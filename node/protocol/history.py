"""Samples of several epochs together: who makes up one nonce in a hundred is not caught in one epoch, but over a few.

Purpose: a sample of one epoch has to forgive a few mismatches, for honest machines show some too. Whoever stays just
below that line every epoch is far above it in the sum.

Detail: counted by participant and model, over all its ML nodes: a new name for a node is no new beginning. Evidence is
spent once: what led to a rejection is not counted again, or one bad night would cost ten epochs. Epochs that only the
longest window looks at are kept in blocks of ten, so that a history has 14 counts at most; a block goes when its last
epoch is too old, so that window has 30 to 39 epochs.
"""

from collections.abc import Mapping, Sequence

from node.protocol.binomial import TESTS_PER_BATCH, is_beyond_chance
from node.protocol.findings import SampleCount, SampleHistory
from node.protocol.identifiers import Address, EpochNumber, ModelId

WINDOWS_EPOCHS = (1, 3, 10, 30)
"""Tested every epoch: all nodes together now, a cheat of a few days, a patient one, and one who makes up a nonce in two
thousand, which would be worth it otherwise (docs/economics.md). A hundred epochs would halve what is left of that, and
make machines that differ a little more than they were measured to pay for it."""
PARTS = (TESTS_PER_BATCH, TESTS_PER_BATCH, 2 * TESTS_PER_BATCH, 2 * TESTS_PER_BATCH)
"""In how many parts the false alarms are shared out for each: one each for the batch's own sample, the first and the
second window, half a part each for the others."""
HISTORY_EPOCHS = max(WINDOWS_EPOCHS)
BLOCK_EPOCHS = 10
"""Epochs from this age on are kept in blocks of as many."""
POOLED_NONCES_MAX = 50_000
"""A window with more nonces is not tested: where bounds leave a line open, exact tails take half a second at that size
(node/protocol/binomial.py), and so many nonces in fewer epochs tell as much."""

HistoryKey = tuple[Address, ModelId]


def extend(history: SampleHistory | None, key: HistoryKey, newest: SampleCount) -> SampleHistory:
    """Return `history` with the epoch's count, without what has become too old."""
    known = () if history is None else _kept(history.epochs, newest.epoch)
    return SampleHistory(*key, (*known, newest))


def is_beyond(history: SampleHistory) -> bool:
    """Whether the newest epoch and those before it show more mismatches than any honest participant's would."""
    newest = history.epochs[-1].epoch
    for window, parts in zip(WINDOWS_EPOCHS, PARTS, strict=True):
        counts = [count for count in history.epochs if count.epoch > newest - window]
        sampled = sum(count.sampled for count in counts)
        if sampled <= POOLED_NONCES_MAX and is_beyond_chance(
            sampled,
            sum(count.mismatches for count in counts),
            max(count.mismatch_per_million for count in counts),
            parts,
        ):
            return True
    return False


def still_known(histories: Mapping[HistoryKey, SampleHistory], epoch: EpochNumber) -> dict[HistoryKey, SampleHistory]:
    """Return what counts on in `epoch` of those who proved nothing in it: pausing wins no forgiveness but time."""
    kept = {}
    for key, history in histories.items():
        counts = _kept(history.epochs, epoch)
        if counts:
            kept[key] = SampleHistory(*key, counts)
    return kept


def _kept(counts: Sequence[SampleCount], newest: EpochNumber) -> tuple[SampleCount, ...]:
    """Return what is kept of earlier counts in the epoch `newest`: single ones, and blocks of older ones."""
    single: list[SampleCount] = []
    blocks: dict[int, SampleCount] = {}
    for count in counts:
        if newest - BLOCK_EPOCHS < count.epoch < newest:
            single.append(count)
        elif count.epoch < newest and newest - HISTORY_EPOCHS < _block_end(count.epoch):
            block = count.epoch // BLOCK_EPOCHS
            blocks[block] = _together(blocks[block], count) if block in blocks else count
    return (*(blocks[block] for block in sorted(blocks)), *single)


def _block_end(epoch: EpochNumber) -> int:
    """The last epoch of its block: what is kept follows from the epoch alone, not from when it was looked at."""
    return epoch // BLOCK_EPOCHS * BLOCK_EPOCHS + BLOCK_EPOCHS - 1


def _together(one: SampleCount, other: SampleCount) -> SampleCount:
    return SampleCount(
        max(one.epoch, other.epoch),
        one.sampled + other.sampled,
        one.mismatches + other.mismatches,
        max(one.mismatch_per_million, other.mismatch_per_million),
    )
