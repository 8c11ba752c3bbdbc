"""Forgets what the store keeps of epochs that nobody asks for any more: results, votes, audits, what was formed.

*Detail.* Each epoch leaves documents in the store, the contents of results the largest, and only the newest decide
anything. What is older can be fetched from others as long as anybody has it. Not forgotten is what money or a signature
hangs on: vouchers, receipts, and what was signed as a duty.
"""

from collections.abc import Iterator

import structlog
import trio

from node.ports import Chain, Store
from node.protocol.chain_state import EPOCHS_KEPT
from node.protocol.identifiers import EpochNumber
from node.protocol.stages import Stage
from node.services.timing import epochs_at

log = structlog.get_logger(__name__)

KINDS = ("result", "votes", "audits", "omissions", "unreceived", "formed", "objected")
"""Documents are named by one of these, the epoch, and what else there may be, with slashes between."""


class TidyingService:
    """Looks at the beginning of every epoch."""

    def __init__(self, chain: Chain, store: Store) -> None:
        self._chain = chain
        self._store = store

    async def run(self) -> None:
        """Forget documents of old epochs, one after the other; others have their turn between."""
        async for epoch in epochs_at(self._chain, Stage.SERVE, Stage.LOAD):
            first = first_kept(epoch, max(self._chain.state.results, default=None))
            old = [key for key in self._keys() if is_before(key, first)]
            for key in old:
                self._store.forget_document(key)
                await trio.lowlevel.checkpoint()
            if old:
                log.info("documents of old epochs are forgotten", before_epoch=first, documents=len(old))

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
