"""What of discovery the settings switch on."""

from node.settings.schema import Settings
from node.settings.sections.node import Role
from p2p.discovery.addresses import surroundings_of
from p2p.discovery.service import DhtMode, DiscoveryOptions

PEERS_FILE_NAME = "peers.json"


def discovery_options(settings: Settings, network_id: str) -> DiscoveryOptions:
    """Return the options; a node that listens on loopback only has no local network to search and no router to ask."""
    p2p = settings.p2p
    on_loopback = surroundings_of(p2p.listen).loopback
    return DiscoveryOptions(
        dht=DhtMode(p2p.dht),
        dht_protocol=p2p.dht_protocol or f"/quern/{network_id}/kad/1.0.0",
        mdns=p2p.mdns and not on_loopback,
        relay_server=settings.has_role(Role.RELAY),
        relay_client=p2p.relay,
        reachability=p2p.autonat,
        upnp=p2p.upnp and not on_loopback,
        hole_punching=p2p.hole_punching,
        peers_file=settings.node.data_dir / PEERS_FILE_NAME,
    )
