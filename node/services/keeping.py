"""Puts proofs into the content store for as long as rules may ask for them, and does not give up at a full disk."""

import errno
from collections.abc import Awaitable, Callable

import structlog
import trio

from node.ports import Content
from node.protocol.identifiers import Cid, EpochNumber
from node.services.punishing import VERDICT_EPOCHS_MAX

log = structlog.get_logger(__name__)

PROOF_EPOCHS_KEPT = VERDICT_EPOCHS_MAX
"""Epochs after its own through which a proof is kept: as long as a verdict on what it shows may be executed."""
RETRY_SECONDS = 5.0
DISK_IS_FULL = (errno.ENOSPC, errno.EDQUOT)


async def store_proof(
    content: Content,
    data: bytes,
    epoch: EpochNumber,
    what: str,
    make_room: Callable[[], Awaitable[None]] | None = None,
) -> Cid:
    """Store what proves something of `epoch`, and return its CID. `what` names it for the log.

    Where the disk has no room it tries again and again, until the operator made some: whoever can be too late cancels
    it. What `make_room` can remove of this node's own goes first, but only where the disk itself is full: neither the
    store's own limit nor a disk that fails gets any room of it, and a restart in between may need it.
    """
    while True:
        try:
            cid = await content.add_bytes(data)
            await content.keep(cid, EpochNumber(epoch + PROOF_EPOCHS_KEPT))
        except OSError as error:
            if make_room is not None and error.errno in DISK_IS_FULL:
                await make_room()
                make_room = None
                continue
            log.error(
                "a proof cannot be stored, and without it nothing is paid for it: make room on the disk of [node] "
                "data_dir, or raise [content] cache_bytes_max; it is tried again, and nothing is lost yet",
                what=what,
                epoch=epoch,
                proof_bytes=len(data),
                reason=str(error),
            )
            await trio.sleep(RETRY_SECONDS)
        else:
            return cid


async def keep_proof(content: Content, cid: Cid, epoch: EpochNumber) -> None:
    """Keep what was fetched as a proof of `epoch`, for others to fetch; a disk that refuses costs nothing else."""
    try:
        await content.keep(cid, EpochNumber(epoch + PROOF_EPOCHS_KEPT))
    except OSError as error:
        log.warning("a proof of others is not kept: it may have to be fetched again", cid=cid, reason=str(error))
