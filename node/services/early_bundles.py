"""Reads the vote bundles of an epoch as they are committed: FORM, which may be short, has to read only what came last.

*Purpose.* Reading and checking the bundles of a large group takes twice as long as forming the result that follows
from them (benchmarks/formation.py). Everything they are checked by is known when VALIDATE begins, and bundles are
committed from then on.

*Detail.* From VOTE_EXCHANGE on, and of a member once its own votes are committed: what others commit holds up neither
its judging nor its votes. Nothing depends on it: FORM takes a bundle from here only if it would check it by the same
rules, and fetches the rest itself.
"""

import trio

from node.ports import Chain, Content
from node.protocol.identifiers import Address, BlockNumber, Cid, EpochNumber
from node.protocol.records import VoteBundle
from node.protocol.stages import Stage, first_block_of
from node.services.bundle_fetching import FETCHED_AT_ONCE, NONE_READ, BundlesRead, read_bundle
from node.services.epochs import EpochBook
from node.services.judging import Judging, judging_of
from node.services.keeping import keep_proof
from node.services.presence import PresenceTable
from node.services.slicing import Slicer
from node.services.timing import epochs_at, until_confirmed, window


class EarlyBundles:
    """What was read of the newest epoch's bundles before its FORM; as much memory as FORM itself needs for them."""

    def __init__(self, chain: Chain, content: Content, presence: PresenceTable, epochs: EpochBook) -> None:
        self._chain = chain
        self._content = content
        self._presence = presence
        self._epochs = epochs
        self._judging: Judging | None = None
        self._read: dict[tuple[Address, Cid], VoteBundle | None] = {}
        self._slicer = Slicer()

    def read_by(self, judging: Judging) -> BundlesRead:
        """Return the bundles that were read by the rules of `judging` and are kept in the content store."""
        return self._read if self._judging == judging else NONE_READ

    def forget(self) -> None:
        """Let go of what was read: the epoch is over."""
        self._judging, self._read = None, {}

    async def run(self) -> None:
        """Read in VOTE_EXCHANGE of every epoch."""
        async for epoch in epochs_at(self._chain, Stage.VOTE_EXCHANGE, Stage.VOTE_EXCHANGE):
            _, end = window(self._chain, epoch, Stage.VOTE_EXCHANGE, Stage.VOTE_EXCHANGE)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._read_as_committed, epoch)
                await until_confirmed(self._chain, end)  # when FORM begins to form
                nursery.cancel_scope.cancel()

    async def _read_as_committed(self, epoch: EpochNumber) -> None:
        """Read each bundle once it is committed, until cancelled."""
        begin = first_block_of(epoch, Stage.VALIDATE, self._chain.schedule)
        judging = await judging_of(self._chain, self._epochs, epoch, await self._chain.state_at(BlockNumber(begin - 1)))
        self._judging, self._read = judging, {}
        limit = trio.CapacityLimiter(FETCHED_AT_ONCE)
        asked: set[tuple[Address, Cid]] = set()
        async with trio.open_nursery() as nursery:
            async for _ in self._chain.heads():
                committed = self._chain.state.vote_bundles.get(epoch, {})
                if judging.weights.get(self._chain.account, 0) > 0 and self._chain.account not in committed:
                    continue
                for name in [name for name in committed.items() if name not in asked]:
                    asked.add(name)
                    nursery.start_soon(self._read_one, judging, *name, limit)

    async def _read_one(self, judging: Judging, validator: Address, cid: Cid, limit: trio.CapacityLimiter) -> None:
        bundle = await read_bundle(self._content, self._presence, judging, validator, cid, limit, self._slicer)
        if bundle is not None:
            await keep_proof(self._content, cid, bundle.epoch)  # first: FORM may cut this short, and does not keep it
        self._read[validator, cid] = bundle
