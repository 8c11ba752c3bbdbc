"""A libp2p host that survives its peers: Noise and Yamux over TCP, every stream handler guarded.

Measured with libp2p 0.8.1: an exception in any stream handler ends the whole host, and SO_REUSEPORT lets a second
daemon share a port silently. Both are mended here.
"""

import errno
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import structlog
from libp2p import new_host
from libp2p.network.config import ConnectionConfig
from multiaddr import Multiaddr

from p2p.identity import Identity

log = structlog.get_logger(__name__)

CONNECTIONS_MAX = 300
CONNECTIONS_PER_PEER_MAX = 3
EVERYWHERE = "/ip4/0.0.0.0/"
DOCUMENTATION_ADDRESS = "192.0.2.1"
"""TEST-NET-1 (RFC 5737): routed like any other address, and belongs to nobody."""


class PortInUseError(Exception):
    """Another program listens on an address of ours; the message names it."""


@asynccontextmanager
async def open_host(identity: Identity, listen: Sequence[str], announce: Sequence[str]) -> AsyncIterator[Any]:
    """Run a host until the context is left. Raises PortInUseError."""
    for address in listen:
        _require_free(Multiaddr(address))
    host: Any = new_host(
        key_pair=identity.key_pair,
        connection_config=ConnectionConfig(
            min_connections=0,  # whom to dial is decided in peering.py, not by the library
            low_watermark=0,
            max_connections=CONNECTIONS_MAX,
            max_connections_per_peer=CONNECTIONS_PER_PEER_MAX,
        ),
        announce_addrs=[Multiaddr(address) for address in announce] or None,
    )
    guard_streams(host)
    async with host.run([Multiaddr(address) for address in listen]):
        try:
            yield host
        finally:
            await host.close()  # first: leaving `run` alone leaves sockets open


def guard_streams(host: Any) -> None:
    """Reset a stream whose handler raised, instead of ending the host."""
    network = host.get_network()
    handle = network.common_stream_handler

    async def guarded(stream: Any) -> None:
        try:
            await handle(stream)
        except Exception as error:
            log.info("a stream handler failed; the stream is reset", reason=repr(error))
            try:
                await stream.reset()
            except Exception as reset_error:  # the stream may be gone already, with its connection
                log.debug("the stream could not be reset", reason=repr(reset_error))

    network.set_stream_handler(guarded)


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


def _require_free(address: Multiaddr) -> None:
    """Try to bind without SO_REUSEPORT: the one way to see another listener."""
    port = int(address.value_for_protocol("tcp") or 0)
    if port == 0:
        return
    for protocol, family in (("ip4", socket.AF_INET), ("ip6", socket.AF_INET6)):
        try:
            ip = address.value_for_protocol(protocol)
        except Exception:  # noqa: S112 - the library has no common base of its errors; the address has another protocol
            continue
        with socket.socket(family) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((str(ip), port))
            except OSError as error:
                if error.errno == errno.EADDRINUSE:
                    raise PortInUseError(
                        f"{address} is in use by another program: stop it, or set another port in [p2p] listen"
                    ) from error
                raise PortInUseError(f"cannot listen on {address}: {error.strerror}") from error
