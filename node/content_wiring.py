"""How the settings of content become its parts: limits and tokens of the gateway, what peers are told, whom to ask."""

from collections.abc import Sequence

from multiaddr import Multiaddr

from node.models.content import ContentAdapter, ContentExchange
from node.models.content_tokens import read_gateway_token, read_provider_tokens
from node.network.adapter import LibP2PNetwork
from node.network.gateway_lookup import GatewayLookup
from node.settings import Settings
from node.settings.sections.content import ContentSettings
from p2p.content.gateway.admission import GatewayLimits
from p2p.content.more_sources import FindGateways
from p2p.content.source import BlockSource
from p2p.standing import Standing

UNSPECIFIED_HOSTS = ("0.0.0.0", "::")  # noqa: S104 - compared with, not bound to


def content_exchange(settings: ContentSettings, standing: Standing) -> ContentExchange:
    """Return what the settings allow others to take from this node, and it from others."""
    return ContentExchange(
        limits=GatewayLimits(
            connections_max=settings.connections_max,
            connections_per_address_max=settings.connections_per_address_max,
            requests_per_second=settings.requests_per_second,
            bytes_per_second=settings.upload_bytes_per_second,
        ),
        token=read_gateway_token(settings.token_file),
        provider_tokens=read_provider_tokens(settings.provider_tokens_file),
        download_bytes_per_second=settings.download_bytes_per_second,
        standing=standing,
    )


def gateway_finder(network: LibP2PNetwork, content: ContentAdapter) -> FindGateways:
    """Have peers that the DHT names give by their content gateways, and tell them of ours if it is open."""
    lookup = GatewayLookup(network, 0 if content.exchange.token else content.port)

    async def find(peers: Sequence[str]) -> list[BlockSource]:
        return [content.source(provider) for provider in await lookup.find(peers)]

    return find


def content_host(settings: Settings, network: LibP2PNetwork) -> str:
    """Return the host peers are told for content: the setting, else the first address they can dial."""
    if settings.content.announce_host:
        return settings.content.announce_host
    for address in network.addresses:
        for protocol in ("ip4", "ip6", "dns4", "dns"):
            try:
                host = Multiaddr(address).value_for_protocol(protocol)
            except Exception:  # noqa: S112 - the library has no common base; the address has another protocol
                continue
            if host and host not in UNSPECIFIED_HOSTS:
                return str(host)
    return "127.0.0.1"
