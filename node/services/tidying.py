"""Forgets what is kept of epochs that nobody asks for any more: documents in the store, proofs on the disk.

*Detail.* Each epoch leaves documents in the store, the contents of results the largest, and only the newest decide
anything. What is older can be fetched from others as long as anybody has it. Not forgotten is what money or a signature
hangs on: vouchers, receipts, and what was signed as a duty.

Each epoch leaves proofs in the content store too, the vectors of others' batches the largest. They go when no verdict
on their epoch may be executed any more (keeping.py); contents of accepted results stay as long as documents do, and
all that the newest one needs as long as it decides, however old it is.
"""

from collections.abc import Collection, Iterator

import structlog
import trio

from node.ports import Chain, Content, Store
from node.protocol.chain_state import EPOCHS_KEPT
from node.protocol.identifiers import Cid, EpochNumber
from node.protocol.stages import Stage
from node.services.epochs import EpochBook
from node.services.keeping import PROOF_EPOCHS_KEPT
from node.services.timing import epochs_at

log = structlog.get_logger(__name__)

KINDS = ("result", "votes", "audits", "omissions", "unreceived", "formed", "objected")
"""Documents are named by one of these, the epoch, and what else there may be, with slashes between."""
MISSED_EPOCHS_MAX = 8
"""So many epochs may pass without a look, and vectors of others are removed all the same. What is left after longer is
removed when the content store's limit is reached."""


class TidyingService:
    """Looks at the beginning of every epoch."""

    def __init__(self, chain: Chain, store: Store, content: Content, epochs: EpochBook) -> None:
        self._chain = chain
        self._store = store
        self._content = content
        self._epochs = epochs

    async def run(self) -> None:
        """Forget documents of old epochs, one after the other, others having their turn between; then old proofs."""
        async for epoch in epochs_at(self._chain, Stage.SERVE, Stage.LOAD):
            first = first_kept(epoch, max(self._chain.state.results, default=None))
            old = [key for key in self._keys() if is_before(key, first)]
            for key in old:
                self._store.forget_document(key)
                await trio.lowlevel.checkpoint()
            if old:
                log.info("documents of old epochs are forgotten", before_epoch=first, documents=len(old))
            try:
                await self._keep_deciding(epoch)
                await self._content.forget(epoch, self._old_vectors(epoch))
            except OSError as error:
                log.error(
                    "proofs of old epochs could not be removed, and the disk may run full: see whether the disk of "
                    "[node] data_dir is full or failing; it is tried again in the next epoch",
                    epoch=epoch,
                    reason=str(error),
                )

    async def _keep_deciding(self, epoch: EpochNumber) -> None:
        """Keep the contents of accepted results for as long as documents are kept, and the books that are audited."""
        results = self._chain.state.results
        newest = max(results, default=None)
        if newest is None:
            return
        for number in sorted({newest, *(n for n in results if n >= epoch - PROOF_EPOCHS_KEPT)}):
            until = EpochNumber(max(number + EPOCHS_KEPT - 1, epoch))
            await self._content.keep(results[number].content_cid, until)
        for number in sorted(results)[-2:]:  # what the newest accuses of is held against the draws from the one before
            result = self._epochs.known_before(EpochNumber(number + 1), self._chain.state)
            if result is not None and number + PROOF_EPOCHS_KEPT <= epoch:  # else they are not the newest for ever
                for book in result.books:
                    await self._content.keep(book.book.content_cid, epoch)

    def _old_vectors(self, epoch: EpochNumber) -> Collection[Cid]:
        """Return the vectors that others committed in epochs whose proofs are needed no longer."""
        first, commits = epoch - PROOF_EPOCHS_KEPT, self._chain.state.poc_commits
        return {
            commit.vectors_cid
            for number in range(first - MISSED_EPOCHS_MAX, first)
            for commit in commits.get(EpochNumber(number), {}).values()
            if commit.participant != self._chain.account
        }

    def _keys(self) -> Iterator[str]:
        for kind in KINDS:
            yield from self._store.document_keys(f"{kind}/")


def first_kept(epoch: EpochNumber, newest_result: EpochNumber | None) -> int:
    """Return the first epoch whose documents stay. Where none was accepted for long, the last result still decides."""
    return (0 if newest_result is None else min(epoch, newest_result)) - EPOCHS_KEPT + 1


def is_before(key: str, epoch: int) -> bool:
    """Whether a document is of an epoch before `epoch`; one whose name tells of none stays."""
    number = key.split("/")[1]
    return number.isascii() and number.isdecimal() and int(number) < epoch
