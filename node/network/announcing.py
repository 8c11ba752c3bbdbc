"""Announces in the DHT the content that this node keeps whole, and connects to others who say they have some."""

from collections.abc import Awaitable, Callable, Sequence

import structlog
import trio

from node.protocol.identifiers import Cid
from p2p.discovery.dht import PROVIDED_MAX, FoundProvider
from p2p.discovery.dialer import DialError
from p2p.discovery.service import Discovery

log = structlog.get_logger(__name__)

LOOK_SECONDS = 20.0
CHECKED_PER_ROUND = 8
"""Whether a tree is whole is found by walking it: a large store is taken up in portions."""
PROVIDERS_CONNECTED_MAX = 8


class ContentAnnouncer:
    """Keeps the announced contents equal to the pinned trees that are whole."""

    def __init__(
        self,
        discovery: Discovery,
        pinned: Callable[[], Sequence[Cid]],
        is_whole: Callable[[Cid], Awaitable[bool]],
    ) -> None:
        """`pinned` returns roots, the oldest first, and may block; the newest are announced where they are too many."""
        self._discovery = discovery
        self._pinned = pinned
        self._is_whole = is_whole
        self._announced: set[Cid] = set()
        self._looked_at: dict[Cid, float] = {}

    async def run(self) -> None:
        """Follow the pins until cancelled."""
        while True:
            await self.follow()
            await trio.sleep(LOOK_SECONDS)

    async def follow(self) -> None:
        """Announce what is new and whole, withdraw what is pinned no longer."""
        pinned = await trio.to_thread.run_sync(self._pinned)
        wanted = list(dict.fromkeys(reversed(pinned)))[:PROVIDED_MAX]
        for cid in self._announced - set(wanted):
            self._discovery.withdraw(cid)
            self._announced.discard(cid)
        self._looked_at = {cid: at for cid, at in self._looked_at.items() if cid in set(wanted) - self._announced}
        open_ones = [cid for cid in wanted if cid not in self._announced]
        open_ones.sort(key=lambda cid: self._looked_at.get(cid, 0.0))  # stable: the newest of those not looked at
        for cid in open_ones[:CHECKED_PER_ROUND]:
            self._looked_at[cid] = trio.current_time()
            if await self._is_whole(cid):
                self._discovery.provide(cid)
                self._announced.add(cid)
                log.info("a content is announced to the network", cid=cid)


async def connect_providers(discovery: Discovery, cid: str) -> list[str]:
    """Search for peers that say they provide a content; return the ids of those that are connected now."""
    connected: list[str] = []

    async def connect(provider: FoundProvider) -> None:
        try:
            await discovery.dialer.connect(provider.peer_id, provider.addresses)
        except DialError as error:
            log.debug("a provider cannot be reached", peer=provider.peer_id, reason=str(error))
        else:
            connected.append(provider.peer_id)

    found = await discovery.find_providers(cid, wanted=PROVIDERS_CONNECTED_MAX)
    async with trio.open_nursery() as nursery:
        for provider in found:
            nursery.start_soon(connect, provider)
    return connected
