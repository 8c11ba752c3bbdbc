"""What a node does about omissions in an epoch: watches books as a payer, takes proofs of others as a member.

*Detail.* A member puts what it found, and what payers handed to it, into its own bundle (omission_choice.py). Who has no
weight has no bundle that counts: it hands what it found to members (omission_handing.py).
"""

from collections.abc import Callable

import structlog
import trio

from node.ports import Chain, Content, Network, Store
from node.protocol.identifiers import EpochNumber
from node.protocol.omission_choice import chosen_omissions, in_bundle_order
from node.protocol.records import EpochResult, Omission
from node.services.kept_omissions import KeptOmissions, forget_handed
from node.services.omission_desk import OmissionDesk
from node.services.omission_handing import OmissionHanding
from node.services.omission_watch import OmissionWatch
from node.services.presence import PresenceTable
from node.services.slicing import Slicer

log = structlog.get_logger(__name__)


class OmissionKeeping:
    """Omissions of one epoch after the other. Serves `omission/1`."""

    def __init__(
        self,
        chain: Chain,
        network: Network,
        content: Content,
        store: Store,
        presence: PresenceTable,
        slicer: Slicer,
        random_bytes: Callable[[int], bytes],
    ) -> None:
        self._chain = chain
        self._store = store
        self._random_bytes = random_bytes
        self._watch = OmissionWatch(chain, content, store, presence, slicer)
        self._desk = OmissionDesk(chain, network, random_bytes)
        self._handing = OmissionHanding(chain, network, random_bytes)
        self._kept: KeptOmissions | None = None
        """Of the present epoch."""

    async def run(self, epoch: EpochNumber, previous: EpochResult) -> None:
        """Do what is due in `epoch`, in which the books that `previous` knows are looked at. Until cancelled at most."""
        forget_handed(self._store, epoch)
        kept = self._kept = KeptOmissions(self._store, epoch)
        own = next((member for member in previous.group.members if member.participant == self._chain.account), None)
        has_bundle = own is not None and own.weight > 0
        if has_bundle:
            self._desk.open(previous, kept)
        is_searched = trio.Event()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._watch.hold, previous)
            if not has_bundle:
                nursery.start_soon(self._handing.run, previous, kept, is_searched)
            found = await self._watch.find(previous, [known.omission for known in kept.own], kept.add_own)
            is_searched.set()
        if found:
            log.warning(
                "executors did not book receipts of this node's answers as they must; the proofs are in this node's "
                "bundle, or, as it has no weight, handed to members: see `quern audit`",
                receipts=len(found),
                executors=len({omission.signed.receipt.executor for omission in found}),
                handed_over=sum(bool(known.told) for known in kept.own),
            )

    def of(self, epoch: EpochNumber) -> KeptOmissions:
        """Return what is known of an epoch."""
        if self._kept is not None and self._kept.epoch == epoch:
            return self._kept
        return KeptOmissions(self._store, epoch)

    def for_bundle(self, epoch: EpochNumber) -> tuple[Omission, ...]:
        """Return the proofs for the bundle of `epoch`, in its order; no more are taken after that."""
        kept = self.of(epoch)
        self._desk.close(epoch)
        own = [known.omission for known in kept.own]
        return in_bundle_order(chosen_omissions(own, kept.handed, self._random_bytes(32)))
