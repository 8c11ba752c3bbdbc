"""Answers to challenge: those that decoys proved not to be the model's, and those that a user of this gateway doubts.

*Detail.* They are written down until a vote bundle has them, so that a restart loses none: to prove one costs a
paid answer and an audit. What was taken for a bundle is taken back if that was never written or never committed: nobody
judges by it. What a committed bundle left out, because a fault in it would have voided the votes, does not come back to
do the same in each epoch. What they are about is on the disk as long as judges may ask for it: the book says when that
is over.
"""

from collections.abc import Callable, Collection
from dataclasses import dataclass, replace

import structlog

from node.ports import Store
from node.protocol.audit_votes import CHALLENGES_MAX
from node.protocol.chain_state import EPOCHS_KEPT as VOTES_KEPT_EPOCHS
from node.protocol.codec import SchemaError, from_bytes, to_bytes
from node.protocol.identifiers import EpochNumber, Hash32
from node.protocol.pricing import receipt_digest
from node.protocol.records import SignedReceipt
from node.services.evidence_keeping import EPOCHS_KEPT
from node.services.validating import votes_document

log = structlog.get_logger(__name__)

DOCUMENT = "challenges"
WAITING_MAX = 64
"""About a kilobyte each, written anew with each one. The oldest goes: what it tells of is soonest too old to judge."""
WAITING_EPOCHS_MAX = WAITING_MAX // CHALLENGES_MAX
"""As long as it takes if each epoch has a bundle of this node's. What waits longer is given up."""
NOT_COUNTED = EpochNumber(-1)


@dataclass(frozen=True, slots=True)
class _Held:
    """An answer whose evidence was kept because it is challenged."""

    digest: Hash32
    since: EpochNumber
    """The epoch of the bundle that took it; before, of the newest result when it was first seen to wait."""


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

    def __init__(self, store: Store, is_committed: Callable[[EpochNumber], bool] = lambda _: True) -> None:
        """`is_committed` tells whether this node's votes of an epoch are on the chain; it is asked in a later one, and
        of the newest VOTES_KEPT_EPOCHS only.
        """
        self._store = store
        self._is_committed = is_committed
        self._kept = self._load()

    def add(self, signed: SignedReceipt) -> int:
        """Keep an answer's receipt, which both sides signed; return how many wait before it, -1 if it was here."""
        digest = receipt_digest(signed.receipt)
        if digest in {receipt_digest(known.receipt) for known in (*self._kept.waiting, *self._kept.taken)}:
            return -1
        waiting = (*self._kept.waiting, signed)[-WAITING_MAX:]
        held = (*(one for one in self._kept.held if one.digest != digest), _Held(digest, NOT_COUNTED))
        self._write(replace(self._kept, waiting=waiting, held=held))
        return len(waiting) - 1

    def take(self, epoch: EpochNumber) -> tuple[SignedReceipt, ...]:
        """Return the challenges for this node's bundle of `epoch`, in its order; they are not given again."""
        waiting, before = self._kept.waiting, self._kept.taken
        is_of_earlier = self._kept.epoch != epoch and before != ()
        if is_of_earlier:
            is_known = epoch - self._kept.epoch < VOTES_KEPT_EPOCHS
            if is_known and not self._is_committed(self._kept.epoch):
                waiting = (*before, *waiting)[-WAITING_MAX:]
            before = ()
        taken = waiting[:CHALLENGES_MAX]
        if taken or is_of_earlier:  # what an earlier bundle took is not to come back when its votes are forgotten
            digests = {receipt_digest(signed.receipt) for signed in taken}
            held = tuple(replace(one, since=epoch) if one.digest in digests else one for one in self._kept.held)
            self._write(_Kept(waiting[len(taken) :], (*before, *taken), epoch, held))
        unique = {receipt_digest(signed.receipt): signed for signed in taken}
        return tuple(unique[digest] for digest in sorted(unique))

    def over(self, newest_result: EpochNumber) -> tuple[Hash32, ...]:
        """Return those whose evidence nobody asks for any more, until `forgotten` is told; what waited too long is
        given up."""
        waiting = {receipt_digest(signed.receipt) for signed in self._kept.waiting}
        held = tuple(
            replace(one, since=newest_result) if one.since == NOT_COUNTED and one.digest in waiting else one
            for one in self._kept.held
        )
        over = tuple(
            one.digest
            for one in held
            if one.since == NOT_COUNTED
            or newest_result - one.since >= (WAITING_EPOCHS_MAX if one.digest in waiting else EPOCHS_KEPT)
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
        if self._store.get_document(votes_document(kept.epoch)) is not None:
            return kept
        return replace(NOTHING, waiting=(*kept.taken, *kept.waiting)[-WAITING_MAX:], held=kept.held)

    def _write(self, kept: _Kept) -> None:
        self._store.put_document(DOCUMENT, to_bytes(kept))
        self._kept = kept
