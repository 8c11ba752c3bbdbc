"""Finds peers that say they provide a content and connects to them; tells the network which contents this node has."""

from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any, Protocol

import structlog
import trio

from p2p.content.blockstore import BlockStore
from p2p.content.cid import Cid

log = structlog.get_logger(__name__)

PROVIDERS_WANTED = 8
"""Found for one content; a fetch asks so many at once."""
CONNECT_SECONDS_MAX = 8.0
"""For all of them together: whoever is slow to answer a dial would be slow to give blocks."""
ANNOUNCED_MAX = 256
"""Roots told to the network; half of what the DHT takes, for others of this node use it too."""
LOOK_SECONDS = 30.0
"""Between two looks at the pins: so late is a newly published content found."""


class FoundPeer(Protocol):
    """A peer that says it provides a content, and where it said it is."""

    @property
    def peer_id(self) -> str:
        """Who."""

    @property
    def addresses(self) -> tuple[Any, ...]:
        """Where, for `connect`."""


class FindsProviders(Protocol):
    """The DHT's part in this; p2p.discovery.service.Discovery."""

    async def find_providers(self, cid: str, *, wanted: int) -> Sequence[FoundPeer]:
        """Search for providers of a content, each once."""

    def provide(self, cid: str) -> None:
        """Announce from now on that this node provides a content."""

    def withdraw(self, cid: str) -> None:
        """Announce it no longer."""


Connect = Callable[[str, Sequence[Any]], Awaitable[None]]
"""Connect to a peer, at these addresses or others known. Raises if it is at none of them."""


class ProviderSearch:
    """Call it with the root of a tree to be connected to peers that may have it (FindPeers of more_sources.py)."""

    def __init__(self, finder: FindsProviders, connect: Connect) -> None:
        self._finder = finder
        self._connect = connect

    async def __call__(self, root: Cid) -> Sequence[str]:
        """Return the ids of found peers to which there is a connection, in the order they were found."""
        found = (await self._finder.find_providers(str(root), wanted=PROVIDERS_WANTED))[:PROVIDERS_WANTED]
        reached: set[str] = set()
        with trio.move_on_after(CONNECT_SECONDS_MAX):
            async with trio.open_nursery() as nursery:
                for peer in found:
                    nursery.start_soon(self._reach, peer, reached)
        return [peer.peer_id for peer in found if peer.peer_id in reached]

    async def _reach(self, peer: FoundPeer, reached: set[str]) -> None:
        try:
            await self._connect(peer.peer_id, peer.addresses)
        except Exception as error:  # strangers' addresses: most failures are theirs
            log.debug("a provider cannot be reached", peer=peer.peer_id, reason=str(error))
        else:
            reached.add(peer.peer_id)


class RootAnnouncer:
    """Tells the network the roots that this node keeps pinned."""

    def __init__(self, store: BlockStore, finder: FindsProviders) -> None:
        self._store = store
        self._finder = finder
        self._announced: frozenset[str] = frozenset()

    async def run(self) -> None:
        """Follow the pins, for ever."""
        while True:
            try:
                pins = await trio.to_thread.run_sync(self._store.pins)
                self.announce(str(pin.root) for pin in pins)
            except Exception as error:  # the store or the DHT is at fault; contents are still given to who asks
                log.warning("contents could not be announced", reason=repr(error))
            await trio.sleep(LOOK_SECONDS)

    def announce(self, roots: Iterable[str]) -> None:
        """Announce these and no others."""
        wanted = sorted(set(roots))
        if len(wanted) > ANNOUNCED_MAX:
            log.warning("not all contents are announced", roots=len(wanted), announced=ANNOUNCED_MAX)
        now = frozenset(wanted[:ANNOUNCED_MAX])
        for root in self._announced - now:
            self._finder.withdraw(root)
        for root in now - self._announced:
            self._finder.provide(root)
        self._announced = now
