"""The daemon's dealings with the rest of IPFS: Bitswap on its host, its operator's Kubo, public gateways."""

from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import structlog
import trio

from node.models.content import ContentAdapter
from p2p.content.bitswap.answers import NothingHeld
from p2p.content.bitswap.exchange import Bitswap, open_bitswap
from p2p.content.kubo import Kubo, KuboError
from p2p.content.more_sources import FindGateways, MoreSources
from p2p.content.provider_search import Connect, FindsProviders, ProviderSearch, RootAnnouncer
from p2p.standing import Standing

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class IpfsExchange:
    """What is open. Made by `open_ipfs_exchange`."""

    bitswap: Bitswap | None
    kubo: Kubo | None


@asynccontextmanager
async def open_ipfs_exchange(
    content: ContentAdapter,
    host: Any,
    standing: Standing,
    *,
    bitswap: bool,
    web_gateways: Sequence[str] = (),
    kubo_api: str = "",
    finder: FindsProviders | None = None,
    connect: Connect | None = None,
    find_gateways: FindGateways | None = None,
) -> AsyncIterator[IpfsExchange]:
    """Give `content`'s blocks over Bitswap and let its fetches ask there, until the context is left.

    With `finder` and `connect` peers are found by what they announce, and the roots pinned here are announced. Where
    the content gateway asks for a token, nothing is announced or given over Bitswap, which knows none.
    """
    find_peers = None if finder is None or connect is None else ProviderSearch(finder, connect)
    async with AsyncExitStack() as stack:
        held = NothingHeld() if content.exchange.token else content.store
        exchange = IpfsExchange(
            await stack.enter_async_context(open_bitswap(host, held, standing)) if bitswap else None,
            _open_kubo(kubo_api),
        )
        if exchange.kubo is not None:
            stack.callback(exchange.kubo.close)
        content.use_more_sources(
            MoreSources(
                bitswap=exchange.bitswap,
                find_peers=find_peers,
                find_gateways=find_gateways,
                kubo=exchange.kubo,
                web_gateways=web_gateways,
            )
        )
        async with trio.open_nursery() as nursery:
            if bitswap and finder is not None and not content.exchange.token:
                nursery.start_soon(RootAnnouncer(content.store, finder).run)
            yield exchange
            nursery.cancel_scope.cancel()


def _open_kubo(address: str) -> Kubo | None:
    if not address:
        return None
    try:
        return Kubo(address)
    except KuboError as error:  # the daemon's own duties do not depend on it
        log.error("kubo is left out", reason=str(error))
        return None
