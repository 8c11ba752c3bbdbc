"""What a connection of the libp2p host tells: whose it is, from where, through a relay or not, what the peer speaks."""

import ipaddress
from collections.abc import Iterator
from typing import Any

from libp2p.connection_types import ConnectionType
from libp2p.peer.id import ID

from p2p.discovery.addresses import AddressError, IpAddress, PeerAddress, parse_address

IDENTIFIED_ADDRESSES_MAX = 16


def connected_peers(host: Any) -> list[str]:
    """Peer ids of connected peers, sorted."""
    return sorted(str(peer) for peer in host.get_connected_peers())


def connections_of(host: Any, peer_id: str) -> Iterator[Any]:
    """The open connections with a peer."""
    for connection in host.get_network().get_connections(ID.from_base58(peer_id)):
        if not connection.is_closed:
            yield connection


def is_relayed(connection: Any) -> bool:
    """Whether a connection, or the multiplexed connection of a stream, goes through a relay."""
    kind = getattr(connection, "get_connection_type", lambda: None)()
    return kind is ConnectionType.RELAYED or "/p2p-circuit" in str(list(_transport_addresses(connection)))


def has_direct_connection(host: Any, peer_id: str) -> bool:
    """Whether any connection with the peer is direct."""
    return any(not is_relayed(connection) for connection in connections_of(host, peer_id))


def remote_endpoint(connection: Any) -> tuple[IpAddress, int] | None:
    """IP address and port of the other end as this machine sees them; None for a relayed connection."""
    if is_relayed(connection):
        return None
    try:
        endpoint = getattr(connection, "muxed_conn", connection).get_remote_address()
        return None if endpoint is None else (ipaddress.ip_address(endpoint[0]), int(endpoint[1]))
    except Exception:  # a connection that is closing answers with whatever its transport raises
        return None


def remote_ip(host: Any, peer_id: str) -> IpAddress | None:
    """IP address from which a peer is connected; None if it is not, or only through a relay."""
    for connection in connections_of(host, peer_id):
        endpoint = remote_endpoint(connection)
        if endpoint is not None:
            return endpoint[0]
    return None


def speaks(host: Any, peer_id: str, protocol: str) -> bool:
    """Whether a peer said, when it identified itself, that it speaks a protocol."""
    try:
        return protocol in host.get_peerstore().get_protocols(ID.from_base58(peer_id))
    except Exception:  # the library raises where it knows nothing of the peer
        return False


def identified_addresses(host: Any, peer_id: str) -> list[PeerAddress]:
    """Where a peer said, when it identified itself, that it can be dialled; what can't be read is left out."""
    addresses = []
    try:
        texts = [str(address) for address in host.get_peerstore().addrs(ID.from_base58(peer_id))]
    except Exception:  # the library raises where it knows nothing of the peer
        return []
    for text in texts[:IDENTIFIED_ADDRESSES_MAX]:
        try:
            addresses.append(parse_address(text, peer_id))
        except AddressError:
            continue  # of another transport
    return addresses


def _transport_addresses(connection: Any) -> Iterator[str]:
    try:
        yield from map(str, connection.get_transport_addresses())
    except Exception:  # as above
        return
