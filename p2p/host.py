"""A libp2p host that survives its peers: Noise and our Yamux over TCP, bounded in everything a peer can make it hold.

What is wrong with the pinned libp2p is mended in p2p/repairs, a module per fault; who may come in is decided in
p2p/doorkeeper.py; what a peer has earned by its conduct is in p2p/standing.py.
"""

import errno
import socket
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import structlog
import trio
from libp2p.host.basic_host import BasicHost
from libp2p.network.config import ConnectionConfig
from libp2p.peer.id import ID
from libp2p.rcmgr import ResourceLimits, ResourceManager
from multiaddr import Multiaddr

from p2p.doorkeeper import CONNECTIONS_MAX, CONNECTIONS_PER_PEER_MAX, Doorkeeper
from p2p.identity import Identity
from p2p.repairs.handlers import guard_streams
from p2p.repairs.negotiation import NEGOTIATION_SECONDS_MAX, bound_negotiation
from p2p.repairs.peerstore import BoundedPeerStore
from p2p.repairs.swarm import HardenedSwarm
from p2p.repairs.tcp import HardenedTcp
from p2p.repairs.upgrader import HANDSHAKE_SECONDS_MAX, PinnedUpgrader
from p2p.standing import Standing
from p2p.yamux.budget import Budget
from p2p.yamux.connection import STREAMS_INBOUND_MAX, STREAMS_OUTBOUND_MAX

log = structlog.get_logger(__name__)

CLOSE_SECONDS_MAX = 5.0
"""For all goodbyes; then the sockets are closed without."""
EVERYWHERE = "/ip4/0.0.0.0/"
DOCUMENTATION_ADDRESS = "192.0.2.1"
"""TEST-NET-1 (RFC 5737): routed like any other address, and belongs to nobody."""


class PortInUseError(Exception):
    """Another program listens on an address of ours; the message names it."""


@asynccontextmanager
async def open_host(
    identity: Identity,
    listen: Sequence[str],
    announce: Sequence[str],
    *,
    standing: Standing | None = None,
    peerstore: Any | None = None,
) -> AsyncIterator[Any]:
    """Run a host until the context is left. Raises PortInUseError.

    Without `standing` the host keeps a book of conduct of its own, which ends with it; without `peerstore` it forgets
    whom it knew.
    """
    transport = HardenedTcp()
    known = peerstore if peerstore is not None else BoundedPeerStore()
    host = make_host(identity, announce, standing=standing or Standing(time.time), peerstore=known, transport=transport)
    failures: dict[str, OSError] = {}
    async with host.run([Multiaddr(address) for address in listen]):
        try:
            failures.update(transport.listen_failures)
            if not failures:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(host.get_network().disconnect_banned)
                    yield host
                    nursery.cancel_scope.cancel()
        finally:
            # First: leaving `run` alone leaves sockets open.
            with trio.CancelScope(shield=True), trio.move_on_after(CLOSE_SECONDS_MAX):
                await host.close()
    for address, failure in failures.items():
        raise _port_error(address, failure)


def make_host(
    identity: Identity, announce: Sequence[str], *, standing: Standing, peerstore: Any, transport: HardenedTcp
) -> Any:
    """Return a host that does not run yet."""
    own_id = ID.from_pubkey(identity.key_pair.public_key)
    swarm = HardenedSwarm(
        own_id,
        peerstore,
        PinnedUpgrader(identity.key_pair, standing, Budget()),
        transports=[transport],
        connection_config=ConnectionConfig(
            min_connections=0,  # whom to dial is decided in peering.py, not by the library
            low_watermark=0,
            high_watermark=CONNECTIONS_MAX,  # whom to send away is decided by the doorkeeper
            max_connections=CONNECTIONS_MAX,
            max_connections_per_peer=CONNECTIONS_PER_PEER_MAX,
            inbound_upgrade_timeout=2 * HANDSHAKE_SECONDS_MAX,
            outbound_upgrade_timeout=HANDSHAKE_SECONDS_MAX,
            inbound_stream_protocol_negotiation_timeout=NEGOTIATION_SECONDS_MAX,
            outbound_stream_protocol_negotiation_timeout=NEGOTIATION_SECONDS_MAX,
        ),
        standing=standing,
        doorkeeper=Doorkeeper(standing, time.monotonic),
    )
    peerstore.add_key_pair(own_id, identity.key_pair)
    host: Any = BasicHost(
        network=swarm,
        negotiate_timeout=NEGOTIATION_SECONDS_MAX,
        resource_manager=_resources(),
        announce_addrs=[Multiaddr(address) for address in announce] or None,
    )
    bound_negotiation(host)
    guard_streams(host)
    return host


def _resources() -> ResourceManager:
    """The library's own limits, as a second net: ours are tighter and are met first.

    Its circuit breaker and its degradation are off: after five refusals they refuse everybody, which is what an
    attacker would wish for. Its limit of streams makes all peers wait, so it must never be met.
    """
    streams = CONNECTIONS_MAX * (STREAMS_INBOUND_MAX + STREAMS_OUTBOUND_MAX)
    return ResourceManager(
        ResourceLimits(max_connections=2 * CONNECTIONS_MAX, max_streams=streams),
        enable_metrics=False,
        enable_connection_tracking=False,
        enable_circuit_breaker=False,
        enable_graceful_degradation=False,
        enable_rate_limiting=False,
    )


def _port_error(address: str, error: OSError) -> PortInUseError:
    if error.errno == errno.EADDRINUSE:
        return PortInUseError(f"{address} is in use by another program: stop it, or set another port in [p2p] listen")
    return PortInUseError(f"cannot listen on {address}: {error.strerror}")


def listening_addresses(host: Any) -> tuple[str, ...]:
    """Return the host's addresses, with peer id, at which it can be dialled.

    One that listens everywhere (0.0.0.0) is named by this machine's outward address: nobody can dial "everywhere".
    Behind a translating router that is still not enough; there [p2p] announce must name the outer address.
    """
    addresses = (str(address) for address in host.get_addrs())
    return tuple(dict.fromkeys(address.replace(EVERYWHERE, f"/ip4/{outward_address()}/") for address in addresses))


def outward_address() -> str:
    """Return the IPv4 address from which this machine reaches others; loopback if it reaches nobody."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((DOCUMENTATION_ADDRESS, 9))  # chooses a route; UDP sends nothing by it
        except OSError:
            return "127.0.0.1"
        return str(probe.getsockname()[0])
