"""Connects to peers by the addresses in the book, and lets nothing of this process dial where strangers want it to.

The library adds every address that a peer claims to its own store and dials them all when a stream is asked for. So
the rule of `addresses.may_dial` is enforced where connections are opened: at the transport.
"""

import ipaddress
import socket
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Any

import structlog
import trio
from libp2p.peer.id import ID
from libp2p.peer.peerinfo import PeerInfo
from libp2p.transport.exceptions import OpenConnectionError
from multiaddr import Multiaddr

from p2p.discovery.addresses import DNS_KINDS, AddressError, PeerAddress, Surroundings, may_dial, parse_address
from p2p.discovery.connections import connected_peers, connections_of, remote_endpoint
from p2p.discovery.peerbook import Origin, PeerBook

log = structlog.get_logger(__name__)

DIAL_SECONDS_MAX = 10.0
ADDRESSES_DIALLED_MAX = 4
"""The best known; a peer that is at none of them is somewhere else."""

RelayDial = Callable[[PeerAddress], Awaitable[None]]


class DialError(Exception):
    """A peer could not be reached; the message says at which addresses and why."""


class Dialer:
    """Opens connections."""

    def __init__(self, host: Any, book: PeerBook, surroundings: Surroundings) -> None:
        self._host = host
        self._book = book
        self.surroundings = surroundings
        self.relay_dial: RelayDial | None = None
        """Dials an address that leads through a relay; None where relays are not used."""
        self._permitted: Counter[tuple[str, str, int]] = Counter()
        """Endpoints dialled now whose addresses were allowed by name."""
        guard_transports(host, self.allows)

    def allows(self, address: PeerAddress) -> bool:
        """Whether an address may be dialled: by the rule for strangers, or because the operator wrote it down."""
        return (
            may_dial(address, self.surroundings)
            or _endpoint(address) in self._permitted
            or any(
                known.origin is Origin.OPERATOR and _endpoint(known.address) == _endpoint(address)
                for known in self._book.known(address.peer_id)
            )
        )

    def connected(self) -> list[str]:
        """Peer ids of connected peers, sorted."""
        return connected_peers(self._host)

    async def connect(self, peer_id: str, hints: Sequence[PeerAddress] = ()) -> None:
        """Connect to a peer by its addresses in the book and `hints`, direct ones first. Raises DialError."""
        if peer_id in self.connected():
            return
        known = dict.fromkeys((*self._book.addresses(peer_id), *hints))
        allowed = [address for address in known if address.peer_id == peer_id and self.allows(address)]
        if not allowed:
            raise DialError(f"{peer_id}: no address of it is known that may be dialled")
        reasons = []
        direct = [address for address in allowed if address.relay is None][:ADDRESSES_DIALLED_MAX]
        if direct:
            try:
                await self._connect_directly(peer_id, direct)
                return
            except DialError as error:
                reasons.append(str(error))
        for address in [address for address in allowed if address.relay is not None][:ADDRESSES_DIALLED_MAX]:
            if self.relay_dial is None:
                reasons.append(f"{address}: relays are not used")
                continue
            try:
                with trio.fail_after(DIAL_SECONDS_MAX):
                    await self.relay_dial(address)
            except Exception as error:
                self._book.failed(address)
                reasons.append(f"{address}: {_reason(error)}")
            else:
                self._book.reached(address)
                return
        raise DialError("; ".join(reasons))

    async def _connect_directly(self, peer_id: str, addresses: Sequence[PeerAddress]) -> None:
        target = ID.from_base58(peer_id)
        named: dict[PeerAddress, PeerAddress] = {}
        try:
            with trio.fail_after(DIAL_SECONDS_MAX):
                for address in addresses:
                    named.update((ip, address) for ip in await resolve(address))
                if not named:
                    raise DialError(f"{', '.join(map(str, addresses))}: the name leads to no IP address")
                self._permitted.update(map(_endpoint, named))
                # The library refuses a peer for a minute after a failed dial; when to try again is our callers' choice.
                self._host.get_network().unblock_peer(target)
                await self._host.connect(PeerInfo(target, [Multiaddr(ip.transport) for ip in named]))
        except Exception as error:
            for address in addresses:
                self._book.failed(address)
            if isinstance(error, DialError):
                raise
            raise DialError(f"{', '.join(map(str, addresses))}: {_reason(error)}") from error
        finally:
            self._permitted.subtract(map(_endpoint, named))
            self._permitted += Counter()  # drops what is zero
        endpoints = {remote_endpoint(connection) for connection in connections_of(self._host, peer_id)}
        found = {named[ip] for ip in named if (ip.ip, ip.port) in endpoints}
        for address in found or (addresses if len(addresses) == 1 else ()):
            self._book.reached(address)


async def resolve(address: PeerAddress) -> list[PeerAddress]:
    """The address by IP: itself, or what its name stands for on this machine. Empty if the name is unknown."""
    if address.kind not in DNS_KINDS:
        return [address]
    family = {"dns4": socket.AF_INET, "dns6": socket.AF_INET6}.get(address.kind, socket.AF_UNSPEC)
    try:
        found = await trio.socket.getaddrinfo(address.host, address.port, family, socket.SOCK_STREAM)
    except OSError as error:
        log.info("a name is not known", name=address.host, reason=str(error))
        return []
    hosts = dict.fromkeys(ipaddress.ip_address(str(sockaddr[0])) for *_kind, sockaddr in found)
    return [replace(address, kind=f"ip{ip.version}", host=str(ip)) for ip in list(hosts)[:ADDRESSES_DIALLED_MAX]]


def guard_transports(host: Any, allows: Callable[[PeerAddress], bool]) -> None:
    """Refuse, at the host's transports, every dial of an address that `allows` refuses."""
    for transport in host.get_network().transport_manager.get_transports():
        transport.dial = _guarded(transport.dial, allows)


def _guarded(dial: Callable[[Multiaddr], Awaitable[Any]], allows: Callable[[PeerAddress], bool]) -> Any:
    async def guarded(address: Multiaddr) -> Any:
        try:
            allowed = allows(parse_address(str(address)))
        except AddressError as error:
            raise OpenConnectionError(str(error)) from error
        if not allowed:
            log.debug("an address is not dialled: it leads where strangers must not send us", address=str(address))
            raise OpenConnectionError(f"{address} leads into a network that this node is not part of")
        return await dial(address)

    return guarded


def _endpoint(address: PeerAddress) -> tuple[str, str, int]:
    return address.kind, address.host, address.port


def _reason(error: BaseException) -> str:
    """The innermost cause of a chain of library errors, in one line."""
    while error.__cause__ is not None:
        error = error.__cause__
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return " ".join(f"{type(error).__name__}: {error}".split())[:200]
