"""What a node does about omissions in an epoch: watches books as a payer, takes proofs of others as a member.

*Detail.* A member puts what it found, and what payers handed to it, into its own bundle (omission_choice.py). Every
payer hands what it found to members (omission_handing.py): without weight it has no bundle that counts, and with
weight one with room for few proofs.
"""

from collections.abc import Callable, Sequence

import structlog
import trio

from node.ports import Chain, Content, Network, Store
from node.protocol.identifiers import Address, EpochNumber
from node.protocol.omission_choice import chosen_omissions, in_bundle_order
from node.protocol.records import EpochResult, Omission
from node.services.kept_omissions import KeptOmissions, forget_handed
from node.services.omission_desk import OmissionDesk
from node.services.omission_handing import OmissionHanding
from node.services.omission_watch import OmissionWatch
from node.services.presence import PresenceTable
from node.services.slicing import Slicer
from node.services.unreceived import MADE_UP_ROWS_MIN, Unreceived, UnreceivedBook, made_up

log = structlog.get_logger(__name__)


OnMadeUp = Callable[[Address, Sequence[Unreceived]], None]


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
        self.on_made_up: OnMadeUp | None = None
        """Told of executors that booked answers to this node's requests which they never gave; None without gateway."""

    async def run(self, epoch: EpochNumber, previous: EpochResult) -> None:
        """Do what is due in `epoch`, whose bundles prove what is not in the books that `previous` knows."""
        forget_handed(self._store, epoch)
        kept = self._kept = KeptOmissions(self._store, epoch)
        own = next((member for member in previous.group.members if member.participant == self._chain.account), None)
        if own is not None and own.weight > 0:
            self._desk.open(previous, kept)
        is_searched = trio.Event()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._watch.hold, previous)
            nursery.start_soon(self._handing.run, previous, kept, is_searched)
            nursery.start_soon(self._look_for_made_up, previous)
            found = await self._watch.find(previous, [known.omission for known in kept.own], kept.add_own)
            is_searched.set()
            if found:  # handing over may take until the bundles are made
                log.warning(
                    "executors did not book receipts of this node's answers as they must; the proofs are for this "
                    "node's votes, if it has weight, and for those of members that take them: see `quern audit`",
                    receipts=len(found),
                    executors=len({omission.signed.receipt.executor for omission in found}),
                )
        if found:
            told = sum(bool(known.told) for known in kept.own)
            log.info("proofs of what was not booked are handed over", proofs=told, found=len(found))

    async def _look_for_made_up(self, previous: EpochResult) -> None:
        """Find executors that booked answers which they never gave to this node."""
        if self.on_made_up is None:
            return
        unreceived = UnreceivedBook(self._store)
        asked = {
            executor: found
            for executor, found in unreceived.booked_in(previous.epoch).items()
            if len(found) >= MADE_UP_ROWS_MIN
        }
        wanted = {executor: [one.asking for one in found] for executor, found in asked.items()}
        async for executor, booked in self._watch.booked(previous, wanted):
            found = made_up(asked[executor], booked)
            if found:
                self.on_made_up(executor, found)
                unreceived.forget(found)

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
