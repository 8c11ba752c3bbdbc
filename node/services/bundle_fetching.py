"""Fetches the vote bundles of an epoch from whoever has them, and keeps what it got for others to fetch."""

from collections.abc import Callable, Mapping

import structlog
import trio

from node.ports import BadContentError, Content, ContentUnavailableError
from node.protocol.bundles import BundleError
from node.protocol.codec import SchemaError
from node.protocol.identifiers import Address, Cid
from node.protocol.records import VoteBundle
from node.services.judging import Judging
from node.services.keeping import keep_proof
from node.services.presence import PresenceTable
from node.services.slicing import Slicer

log = structlog.get_logger(__name__)

RETRY_SECONDS = 1.0
FETCHED_AT_ONCE = 32
"""A group has up to 512 members: more at once would only wait for the same link."""

BundlesRead = Mapping[tuple[Address, Cid], VoteBundle | None]
"""By validator and what it committed; None for a void bundle, which counts for nobody."""
NONE_READ: BundlesRead = {}


class BundleFetching:
    """The bundles of one epoch as they arrive. What was read stays in the content store, which serves it to others."""

    def __init__(
        self,
        content: Content,
        presence: PresenceTable,
        judging: Judging,
        committed: Mapping[Address, Cid],
        on_change: Callable[[], None],
        read: BundlesRead = NONE_READ,
    ) -> None:
        """`read` are bundles that were read, checked by the same `judging`, and kept before."""
        self._content = content
        self._presence = presence
        self._judging = judging
        self._committed = committed
        self._on_change = on_change
        self._slicer = Slicer()
        self.held = {
            validator: read[validator, cid] for validator, cid in committed.items() if (validator, cid) in read
        }
        """By validator; None for a void bundle, which counts for nobody."""

    @property
    def is_complete(self) -> bool:
        """Whether all bundles are here."""
        return self.held.keys() >= self._committed.keys()

    async def run(self) -> None:
        """Fetch until all are here, or cancelled."""
        limit = trio.CapacityLimiter(FETCHED_AT_ONCE)
        async with trio.open_nursery() as nursery:
            for validator, cid in self._committed.items():
                if validator not in self.held:
                    nursery.start_soon(self._fetch, validator, cid, limit)

    async def _fetch(self, validator: Address, cid: Cid, limit: trio.CapacityLimiter) -> None:
        bundle = await read_bundle(self._content, self._presence, self._judging, validator, cid, limit, self._slicer)
        self.held[validator] = bundle
        self._on_change()
        if bundle is not None:
            await keep_proof(self._content, cid, bundle.epoch)  # last: hundreds of them take a slow disk seconds


async def read_bundle(
    content: Content,
    presence: PresenceTable,
    judging: Judging,
    validator: Address,
    cid: Cid,
    limit: trio.CapacityLimiter,
    slicer: Slicer,
) -> VoteBundle | None:
    """Return what `validator` committed, checked; None if it is void. Tries until cancelled.

    `limit` is how many are held unread, and `slicer` reads one after the other: with all at once nobody else would have
    a turn, and their memory adds up.
    """
    bytes_max = judging.bundle_limits.bytes_max
    while True:
        try:
            async with limit:
                data = await content.read_bytes(cid, presence.providers(validator), limit_bytes=bytes_max)
                bundle = await slicer.run(judging.read(data))
            judging.check(bundle, validator)
        except ContentUnavailableError as error:
            log.info("a vote bundle is not to be had yet", validator=validator, reason=str(error))
            await trio.sleep(RETRY_SECONDS)
        except (BadContentError, SchemaError, BundleError) as error:
            log.warning("a vote bundle is void: none of its votes count", validator=validator, reason=str(error))
            return None
        else:
            return bundle
