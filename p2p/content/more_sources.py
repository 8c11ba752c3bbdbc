"""Who may have a tree beyond the gateways of daemons: Bitswap peers, the operator's Kubo, public gateways.

Asked only when those gateways cannot give everything. Whatever fails here is logged and left out: a fetch goes on with
the sources it has.
"""

import ssl
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

import httpx
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
FIND_SECONDS_MAX = 8.0
"""For the search; who has not been found by then is not waited for."""
FOUND_SECONDS = 60.0
NOT_FOUND_SECONDS = 15.0
"""A search is not repeated so soon: services ask again and again for what nobody has."""
FOUND_MAX = 256
"""Searches remembered."""
WEB_GATEWAYS_MAX = 8

FindPeers = Callable[[Cid], Awaitable[Sequence[str]]]
"""Search for peers that say they provide a content; return the ids of those that are connected now."""
FindGateways = Callable[[Sequence[str]], Awaitable[Sequence[BlockSource]]]
"""Ask connected peers for their content gateways; return those that have one as sources."""


@dataclass(slots=True)
class _Search:
    until: float
    peers: tuple[str, ...] = ()


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
        self._verify: ssl.SSLContext | None = None
        self._searches: OrderedDict[Cid, _Search] = OrderedDict()
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
                self._verify = self._verify or httpx.create_ssl_context()  # takes a while: once for all
                sources.append(WebGatewaySource(url, verify=self._verify))
            except Exception as error:
                log.error("a web gateway is left out", url=url, reason=repr(error), remedy="correct web_gateways")
        return sources

    async def _found(self, root: Cid) -> Sequence[str]:
        if self._find_peers is None:
            return ()
        search = self._searches.get(root)
        if search is None or trio.current_time() > search.until:
            search = self._searches[root] = _Search(trio.current_time() + NOT_FOUND_SECONDS)
            self._searches.move_to_end(root)
            if len(self._searches) > FOUND_MAX:
                self._searches.popitem(last=False)
            with trio.move_on_after(FIND_SECONDS_MAX):
                try:
                    search.peers = tuple(await self._find_peers(root))
                    search.until = trio.current_time() + (FOUND_SECONDS if search.peers else NOT_FOUND_SECONDS)
                except Exception as error:  # the search has other things to survive than ours
                    log.warning("providers could not be searched for", cid=str(root), reason=repr(error))
        return search.peers

    async def _gateways(self, peers: Sequence[str]) -> Sequence[BlockSource]:
        if self._find_gateways is None or not peers:
            return ()
        with trio.move_on_after(FIND_SECONDS_MAX):
            try:
                return await self._find_gateways(peers)
            except Exception as error:  # as above
                log.warning("providers could not be asked for their gateways", reason=repr(error))
        return ()
