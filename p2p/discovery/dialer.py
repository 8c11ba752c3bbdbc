"""Connects to peers by the addresses in the book, and lets nothing of this process dial where strangers want it to.

The library adds every address that a peer claims to its own store and dials them all when a stream is asked for. So
the rule of `addresses.may_dial` is enforced where connections are opened: at the transport.
"""

from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any

import structlog
import trio
from libp2p.peer.id import ID
from libp2p.peer.peerinfo import PeerInfo
from libp2p.transport.exceptions import OpenConnectionError
from multiaddr import Multiaddr

from p2p.discovery.addresses import AddressError, PeerAddress, Surroundings, may_dial, parse_address
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
        guard_transports(host, self.allows)

    def allows(self, address: PeerAddress) -> bool:
        """Whether an address may be dialled: by the rule for strangers, or because the operator wrote it down."""
        return may_dial(address, self.surroundings) or any(
            known.origin is Origin.OPERATOR and _same_endpoint(known.address, address)
            for known in self._book.known(address.peer_id)
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
        try:
            # The library refuses a peer for a minute after a failed dial; when to try again is decided by our callers.
            self._host.get_network().unblock_peer(target)
            with trio.fail_after(DIAL_SECONDS_MAX):
                info = PeerInfo(target, [Multiaddr(address.transport) for address in addresses])
                await self._host.connect(info)
        except Exception as error:
            for address in addresses:
                self._book.failed(address)
            raise DialError(f"{', '.join(map(str, addresses))}: {_reason(error)}") from error
        for address in self._reached_by(peer_id, addresses):
            self._book.reached(address)

    def _reached_by(self, peer_id: str, addresses: Sequence[PeerAddress]) -> Iterable[PeerAddress]:
        """Which of the addresses led to the peer: the one with the connection's endpoint, or the only one tried."""
        endpoints = {remote_endpoint(connection) for connection in connections_of(self._host, peer_id)}
        found = [address for address in addresses if (address.ip, address.port) in endpoints]
        return found or (addresses if len(addresses) == 1 else ())


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


def _same_endpoint(one: PeerAddress, other: PeerAddress) -> bool:
    return (one.kind, one.host, one.port) == (other.kind, other.host, other.port)


def _reason(error: BaseException) -> str:
    """The innermost cause of a chain of library errors, in one line."""
    while error.__cause__ is not None:
        error = error.__cause__
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return " ".join(f"{type(error).__name__}: {error}".split())[:200]
