"""Answers to challenge: those that decoys proved not to be the model's, and those that a user of this gateway doubts.

*Detail.* They are written down until a result has them judged, so that neither a restart loses one nor an epoch
without a result: to prove one costs a paid answer and an audit. What was taken for a bundle that was never written, or
of whose epoch there is no result, comes first in the next one. What a result left out, for want of room or because the
bundle was not committed or could not be read, waits behind all others, as nobody may want to judge it; after some
epochs it is given up. What a committed bundle left out, because a fault in it would have voided the votes, does not
come back to do the same in each epoch. What they are about is on the disk as long as judges may ask for it: the book
says when that is over.
"""

from collections.abc import Callable, Collection
from dataclasses import dataclass, replace

import structlog

from node.ports import Chain, Store
from node.protocol.audit_votes import CHALLENGE_EPOCHS_MAX, CHALLENGES_MAX
from node.protocol.chain_state import EPOCHS_KEPT as VOTES_KEPT_EPOCHS
from node.protocol.codec import SchemaError, from_bytes, to_bytes
from node.protocol.identifiers import EpochNumber, Hash32
from node.protocol.pricing import receipt_digest
from node.protocol.records import SignedReceipt, VoteBundle
from node.services.epochs import EpochBook
from node.services.evidence_keeping import EPOCHS_KEPT
from node.services.validating import votes_document

log = structlog.get_logger(__name__)

DOCUMENT = "challenges"
WAITING_MAX = CHALLENGES_MAX * CHALLENGE_EPOCHS_MAX
"""As many as bundles take until what waits longest is given up: its executor may be gone, and nobody wants to judge it.
About a kilobyte each, written anew with each one. The oldest goes: what it tells of is soonest too old to judge."""
NOT_COUNTED = EpochNumber(-1)

Judged = Callable[[EpochNumber, Collection[Hash32]], Collection[Hash32] | None]
"""Returns those of the answers that this node challenged in an epoch which the group judges by its result; None if it
has no result."""


@dataclass(frozen=True, slots=True)
class _Held:
    """An answer whose evidence was kept because it is challenged."""

    digest: Hash32
    since: EpochNumber = NOT_COUNTED
    """The epoch of the newest bundle that took it."""
    first: EpochNumber = NOT_COUNTED
    """That of the first one, or of the newest result when it was first seen to wait."""


@dataclass(frozen=True, slots=True)
class _Kept:
    """What is written down."""

    waiting: tuple[SignedReceipt, ...]
    """Oldest first."""
    taken: tuple[SignedReceipt, ...]
    """For the bundle of `epoch`."""
    epoch: EpochNumber
    held: tuple[_Held, ...] = ()


NOTHING = _Kept((), (), EpochNumber(0))


class ChallengeBook:
    """Keeps the newest WAITING_MAX in the store, and gives each to one bundle."""

    def __init__(self, store: Store, judged: Judged = lambda _, digests: digests) -> None:
        """`judged` is asked in a later epoch, and of the newest VOTES_KEPT_EPOCHS only."""
        self._store = store
        self._judged = judged
        self._kept = self._load()

    def add(self, signed: SignedReceipt) -> int:
        """Keep an answer's receipt, which both sides signed; return how many wait before it, -1 if it was here."""
        digest = receipt_digest(signed.receipt)
        if digest in {receipt_digest(known.receipt) for known in (*self._kept.waiting, *self._kept.taken)}:
            return -1
        waiting = (*self._kept.waiting, signed)[-WAITING_MAX:]
        held = (*(one for one in self._kept.held if one.digest != digest), _Held(digest))
        self._write(replace(self._kept, waiting=waiting, held=held))
        return len(waiting) - 1

    def take(self, epoch: EpochNumber) -> tuple[SignedReceipt, ...]:
        """Return the challenges for this node's bundle of `epoch`, in its order.

        They are the same until that is written; then, those for another one in its place.
        """
        kept = self._kept
        if kept.taken and kept.epoch != epoch:
            kept = self._settled(kept, epoch)
        elif kept.taken and not self._is_written(epoch):
            kept = _taken_back(kept)
        taken = kept.waiting[:CHALLENGES_MAX]
        unique = {receipt_digest(signed.receipt): signed for signed in taken}
        held = tuple(
            replace(one, since=epoch, first=epoch if one.first == NOT_COUNTED else one.first)
            if one.digest in unique
            else one
            for one in kept.held
        )
        kept = _Kept(kept.waiting[len(taken) :], (*kept.taken, *taken), epoch if taken else kept.epoch, held)
        if kept != self._kept:  # what an earlier bundle took is not to come back when its votes are forgotten
            self._write(kept)
        return tuple(unique[digest] for digest in sorted(unique))

    def _settled(self, kept: _Kept, epoch: EpochNumber) -> _Kept:
        """Return the book once what was taken for an earlier epoch than `epoch` is judged, waits again, or is given
        up."""
        if epoch - kept.epoch >= VOTES_KEPT_EPOCHS:
            return replace(kept, taken=())
        if not self._is_written(kept.epoch):
            return _taken_back(kept)
        told = self._told(kept)
        judged = self._judged(kept.epoch, {receipt_digest(signed.receipt) for signed in told})
        if judged is None:
            return _taken_back(replace(kept, taken=told))
        recent = {one.digest for one in kept.held if kept.epoch - one.first < CHALLENGE_EPOCHS_MAX}
        again = tuple(signed for signed in told if receipt_digest(signed.receipt) in recent.difference(judged))
        if again:
            log.info("challenged answers are not judged yet; they wait again", epoch=kept.epoch, answers=len(again))
        return replace(kept, waiting=(*kept.waiting, *again)[-WAITING_MAX:], taken=())

    def _told(self, kept: _Kept) -> tuple[SignedReceipt, ...]:
        """Return what was taken, but for what the bundle as it was committed does not have: a fault in that voided all
        votes."""
        try:
            bundle = from_bytes(VoteBundle, self._store.get_document(votes_document(kept.epoch)) or b"")
        except SchemaError:
            return kept.taken  # written by another version of the daemon
        told = {receipt_digest(signed.receipt) for signed in bundle.challenges}
        return tuple(signed for signed in kept.taken if receipt_digest(signed.receipt) in told)

    def held(self) -> frozenset[Hash32]:
        """Return those whose evidence is to be kept, as long as `over` does not name them."""
        return frozenset(one.digest for one in self._kept.held)

    def over(self, newest_result: EpochNumber) -> tuple[Hash32, ...]:
        """Return those whose evidence nobody asks for any more, until `forgotten` is told; what waited too long is
        given up."""
        waiting = {receipt_digest(signed.receipt) for signed in self._kept.waiting}
        held = tuple(
            replace(one, first=newest_result) if one.first == NOT_COUNTED and one.digest in waiting else one
            for one in self._kept.held
        )
        over = tuple(
            one.digest
            for one in held
            if (
                newest_result - one.first >= CHALLENGE_EPOCHS_MAX
                if one.digest in waiting
                else one.since == NOT_COUNTED or newest_result - one.since >= EPOCHS_KEPT
            )
        )
        left = tuple(signed for signed in self._kept.waiting if receipt_digest(signed.receipt) not in over)
        kept = replace(self._kept, waiting=left, held=held)
        if kept != self._kept:
            self._write(kept)
        return over

    def forgotten(self, digests: Collection[Hash32]) -> None:
        """Note that their evidence is gone."""
        if digests:
            self._write(replace(self._kept, held=tuple(one for one in self._kept.held if one.digest not in digests)))

    def _load(self) -> _Kept:
        data = self._store.get_document(DOCUMENT)
        if data is None:
            return NOTHING
        try:
            kept = from_bytes(_Kept, data)
        except SchemaError as error:
            log.warning("answers that were to be challenged cannot be read, and are not", reason=str(error))
            return NOTHING
        return kept if self._is_written(kept.epoch) else _taken_back(kept)

    def _is_written(self, epoch: EpochNumber) -> bool:
        """Whether there is a bundle of this node's of an epoch, committed or about to be."""
        return self._store.get_document(votes_document(epoch)) is not None

    def _write(self, kept: _Kept) -> None:
        self._store.put_document(DOCUMENT, to_bytes(kept))
        self._kept = kept


def judged_by_result(
    chain: Chain, epochs: EpochBook, epoch: EpochNumber, digests: Collection[Hash32]
) -> Collection[Hash32] | None:
    """Return which of the answers that this node challenged in `epoch` the group judges, as Judged has it.

    Not of those that it accuses of as well: if no draw fell on one, nobody reads it. Where the result is not here any
    more, all if the votes were committed: that is how it mostly goes.
    """
    if epoch not in chain.state.results:
        return None
    result = epochs.result(epoch)
    if result is None:
        return digests if chain.account in chain.state.vote_bundles.get(epoch, {}) else ()
    accused = {digest for outcome in result.audits for digest in outcome.accused}
    judged = {digest for outcome in result.audits for digest in outcome.challenged}
    return (judged - accused).intersection(digests)


def _taken_back(kept: _Kept) -> _Kept:
    """Return the book with what was taken for a bundle waiting again, before all others; of these the oldest go."""
    surplus = max(0, len(kept.taken) + len(kept.waiting) - WAITING_MAX)
    return replace(kept, waiting=(*kept.taken, *kept.waiting[surplus:])[:WAITING_MAX], taken=())
