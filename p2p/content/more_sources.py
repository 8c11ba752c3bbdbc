"""Who may have a tree beyond the gateways of daemons: Bitswap peers, the operator's Kubo, public gateways.

Asked only when those gateways cannot give everything. Whatever fails here is logged and left out: a fetch goes on with
the sources it has.
"""

from collections.abc import Awaitable, Callable, Sequence

import structlog
import trio

from p2p.content.bitswap.exchange import Bitswap
from p2p.content.bitswap.source import BitswapSource
from p2p.content.cid import Cid
from p2p.content.kubo import Kubo, KuboSource
from p2p.content.source import BlockSource
from p2p.content.web_source import WebGatewaySource

log = structlog.get_logger(__name__)

BITSWAP_SOURCES_MAX = 16
"""Peers asked in one fetch: providers that were found first, then connected peers, who may have nothing of it."""
FIND_SECONDS_MAX = 15.0
"""For the search; who has not been found by then is not waited for."""
WEB_GATEWAYS_MAX = 8

FindPeers = Callable[[Cid], Awaitable[Sequence[str]]]
"""Search for peers that say they provide a content; return the ids of those that are connected now."""


FindGateways = Callable[[Sequence[str]], Awaitable[Sequence[BlockSource]]]
"""Ask connected peers for their content gateways; return those that have one as sources."""


class MoreSources:
    """Call it with the root of a tree to get sources."""

    def __init__(
        self,
        *,
        bitswap: Bitswap | None = None,
        find_peers: FindPeers | None = None,
        find_gateways: FindGateways | None = None,
        kubo: Kubo | None = None,
        web_gateways: Sequence[str] = (),
    ) -> None:
        self._bitswap = bitswap
        self._find_peers = find_peers
        self._find_gateways = find_gateways
        self._kubo = kubo
        self._web_gateways = tuple(web_gateways[:WEB_GATEWAYS_MAX])

    async def __call__(self, root: Cid) -> Sequence[BlockSource]:
        """Return sources, new for each call; whoever gets them closes them. Never raises."""
        found = await self._found(root)
        sources: list[BlockSource] = list(await self._gateways(found))
        if self._bitswap is not None:
            try:
                peers = dict.fromkeys((*found, *self._bitswap.speakers()))
                sources += [BitswapSource(self._bitswap, peer) for peer in list(peers)[:BITSWAP_SOURCES_MAX]]
            except Exception as error:
                log.error("bitswap peers are left out", reason=repr(error), exc_info=error)
        if self._kubo is not None:
            sources.append(KuboSource(self._kubo))
        for url in self._web_gateways:
            try:
                sources.append(WebGatewaySource(url))
            except Exception as error:
                log.error("a web gateway is left out", url=url, reason=repr(error), remedy="correct web_gateways")
        return sources

    async def _found(self, root: Cid) -> Sequence[str]:
        if self._find_peers is None:
            return ()
        with trio.move_on_after(FIND_SECONDS_MAX):
            try:
                return await self._find_peers(root)
            except Exception as error:  # the search has other things to survive than ours
                log.warning("providers could not be searched for", cid=str(root), reason=repr(error))
        return ()

    async def _gateways(self, peers: Sequence[str]) -> Sequence[BlockSource]:
        if self._find_gateways is None or not peers:
            return ()
        with trio.move_on_after(FIND_SECONDS_MAX):
            try:
                return await self._find_gateways(peers)
            except Exception as error:  # as above
                log.warning("providers could not be asked for their gateways", reason=repr(error))
        return ()
