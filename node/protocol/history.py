"""Samples of several epochs together: who makes up one nonce in a hundred is not caught in one epoch, but over a few.

Purpose: a sample of one epoch has to forgive a few mismatches, for honest machines show some too. Whoever stays just
below that line every epoch is far above it in the sum.

Detail: counted by participant and model, over all its ML nodes: a new name for a node is no new beginning. Evidence is
spent once: what led to a rejection is not counted again, or one bad night would cost ten epochs.
"""

from collections.abc import Mapping

from node.protocol.binomial import is_beyond_chance
from node.protocol.findings import SampleCount, SampleHistory
from node.protocol.identifiers import Address, EpochNumber, ModelId

WINDOWS_EPOCHS = (1, 3, 10)
"""Tested every epoch: all nodes together now, a cheat of a few days, and a patient one."""
HISTORY_EPOCHS = max(WINDOWS_EPOCHS)
POOLED_NONCES_MAX = 50_000
"""A window with more nonces is not tested: exact tails take a quarter of a second at that size, and so many nonces in
fewer epochs tell as much."""

HistoryKey = tuple[Address, ModelId]


def extend(history: SampleHistory | None, key: HistoryKey, newest: SampleCount) -> SampleHistory:
    """Return `history` with the epoch's count, without what has become too old."""
    known = () if history is None else history.epochs
    return SampleHistory(*key, (*(count for count in known if _is_kept(count.epoch, newest.epoch)), newest))


def is_beyond(history: SampleHistory) -> bool:
    """Whether the newest epoch and those before it show more mismatches than any honest participant's would."""
    newest = history.epochs[-1].epoch
    for window in WINDOWS_EPOCHS:
        counts = [count for count in history.epochs if count.epoch > newest - window]
        sampled = sum(count.sampled for count in counts)
        if sampled <= POOLED_NONCES_MAX and is_beyond_chance(
            sampled,
            sum(count.mismatches for count in counts),
            max(count.mismatch_per_million for count in counts),
        ):
            return True
    return False


def still_known(histories: Mapping[HistoryKey, SampleHistory], epoch: EpochNumber) -> dict[HistoryKey, SampleHistory]:
    """Return what counts on in `epoch` of those who proved nothing in it: pausing wins no forgiveness but time."""
    kept = {}
    for key, history in histories.items():
        counts = tuple(count for count in history.epochs if _is_kept(count.epoch, epoch))
        if counts:
            kept[key] = SampleHistory(*key, counts)
    return kept


def _is_kept(epoch: EpochNumber, newest: EpochNumber) -> bool:
    return newest - HISTORY_EPOCHS < epoch < newest
